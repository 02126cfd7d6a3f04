"""Fused passes of modern's shape and torch's operations, forward and backward. `python -m bench.fused`

CPU time of one thread per element, as other programs on the machine would distort wall time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.measure import interleaved
from groundup.kernels import elementwise
from groundup.model.blocks import swiglu
from groundup.model.positions import Rotary

SHAPES = ((16, 128, 192, 512, 4), (8, 256, 384, 1024, 6))  # B, T, C, I, H
EPS = 1e-6

Work = Callable[[], Tensor]
Case = tuple[str, Sequence[Tensor], Work, Work]
"""Name, inputs, the fused pass, and torch's operations"""


def cases(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[Case]:
    """Each fused pass; `dtype` of what matrix products give: the residual stream and weights are fp32."""
    B, T, C, inner, H = shape
    D = C // H
    gate, up = (torch.randn(B, T, inner, dtype=dtype).requires_grad_() for _ in range(2))
    yield "SwiGLU", (gate, up), lambda: elementwise.swiglu(gate, up), lambda: swiglu(gate, up)

    x, weight = torch.randn(B, T, C).requires_grad_(), torch.ones(C).requires_grad_()
    yield (
        "RMS norm with weights", (x, weight), lambda: elementwise.scaled_rms_norm(x, weight, EPS),
        lambda: F.rms_norm(x, (C,), weight, EPS),
    )  # fmt: skip

    qkv, weights = torch.randn(B, T, 3 * C, dtype=dtype).requires_grad_(), torch.ones(2, D).requires_grad_()
    angles = torch.outer(torch.arange(T).float(), 10_000.0 ** -(torch.arange(0, D, 2) / D)).repeat(1, 2)  # (T, D)
    rotation = Rotary(angles.cos(), torch.cat([-angles.sin()[:, : D // 2], angles.sin()[:, D // 2 :]], 1))

    def plain() -> Tensor:
        q, k, v = (part.view(B, T, H, -1).transpose(1, 2) for part in qkv.chunk(3, dim=2))
        q, k = (
            rotation.apply(F.rms_norm(part, (D,), w.type_as(part), EPS))
            for part, w in zip((q, k), weights, strict=True)
        )
        return torch.stack([q, k, v])

    yield (
        "query and key norms, rotation", (qkv, weights),
        lambda: torch.stack(elementwise.qk_norm_rotary(qkv, weights, *rotation, H, EPS)), plain,
    )  # fmt: skip


def cpu_seconds(work: Work, inputs: Sequence[Tensor], dy: Tensor) -> float:
    """CPU time of this thread for a forward and a backward pass."""
    started = time.thread_time()
    torch.autograd.grad(work(), inputs, dy)
    return time.thread_time() - started


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.fused", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shown = Table(title="ns per element, forward and backward; the lowest of the rounds", title_justify="left")
    for heading in ("", "fused", "torch", "x torch"):
        shown.add_column(heading, justify="right" if heading else "left")
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for name, inputs, fused, plain in cases(shape, dtype):
                dy = torch.randn_like(fused())
                works = {"fused": fused, "torch": plain}
                rows = interleaved(
                    {way: partial(cpu_seconds, work, inputs, dy) for way, work in works.items()}, args.rounds
                )
                best = [1e9 * min(row.values) / inputs[0].numel() for row in rows]
                size = f"{name}, {shape[0]} x {shape[1]} x {inputs[0].size(-1)}, {str(dtype).removeprefix('torch.')}"
                shown.add_row(size, *(f"{ns:.2f}" for ns in best), f"{best[1] / best[0]:.2f}")
    Console(width=100).print(shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
