"""Muon optimizer: updates are momentum with all singular values near one.

Keller Jordan et al., kellerjordan.github.io/posts/muon. `torch.optim.Muon` computes the same, one matrix at a time and
always in bf16, which a CPU without bf16 units emulates some 300 times slower than fp32. Here all matrices of a shape
are updated together, in a precision of the caller's choice.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from groundup.distributed.dtensor import to_layout_of, to_matrix_shards

POLYNOMIALS: dict[str, list[tuple[float, float, float]]] = {
    "newton_schulz": [(3.4445, -4.7750, 2.0315)] * 5,  # steepest at 0, within 0.7 … 1.2 near 1
    "polar_express": [
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115966, 0.5518191394370137),
    ],
}
"""Coefficients (a, b, c) of a·x + b·x³ + c·x⁵, per iteration: always the same, or each optimal after the previous ones
(arXiv:2505.16932, the first three), which is two fifths less work."""
EPS = 1e-7
NORM_MARGIN = 1.01  # so that rounding leaves no singular value above 1, where polar_express diverges


def orthogonalize(x: Tensor, method: str = "newton_schulz") -> Tensor:
    """k matrices with singular values near 1, by iterated polynomials: (k, n, m) -> (k, n, m), in the type of `x`."""
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    margin = NORM_MARGIN if method == "polar_express" else 1.0
    x = x / (margin * x.norm(dim=(-2, -1), keepdim=True)).clamp(min=EPS)  # the largest singular value is at most 1
    for a, b, c in POLYNOMIALS[method]:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for parameters that are matrices.

    `dtype` is the precision of the iterations: bf16 suffices, where it is fast. `method` is a key of `POLYNOMIALS`.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float = 0.02, momentum: float, dtype: torch.dtype = torch.float32,
        method: str = "newton_schulz",
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "weight_decay": 0.0, "momentum": momentum})
        self.dtype, self.method = dtype, method

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for parameters in shapes.values():
                self._update(parameters, group["lr"], group["weight_decay"], group["momentum"])

    def _update(self, parameters: list[Tensor], lr: float, weight_decay: float, momentum: float) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_lerp_(buffers, gradients, 1.0 - momentum)
        nesterov = torch.stack(gradients).lerp_(torch.stack(buffers), momentum)  # (matrices, n, m)
        directions = orthogonalize(to_matrix_shards(nesterov).to(self.dtype), self.method).to(nesterov.dtype)
        directions = to_layout_of(directions, nesterov)
        n, m = parameters[0].shape
        torch._foreach_mul_(parameters, 1.0 - lr * weight_decay)
        torch._foreach_add_(parameters, list(directions), alpha=-lr * max(1.0, n / m) ** 0.5)
