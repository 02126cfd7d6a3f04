"""Cross-entropy of a head's predictions without all of their logits at once.

The logits of a batch are by far its largest tensor: N x P, where the features they come from are N x C. But the loss
of a row needs that row's logits alone, and so does its gradient, softmax less one at the target. So rows go by in
chunks: logits of a chunk, their losses, their gradient written over them, and what that gives x and the weight (as in
Liger, arXiv:2410.10989, section 3.2). The backward pass has only to multiply by the gradient that comes in.

Letters: N rows, C width, V vocabulary, P padded vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from groundup.kernels.chunking import chunk_rows, whole

SHRUNK = 64  # times; what fp16 rounds to nothing afterwards is 4e-6
RowWork = Callable[[Tensor, Tensor, int, float | None, int, bool], Tensor]
"""`nll_and_grad_`, or what does the same"""


def softcap_and_mask(logits: Tensor, *, vocab: int, softcap: float | None) -> Tensor:
    """What x·Wᵀ lacks to be logits, (…, P): squashed into ± `softcap` (arXiv:2408.00118, section 2), pads at -inf.

    Pads are filled in place.
    """
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    with torch.no_grad():  # a pad's gradient is zero by the softmax; recorded, this would copy all the others
        logits[..., vocab:] = -torch.inf
    return logits


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    vocab: int,
    softcap: float | None = None,
    ignore_index: int = -1,
    chunk: int | None = None,
) -> Tensor:
    """Summed nats of `targets` (N,) under softmax(finished(x·Wᵀ)): x (N, C), weight (P, C) -> scalar, fp32 or fp64.

    Products are computed in autocast's type, as `F.linear` does, losses and gradients of weights added up in fp32.
    Targets equal to `ignore_index` are not scored. `chunk` rows at a time, or as many as the device likes; of few
    logits all. By chunks, gradients are computed here and now, where anybody will want them, and scaled in place on
    the way back: one backward pass only, and no gradient of a gradient.
    """
    if chunk is None and whole(len(x), len(weight)):
        logits = softcap_and_mask(F.linear(x, weight), vocab=vocab, softcap=softcap)
        logits = logits.to(_precise(logits.dtype))
        return F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="sum")
    wanted = [torch.is_grad_enabled() and t.requires_grad for t in (x, weight)]
    head = (vocab, softcap, ignore_index, chunk, _operand(x))
    loss: Tensor = torch.ops.groundup.linear_cross_entropy(x, weight, targets, *head, *wanted)[0]
    return loss


@torch.no_grad()
def linear_cross_entropy_rows(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    vocab: int,
    softcap: float | None = None,
    ignore_index: int = -1,
    chunk: int | None = None,
) -> Tensor:
    """The same for each row by itself, (N,), 0 where it is not scored; without gradients."""
    return _chunked(x, weight, targets, vocab, softcap, ignore_index, chunk, _operand(x), False, False)[0]


def _operand(x: Tensor) -> torch.dtype:
    """The type that a matrix product of `x` is computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _chunked(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    vocab: int,
    softcap: float | None,
    ignore_index: int,
    chunk: int | None,
    operand: torch.dtype,
    want_x: bool,
    want_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Chunk by chunk: losses (N,), gradients of their sum by x (N, C) and by the weight (P, C); empty if unwanted."""
    rows = chunk or chunk_rows(len(x), len(weight), x.device.type)
    make = torch.empty_like if len(x) else torch.zeros_like
    nats = x.new_empty(len(x), dtype=_precise(operand))
    dx = make(x) if want_x else x.new_empty(0)
    dw = make(weight, dtype=_precise(weight.dtype)) if want_weight else weight.new_empty(0)
    x, weight = x.to(operand), weight.to(operand)
    buffer = x.new_empty(min(rows, len(x)), len(weight))
    row_work = _row_work(x.device) or nll_and_grad_
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, len(x), rows):
            here, at = x[start : start + rows], targets[start : start + rows]
            z = torch.mm(here, weight.t(), out=buffer[: len(here)])
            nats[start : start + rows] = row_work(z, at, vocab, softcap, ignore_index, want_x or want_weight)
            if want_x:  # from here on z is the gradient of the logits
                _product(dx[start : start + rows], z, weight, first=True)
            if want_weight:
                _product(dw, z.t(), here, first=start == 0, shrink=operand == torch.float16)
    return nats, dx, dw


def nll_and_grad_(
    logits: Tensor, targets: Tensor, vocab: int, softcap: float | None, ignore_index: int, gradient: bool
) -> Tensor:
    """Losses (n,) of the products `logits` (n, P), which their own gradient takes the place of where it is wanted.

    Where it is not, they hold nothing of use afterwards.
    """
    z = softcap_and_mask(logits.to(_precise(logits.dtype)), vocab=vocab, softcap=softcap)
    scored = (targets != ignore_index)[:, None]
    places = targets[:, None].where(scored, 0)
    likely = z.log_softmax(1)
    nats = -likely.gather(1, places).where(scored, 0)[:, 0]
    if gradient:
        likely.exp_().mul_(scored)
        likely.scatter_(1, places, likely.gather(1, places) - scored.to(z.dtype))
        if softcap:
            likely.addcmul_(likely, z.div_(softcap).square_(), value=-1)  # times the slope: 1 - tanh²
            likely[:, vocab:] = 0  # 0 x -inf
        logits.copy_(likely)
    return nats


def _product(out: Tensor, a: Tensor, b: Tensor, *, first: bool, shrink: bool = False) -> None:
    """Put a·b into `out`, or unless it is the `first` add it to what is there; `out` may be the more precise.

    `shrink`: sums over many rows could leave fp16's range, which no scaled loss would mend: it scales later.
    """
    if shrink:
        product = a @ (b / SHRUNK)
        out.copy_(product).mul_(SHRUNK) if first else out.add_(product, alpha=SHRUNK)
        return
    if out.dtype == a.dtype:
        out.addmm_(a, b, beta=0 if first else 1)
    elif first:
        out.copy_(a @ b)
    else:
        out.add_(a @ b)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


@cache
def _row_work(device: torch.device) -> RowWork | None:
    """The kernel in Triton, on GPUs where it can be compiled: that takes Triton, and a C compiler."""
    if device.type != "cuda":
        return None
    try:
        found = cast(RowWork, import_module("groundup.kernels.cross_entropy_triton").nats_)
        found(torch.zeros(1, 1, device=device), torch.zeros(1, dtype=torch.int64, device=device), 1, None, -1, True)
    except Exception:  # compilers fail in every way there is, and PyTorch does the same, only slower
        return None
    return found


def _summed(x: Tensor, weight: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    nats, dx, dw = _chunked(x, weight, *rest)  # type: ignore[arg-type]
    return nats.sum(), dx, dw


def _shapes(x: Tensor, weight: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    *_, operand, want_x, want_weight = rest
    assert isinstance(operand, torch.dtype)
    dx = torch.empty_like(x) if want_x else x.new_empty(0)
    dw = torch.empty_like(weight, dtype=_precise(weight.dtype)) if want_weight else weight.new_empty(0)
    return x.new_empty((), dtype=_precise(operand)), dx, dw


def _save(ctx, inputs: tuple[object, ...], output: tuple[Tensor, ...]) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])
    ctx.wanted, ctx.dtype = inputs[-2:], cast(Tensor, inputs[1]).dtype


def _scaled(ctx, gradient: Tensor, *_: None) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def] # noqa: ANN001
    dx, dw = ctx.saved_tensors
    dx = dx.mul_(gradient) if ctx.wanted[0] else None
    dw = dw.mul_(gradient).to(ctx.dtype) if ctx.wanted[1] else None
    return dx, dw, *[None] * 8


# An op to torch, so that compilers leave it whole. It outlives this module: imported anew, that finds it there.
NAME = "groundup::linear_cross_entropy"
if not hasattr(torch.ops.groundup, "linear_cross_entropy"):
    torch.library.define(
        NAME,
        "(Tensor x, Tensor weight, Tensor targets, int vocab, float? softcap, int ignore_index, int? chunk, "
        "ScalarType operand, bool want_x, bool want_weight) -> (Tensor, Tensor, Tensor)",
    )
    torch.library.impl(NAME, "CompositeExplicitAutograd", _summed)
    torch.library.register_fake(NAME, _shapes)
    torch.library.register_autograd(NAME, _scaled, setup_context=_save)
