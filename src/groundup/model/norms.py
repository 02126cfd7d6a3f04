"""What brings a vector to unit scale."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from groundup.config.model import ModelConfig
from groundup.kernels.elementwise import rms_norm


class RMSNorm(nn.Module):
    """Vectors brought to unit mean square, without weights (arXiv:1910.07467)."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same; over the last dimension."""
        return rms_norm(x, self.eps)


NORMS: dict[str, Callable[[int, ModelConfig], nn.Module]] = {
    "layernorm": lambda width, config: nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias),
    "rmsnorm": lambda width, config: RMSNorm(config.norm_eps),
}
"""What brings a vector of the given width to unit scale."""


def norm(config: ModelConfig, *, width: int | None = None, present: bool = True) -> nn.Module:
    """`config.norm` over vectors of `width` (default: the residual stream's), or nothing where it is not present."""
    return NORMS[config.norm](width or config.n_embd, config) if present else nn.Identity()
