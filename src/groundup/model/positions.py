"""How a model knows where a token stands: a learned vector for each place, or rotated queries and keys.

Letters: B batch, T time, C width (`n_embd`), H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.shape import ModelConfig

Rotation = Callable[[Tensor], Tensor]
"""What happens to queries and keys, (B, H, T, D) -> (B, H, T, D), before they meet."""


class LearnedPositions(nn.Embedding):
    """One learned vector a place, added to the token's: GPT-1 and GPT-2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.block_size, config.n_embd)

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return x + self(positions)

    def rotation(self, positions: Tensor) -> Rotation:
        """None at all."""
        return _unrotated


class RotaryPositions(nn.Module):
    """Pairs of numbers in each query and key are turned by an angle proportional to their place (arXiv:2104.09864).

    A product of a query and a key then depends on their distance alone. Paired are the two halves of a head, and the
    direction is clockwise, as in nanochat.
    """

    cos: Tensor  # (block_size, D), each angle twice
    sin: Tensor  # (block_size, D), the second half negated

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.n_embd // config.n_head
        speeds = config.rotary_base ** -(torch.arange(0, D, 2, device="cpu").float() / D)  # radians a token, (D/2,)
        angles = torch.outer(torch.arange(config.block_size, device="cpu").float(), speeds)  # (block_size, D/2)
        self.register_buffer("cos", torch.cat([angles.cos(), angles.cos()], dim=1), persistent=False)
        self.register_buffer("sin", torch.cat([angles.sin(), -angles.sin()], dim=1), persistent=False)

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        """Nothing is added to the embedding."""
        return x

    def rotation(self, positions: Tensor) -> Rotation:
        """The rotation of tokens that stand at `positions`, (T,) or (B, T)."""
        cos, sin = (F.embedding(positions, table).unsqueeze(-3) for table in (self.cos, self.sin))  # (…, 1, T, D)
        return partial(_rotated, cos=cos, sin=sin)


POSITIONS: dict[str, type[LearnedPositions] | type[RotaryPositions]] = {
    "learned": LearnedPositions,
    "rotary": RotaryPositions,
}


def _unrotated(x: Tensor) -> Tensor:
    return x


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.type_as(x), sin.type_as(x)
    return x * cos + x.roll(x.size(-1) // 2, -1) * sin
