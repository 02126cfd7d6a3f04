"""`cross_entropy.nll_and_grad_` in one Triton kernel: two reads of the logits and one write instead of ten passes.

Each program computes one row. The first sweep keeps the largest logit so far and the sum of exponentials relative to it
(Milakov and Gimelshein, arXiv:1805.02867); the second writes the gradient over the logits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_COLUMNS = 4096  # that a program loads at a time
WARPS = 8


def nll_and_grad_(
    logits: Tensor, targets: Tensor, vocab: int, softcap: float | None, ignore_index: int, gradient: bool
) -> Tensor:
    """Losses, (n,), of `logits`, (n, P), which with `gradient` are overwritten with their gradient."""
    n, columns = logits.shape
    nats = logits.new_empty(n, dtype=torch.float32)
    block = min(BLOCK_COLUMNS, triton.next_power_of_2(columns))
    with torch.cuda.device_of(logits):
        _row[(n,)](
            logits, targets, nats, logits.stride(0), targets.stride(0), softcap or 1.0, ignore_index,
            V=vocab, P=columns, CAPPED=bool(softcap), GRADIENT=gradient, BLOCK=block, num_warps=WARPS,
        )  # fmt: skip
    return nats


@triton.jit
def _logits(at, here, V: tl.constexpr, softcap, CAPPED: tl.constexpr):
    z = tl.load(at + here, mask=here < V, other=-float("inf")).to(tl.float32)
    if CAPPED:  # tanh y = 1 - 2 / (exp 2y + 1), which overflows to the right value
        z = softcap * (1 - 2 / (tl.exp(2 * z / softcap) + 1))
        z = tl.where(here < V, z, -float("inf"))
    return z


@triton.jit
def _row(
    logits, targets, nats, stride, target_stride, softcap, ignore_index,
    V: tl.constexpr, P: tl.constexpr, CAPPED: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # a row times its length may exceed 32 bits
    at = logits + row * stride
    target = tl.load(targets + row * target_stride)
    lane = tl.arange(0, BLOCK)
    if target == ignore_index:
        tl.store(nats + row, 0.0)
        if GRADIENT:
            for start in range(0, P, BLOCK):
                here = start + lane
                tl.store(at + here, tl.zeros([BLOCK], tl.float32).to(logits.dtype.element_ty), mask=here < P)
        return
    top, total, chosen = -float("inf"), 0.0, 0.0
    for start in range(0, V, BLOCK):
        here = start + lane
        z = _logits(at, here, V, softcap, CAPPED)
        higher = tl.maximum(top, tl.max(z, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(z - higher), 0)
        chosen += tl.sum(tl.where(here == target, z, 0.0), 0)
        top = higher
    tl.store(nats + row, tl.log(total) + top - chosen)
    if GRADIENT:
        for start in range(0, P, BLOCK):
            here = start + lane
            z = _logits(at, here, V, softcap, CAPPED)
            slope = tl.exp(z - top) / total - tl.where(here == target, 1.0, 0.0)
            if CAPPED:
                slope *= tl.where(here < V, 1 - (z / softcap) * (z / softcap), 0.0)
            tl.store(at + here, slope.to(logits.dtype.element_ty), mask=here < P)
