"""Activation checkpointing gives the same numbers, bit for bit, and keeps less."""

import copy
import pickle

import pytest
import torch
from torch import nn

from groundup.config.model import ModelConfig
from groundup.config.presets import GPT1_PARTS, MODERN_PARTS
from groundup.distributed.activation_checkpointing import apply_activation_checkpointing
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.utils.device import autocast

IDS = torch.randint(20, (4, 16), generator=torch.Generator().manual_seed(0))
PARTS = {"gpt2": {}, "gpt1": GPT1_PARTS, "modern": MODERN_PARTS}


KINDS = ("selective", "full")


def build(what: str, dropout=0.0, parts="gpt2") -> NextTokenLoss:
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 20}
    gpt = GPT(ModelConfig(**shape, dropout=dropout, **PARTS[parts])).init_weights(torch.Generator().manual_seed(0))
    use_fused_cpu_kernels(gpt)
    with torch.no_grad():  # some parts start at zero, where mistakes would not show
        for i, p in enumerate(gpt.parameters()):
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    apply_activation_checkpointing(gpt, what)
    return NextTokenLoss(gpt)


def gradients(loss_sum: nn.Module, call=None, precision="fp32") -> list[torch.Tensor]:
    """The loss, and the gradients of two micro-batches."""
    torch.manual_seed(1)
    loss_sum.train()
    for ids in IDS.chunk(2):
        with autocast(precision, torch.device("cpu"))():
            loss = (loss_sum if call is None else call)(ids, ids)
        loss.backward()
    return [loss.detach(), *(p.grad for p in loss_sum.parameters())]


def identical(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("what", KINDS)
def test_loss_and_gradients_are_bitwise_the_same(what, parts, dropout, precision):
    plain = gradients(build("none", dropout, parts), precision=precision)
    assert identical(gradients(build(what, dropout, parts), precision=precision), plain)
    if dropout:
        assert not identical(gradients(build("none", 0.0, parts), precision=precision), plain)


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.long), 0.3])
@pytest.mark.parametrize("what", KINDS)
def test_compiled_loss_and_gradients_are_bitwise_the_same(what, dropout):
    found = []
    for each in ("none", what):
        torch.compiler.reset()
        loss_sum = build(each, dropout)
        found.append(gradients(loss_sum, torch.compile(loss_sum, backend="aot_eager", dynamic=False)))
    torch.compiler.reset()
    assert identical(*found)


def calls(loss_sum: NextTokenLoss) -> list[int]:
    """Calls of the second block's feed-forward layer."""
    count = [0]
    loss_sum.gpt.h[1].mlp.register_forward_pre_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    return count


def test_only_training_with_gradients_recomputes():
    loss_sum = build("full")
    count = calls(loss_sum)
    gradients(loss_sum)
    assert count == [4]
    with torch.no_grad():
        loss_sum(IDS, IDS)
    assert count == [5]
    loss_sum.eval()
    loss_sum(IDS, IDS).backward()
    assert count == [6]


def test_selective_recomputes_nonlinearities_and_no_matrix_products():
    loss_sum = build("none")
    mlp, count = loss_sum.gpt.h[1].mlp, {"cheap": 0, "products": 0}

    def counting(x):
        count["cheap"] += 1
        return torch.relu(x)

    class Products(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            count["products"] += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
            return func(*args, **(kwargs or {}))

    mlp.activation = counting
    found = []
    for what in ("none", "selective"):
        apply_activation_checkpointing(loss_sum.gpt, what)
        count.update(cheap=0, products=0)
        with Products():
            loss_sum(IDS, IDS).backward()
        found.append(dict(count))
    assert [counts["cheap"] for counts in found] == [1, 2]
    assert found[0]["products"] == found[1]["products"] > 0


@pytest.mark.parametrize("what", KINDS)
def test_names_and_state_are_those_of_the_plain_model(what):
    plain, twice = build("none"), build(what)
    assert list(twice.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in twice.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert [name for name, _ in twice.named_modules()] == [name for name, _ in plain.named_modules()]
    plain.load_state_dict(twice.state_dict())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("what", KINDS)
def test_copies_compute_with_their_own_weights(what, how):
    loss_sum = build(what, 0.3)
    other = how(loss_sum)
    assert identical(gradients(other), gradients(loss_sum))
    with torch.no_grad():
        other.gpt.h[0].mlp.c_fc.weight.zero_()
    assert not identical(gradients(other)[:1], gradients(loss_sum)[:1])


def test_checkpointed_blocks_keep_less_between_the_passes():
    def kept(loss_sum) -> int:
        own, found = {p.untyped_storage().data_ptr() for p in loss_sum.parameters()}, {}

        def pack(t):
            if t.untyped_storage().data_ptr() not in own:
                found[t.untyped_storage().data_ptr()] = t
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss_sum(IDS, IDS)
        return sum(t.untyped_storage().nbytes() for t in found.values())

    assert kept(build("full")) < 0.5 * kept(build("none"))
    assert kept(build("selective")) < 0.75 * kept(build("none"))
