"""Causal attention on CPUs, forward and backward: torch's fused kernel against separate matrix products.

python -m bench.attention
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.measure import seconds
from groundup.model import context

SHAPES = ((32, 4, 64, 32), (16, 4, 128, 32), (8, 4, 256, 32), (4, 12, 256, 64), (1, 12, 1024, 64))  # B, H, T, D
REPEATS = 15

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's fused kernel."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Separate matrix products, ours."""
    return context.unfused_attention(q, k, v, 0.0)


def milliseconds(kernel: Kernel, shape: tuple[int, ...], dtype: torch.dtype) -> float:
    """Median time of forward and backward."""
    B, H, T, D = shape
    q, k, v = (torch.randn(B, T, H, D).to(dtype).transpose(1, 2).detach().requires_grad_() for _ in range(3))
    gradient = torch.randn(B, H, T, D).to(dtype)
    return 1e3 * statistics.median(seconds(lambda: kernel(q, k, v).backward(gradient)) for _ in range(REPEATS))


def main() -> None:
    """Print a table."""
    torch.set_num_threads(2)
    print(f"{'B, H, T, D':<18}{'fused bf16':>12}{'fused fp32':>12}{'products bf16':>15}{'products fp32':>15}  ms")
    for shape in SHAPES:
        found = [
            milliseconds(kernel, shape, dtype)
            for kernel in (fused, products)
            for dtype in (torch.bfloat16, torch.float32)
        ]
        print(f"{', '.join(map(str, shape)):<18}{found[0]:>12.2f}{found[1]:>12.2f}{found[2]:>15.2f}{found[3]:>15.2f}")


if __name__ == "__main__":
    main()
