"""Chunked cross-entropy against torch's cross-entropy from all logits."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groundup.kernels import thresholds
from groundup.kernels.cross_entropy import _summed, linear_cross_entropy, softcap_and_mask
from groundup.kernels.thresholds import chunk_rows, fits_unchunked

N, C, V, P = 22, 8, 37, 48


def parts(dtype=torch.float32, ignored=(3, 4, 21), rows=N):
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, C, generator=draw, dtype=torch.float64).to(dtype) for n in (rows, P))
    targets = torch.randint(V, (rows,), generator=draw)
    targets[[i for i in ignored if i < rows]] = -1
    return x.requires_grad_(), weight.requires_grad_(), targets


def reference(x, weight, targets, softcap=None, reduction="sum"):
    """torch's cross-entropy, from all logits."""
    logits = F.linear(x, weight[:V])
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction=reduction)


def with_gradients(loss, x, weight):
    x.grad = weight.grad = None
    (loss * 0.3).backward()
    return loss.detach(), x.grad, weight.grad


@pytest.mark.parametrize("chunk", [None, 1, 5, 11, 22, 100])
@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_give_the_loss_and_gradients_of_all_logits(chunk, softcap, dtype):
    x, weight, targets = parts(dtype)
    wanted = with_gradients(reference(x, weight, targets, softcap), x, weight)
    found = with_gradients(linear_cross_entropy(x, weight, targets, vocab=V, softcap=softcap, chunk=chunk), x, weight)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype == dtype
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert not found[2][V:].any(), "padded ids have no gradient"
    rows = linear_cross_entropy(x, weight, targets, vocab=V, softcap=softcap, chunk=chunk, reduction="none")
    assert not rows.requires_grad
    torch.testing.assert_close(rows, reference(x, weight, targets, softcap, "none").detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_computes_products_in_half_precision_and_sums_in_fp32(half, softcap):
    x, weight, targets = parts()
    wanted = with_gradients(reference(x, weight, targets, softcap), x, weight)
    with torch.autocast("cpu", half):
        loss = linear_cross_entropy(x, weight, targets, vocab=V, softcap=softcap, chunk=5)
    assert not torch.equal(loss, wanted[0])
    for a, b in zip(with_gradients(loss, x, weight), wanted, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


def test_fp16_sums_over_many_rows_may_exceed_its_range():
    x, weight = torch.full((900, C), 200.0, requires_grad=True), torch.zeros(P, C, requires_grad=True)
    targets = torch.zeros(900, dtype=torch.int64)
    wanted = with_gradients(reference(x, weight, targets), x, weight)
    with torch.autocast("cpu", torch.float16):
        loss = linear_cross_entropy(x, weight, targets, vocab=V, chunk=450)
    assert wanted[2].abs().max() / 0.3 > 65_504 * 2
    for a, b in zip(with_gradients(loss, x, weight), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=0.1)


def test_gradients_have_the_types_of_their_inputs():
    x, weight, targets = parts(torch.bfloat16)
    loss, dx, dw = with_gradients(linear_cross_entropy(x, weight, targets, vocab=V, chunk=5), x, weight)
    assert (loss.dtype, dx.dtype, dw.dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)
    torch.testing.assert_close(loss, reference(x, weight, targets).detach(), rtol=0.02, atol=0)


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("rows", [0, N])
def test_without_scored_targets_all_is_zero(rows, chunk):
    x, weight, targets = parts(ignored=range(N), rows=rows)
    for tensor in with_gradients(linear_cross_entropy(x, weight, targets, vocab=V, chunk=chunk), x, weight):
        assert not tensor.any()


def test_extreme_logits_neither_overflow_nor_underflow():
    x, weight, targets = parts()
    with torch.no_grad():
        x.mul_(300)
    wanted = with_gradients(reference(x, weight, targets), x, weight)
    for a, b in zip(
        with_gradients(linear_cross_entropy(x, weight, targets, vocab=V, chunk=5), x, weight), wanted, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("chunk", [None, 5])
def test_gradients_of_a_tied_embedding_are_summed(chunk):
    _, weight, targets = parts()
    ids = torch.arange(N) % V
    found = []
    for loss in (reference, lambda *three: linear_cross_entropy(*three, vocab=V, chunk=chunk)):
        weight.grad = None
        loss(F.embedding(ids, weight) * 2, weight, targets).backward()
        found.append(weight.grad)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


class LogitCounter(TorchDispatchMode):
    """Counts the logits of the largest tensor of them, and matrix products."""

    def __init__(self):
        super().__init__()
        self.most, self.products = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "groundup":  # look inside the operator
            with self:
                return _summed(*args)
        found = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and tensor.size()[-1:] == (P,) != tensor.size() != (C, P):
                self.most = max(self.most, tensor.numel())
        return found


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_at_most_one_chunk_of_logits_exists(softcap):
    x, weight, targets = parts()
    with LogitCounter() as watch:
        linear_cross_entropy(x, weight, targets, vocab=V, softcap=softcap, chunk=5).backward()
    assert watch.most == 5 * P
    assert watch.products == 5 * 3
    with LogitCounter() as watch:
        linear_cross_entropy(x, weight, targets, vocab=V, chunk=5, reduction="none")
    assert watch.most == 5 * P
    assert watch.products == 5


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_computed_only_where_needed(mode):
    x, weight, targets = parts()
    wanted = reference(x, weight, targets).item()
    with mode(), LogitCounter() as watch:
        assert linear_cross_entropy(x, weight, targets, vocab=V, chunk=5).item() == pytest.approx(wanted, rel=1e-5)
    assert watch.products == 5
    with LogitCounter() as watch:
        linear_cross_entropy(x, weight.detach(), targets, vocab=V, chunk=5).backward()
        assert watch.products == 5 * 2
        linear_cross_entropy(x.detach(), weight, targets, vocab=V, chunk=5).backward()
        assert watch.products == 5 * 4


def test_a_second_backward_pass_raises():
    x, weight, targets = parts()
    loss = linear_cross_entropy(x, weight, targets, vocab=V, chunk=5)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compilers_treat_it_as_one_operation(backend, monkeypatch):
    monkeypatch.setattr(thresholds, "MAX_UNCHUNKED_BYTES", 0)
    monkeypatch.setattr(thresholds, "CPU_CHUNK_BYTES", 0)
    monkeypatch.setattr(thresholds, "MIN_CHUNK_ROWS", 5)
    x, weight, targets = parts()

    def loss(x, weight):
        with torch.autocast("cpu", torch.bfloat16):
            return linear_cross_entropy(x * 1.5, weight, targets, vocab=V, softcap=4.0)

    wanted = with_gradients(loss(x, weight), x, weight)
    torch.compiler.reset()
    with LogitCounter() as watch:
        linear_cross_entropy(x, weight, targets, vocab=V)
    assert watch.most == 5 * P, "chunked although it is small"
    found = torch.compile(loss, backend=backend, fullgraph=True)(x, weight)
    for a, b in zip(with_gradients(found, x, weight), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    torch.compiler.reset()


def test_padded_ids_are_filled_in_place():
    logits = torch.zeros(2, P, requires_grad=True) + 0
    assert softcap_and_mask(logits, vocab=V, softcap=None) is logits
    assert logits[:, V:].eq(-torch.inf).all()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("columns", [64, 8_064, 50_304, 10**7])
@pytest.mark.parametrize("rows", [0, 1, 300, 1_024, 16_384])
def test_chunks_are_equal_and_few(rows, columns, device):
    size = chunk_rows(rows, columns, device)
    pieces = [min(size, rows - start) for start in range(0, rows, size)]
    assert sum(pieces) == rows
    assert size >= 1
    assert max(pieces, default=0) - min(pieces, default=0) < max(2, len(pieces))
    room = thresholds.CPU_CHUNK_BYTES if device == "cpu" else thresholds.GPU_CHUNK_BYTES
    assert size <= thresholds.MIN_CHUNK_ROWS or 4 * size * columns <= room
    assert len(pieces) <= 1 or size > min(thresholds.MIN_CHUNK_ROWS, rows) // 2
    assert not fits_unchunked(rows, columns) or len(pieces) <= 1
