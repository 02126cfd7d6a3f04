"""Muon: momentum whose every singular value is brought near one before it moves a matrix.

Keller Jordan et al., kellerjordan.github.io/posts/muon. `torch.optim.Muon` computes the same, one matrix at a time and
always in bf16, which a CPU without bf16 units emulates some 300 times slower than fp32. Here all matrices of a shape
move together, in the arithmetic that the rest of the training uses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from groundup.optim.sharded import dealt, split_as

A, B, C = 3.4445, -4.7750, 2.0315  # of the quintic a·x + b·x³ + c·x⁵: steepest at 0, within 0.7 … 1.2 near 1
ITERATIONS = 5
EPS = 1e-7


def orthogonalize(x: Tensor) -> Tensor:
    """(k, n, m) -> k matrices with singular values near 1: five Newton-Schulz iterations, in the type of `x`."""
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)  # the largest singular value is now at most 1
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for parameters that are matrices.

    `dtype` is the arithmetic of the iterations: bf16 suffices, where it is fast.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float = 0.02, momentum: float, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for parameters in shapes.values():
                self._move(parameters, group["lr"], group["weight_decay"], group["momentum"])

    def _move(self, parameters: list[Tensor], lr: float, weight_decay: float, momentum: float) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        moments = [self.state[p]["momentum_buffer"] for p in parameters]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_lerp_(moments, gradients, 1.0 - momentum)
        ahead = torch.stack(gradients).lerp_(torch.stack(moments), momentum)  # (matrices, n, m)
        directions = split_as(orthogonalize(dealt(ahead).to(self.dtype)).to(ahead.dtype), ahead)
        n, m = parameters[0].shape
        torch._foreach_mul_(parameters, 1.0 - lr * weight_decay)
        torch._foreach_add_(parameters, list(directions), alpha=-lr * max(1.0, n / m) ** 0.5)
