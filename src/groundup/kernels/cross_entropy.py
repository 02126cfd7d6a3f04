"""Cross-entropy of a linear head without all of its logits at once.

The logits of a batch are by far its largest tensor: N x P, where the features they come from are N x C. But the loss
of a row needs that row's logits alone, and so does its gradient: softmax minus one at the target. So rows are computed
in chunks: a chunk's logits, their losses, their gradient in place, and its products for the gradients of x and of the
weight (as in Liger, arXiv:2410.10989, section 3.2). The backward pass only multiplies by the incoming gradient.

Letters: N rows, C width, V vocabulary, P padded vocabulary.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from groundup.kernels.thresholds import chunk_rows, fits_unchunked

FP16_SUM_SCALE = 64  # divisor of sums in fp16; afterwards fp16 rounds numbers below 4e-6 to zero
RowKernel = Callable[[Tensor, Tensor, int, float | None, int, bool], Tensor]
"""`nll_and_grad_` or a kernel that computes the same."""


def softcap_and_mask(logits: Tensor, *, vocab: int, softcap: float | None) -> Tensor:
    """Logits from x·Wᵀ, (…, P): limited to ± `softcap` by a tanh (arXiv:2408.00118, section 2), padded ids at -inf.

    Padded ids are filled in place.
    """
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    with torch.no_grad():  # a padded id's gradient is zero by the softmax; recorded, this would copy all logits
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
    reduction: Literal["sum", "none"] = "sum",
) -> Tensor:
    """Cross-entropy of `targets`, (N,), in nats: x (N, C), weight (P, C) -> scalar, fp32 or fp64.

    With `reduction` none, (N,) without gradients, 0 for targets that are not scored.

    Products are computed in autocast's type, as in `F.linear`; losses and gradients of weights are summed in fp32.
    Targets equal to `ignore_index` are not scored. `chunk` is the number of rows at a time; default: as many as suit
    the device, all where the logits are few. In chunks, gradients are computed in the forward pass and scaled in place
    in the backward pass: one backward pass only, and no gradient of a gradient.
    """
    if reduction == "none":
        with torch.no_grad():
            return _chunked(x, weight, targets, vocab, softcap, ignore_index, chunk, _operand_dtype(x), False, False)[0]
    if chunk is None and fits_unchunked(len(x), len(weight)):
        logits = softcap_and_mask(F.linear(x, weight), vocab=vocab, softcap=softcap)
        logits = logits.to(_precise(logits.dtype))
        return F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="sum")
    wanted = [torch.is_grad_enabled() and t.requires_grad for t in (x, weight)]
    options = (vocab, softcap, ignore_index, chunk, _operand_dtype(x))
    loss: Tensor = torch.ops.groundup.linear_cross_entropy(x, weight, targets, *options, *wanted)[0]
    return loss


def _operand_dtype(x: Tensor) -> torch.dtype:
    """Type that a matrix product of `x` is computed in."""
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
    """Losses, (N,), and the gradients of their sum by x, (N, C), and by the weight, (P, C), empty unless wanted."""
    rows = chunk or chunk_rows(len(x), len(weight), x.device.type)
    make = torch.empty_like if len(x) else torch.zeros_like
    nats = x.new_empty(len(x), dtype=_precise(operand))
    dx = make(x) if want_x else x.new_empty(0)
    dw = make(weight, dtype=_precise(weight.dtype)) if want_weight else weight.new_empty(0)
    x, weight = x.to(operand), weight.to(operand)
    buffer = x.new_empty(min(rows, len(x)), len(weight))
    row_kernel = _triton_kernel(x.device) or nll_and_grad_
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, len(x), rows):
            here, at = x[start : start + rows], targets[start : start + rows]
            z = torch.mm(here, weight.t(), out=buffer[: len(here)])
            nats[start : start + rows] = row_kernel(z, at, vocab, softcap, ignore_index, want_x or want_weight)
            if want_x:  # from here on z is the gradient of the logits
                _product(dx[start : start + rows], z, weight, first=True)
            if want_weight:
                _product(dw, z.t(), here, first=start == 0, shrink=operand == torch.float16)
    return nats, dx, dw


def nll_and_grad_(
    logits: Tensor, targets: Tensor, vocab: int, softcap: float | None, ignore_index: int, gradient: bool
) -> Tensor:
    """Losses, (n,), of x·Wᵀ, (n, P), which with `gradient` is overwritten with the gradient of the losses' sum.

    Without, its content is undefined afterwards.
    """
    z = softcap_and_mask(logits.to(_precise(logits.dtype)), vocab=vocab, softcap=softcap)
    scored = (targets != ignore_index)[:, None]
    columns = targets[:, None].where(scored, 0)
    log_p = z.log_softmax(1)
    nats = -log_p.gather(1, columns).where(scored, 0)[:, 0]
    if gradient:
        grad = log_p.exp_().mul_(scored)
        grad.scatter_(1, columns, grad.gather(1, columns) - scored.to(z.dtype))
        if softcap:
            grad.addcmul_(grad, z.div_(softcap).square_(), value=-1)  # times the derivative: 1 - tanh²
            grad[:, vocab:] = 0  # 0 x -inf
        logits.copy_(grad)
    return nats


def _product(out: Tensor, a: Tensor, b: Tensor, *, first: bool, shrink: bool = False) -> None:
    """out = a·b if `first`, else out += a·b; `out` may be more precise than the operands.

    With `shrink`, the sum is computed scaled down: over many rows it could leave fp16's range, before the loss scaler
    could act.
    """
    if shrink:
        product = a @ (b / FP16_SUM_SCALE)
        out.copy_(product).mul_(FP16_SUM_SCALE) if first else out.add_(product, alpha=FP16_SUM_SCALE)
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
def _triton_kernel(device: torch.device) -> RowKernel | None:
    """The Triton kernel, on GPUs where it can be compiled: that takes Triton and a C compiler."""
    if device.type != "cuda":
        return None
    try:
        found = cast(RowKernel, import_module("groundup.kernels.cross_entropy_triton").nll_and_grad_)
        found(torch.zeros(1, 1, device=device), torch.zeros(1, dtype=torch.int64, device=device), 1, None, -1, True)
    except Exception:  # compilers fail in many ways, and PyTorch computes the same, only slower
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


# A custom operator, so that compilers do not look inside. It outlives this module, which may be imported again.
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
