"""Normalisation layers, and the table that names them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from groundup.config.model import ModelConfig


class RMSNorm(nn.Module):
    """x / √(mean(x²) + eps) over the last dimension, without weights (arXiv:1910.07467)."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return F.rms_norm(x, x.shape[-1:], eps=self.eps)


class ScaledRMSNorm(RMSNorm):
    """RMSNorm with a learned weight for each number (arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(eps)
        self.weight = nn.Parameter(torch.ones(width))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight.type_as(x), self.eps)


NORMS: dict[str, Callable[[int, ModelConfig], nn.Module]] = {
    "layernorm": lambda width, config: nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias),
    "rmsnorm": lambda width, config: RMSNorm(config.norm_eps),
    "rmsnorm_scaled": lambda width, config: ScaledRMSNorm(width, config.norm_eps),
}
"""Norms of vectors of a given width."""


def norm(config: ModelConfig, *, width: int | None = None, present: bool = True) -> nn.Module:
    """`config.norm` over vectors of `width` (default: `n_embd`); the identity unless `present`."""
    return NORMS[config.norm](width or config.n_embd, config) if present else nn.Identity()
