"""Position embeddings: a learned vector per position, or queries and keys rotated by position (RoPE).

Letters: B batch, T time, C width (`n_embd`), H heads, D head width.
"""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.config.model import ModelConfig


class Rotation(Protocol):
    """Rotation of queries and keys by their positions."""

    def apply(self, x: Tensor) -> Tensor:
        """(B, H, T, D) -> (B, H, T, D)."""


class NoRotary:
    """No-op."""

    def apply(self, x: Tensor) -> Tensor:
        """Returns `x`."""
        return x


class Rotary(NamedTuple):
    """Rotation of each pair of numbers by an angle proportional to the position (arXiv:2104.09864)."""

    cos: Tensor  # (T, D) or (B, 1, T, D)
    sin: Tensor  # the same shape, one half negated

    def apply(self, x: Tensor) -> Tensor:
        """(B, H, T, D) -> (B, H, T, D); the pairs are the numbers i and i + D/2 of a head."""
        cos, sin = self.cos.type_as(x), self.sin.type_as(x)
        return x * cos + x.roll(x.size(-1) // 2, -1) * sin


class LearnedPositions(nn.Embedding):
    """One learned vector per position, added to the token's: GPT-1 and GPT-2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.block_size, config.n_embd)

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return x + self(positions)

    def rotation(self, positions: Tensor) -> Rotation:
        """No-op."""
        return NoRotary()


class RotaryPositions(nn.Module):
    """Rotary position embedding (RoPE, arXiv:2104.09864).

    The product of a rotated query and a rotated key depends on their distance alone. A pair consists of a number of a
    head's first half and one of its second half, rotated clockwise, as in nanochat.
    """

    direction = 1.0
    cos: Tensor  # (block_size, D), each angle twice
    sin: Tensor  # (block_size, D), one half negated

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.n_embd // config.n_head
        speeds = config.rotary_base ** -(torch.arange(0, D, 2, device="cpu").float() / D)  # radians per token, (D/2,)
        angles = torch.outer(torch.arange(config.block_size, device="cpu").float(), speeds)  # (block_size, D/2)
        self.register_buffer("cos", torch.cat([angles.cos(), angles.cos()], dim=1), persistent=False)
        sin = self.direction * angles.sin()
        self.register_buffer("sin", torch.cat([sin, -sin], dim=1), persistent=False)

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        """No-op."""
        return x

    def rotation(self, positions: Tensor) -> Rotation:
        """Rotation of tokens at `positions`, (T,) or (B, T)."""
        cos, sin = (F.embedding(positions, table) for table in (self.cos, self.sin))  # (T, D) or (B, T, D)
        return Rotary(cos, sin) if cos.dim() == 2 else Rotary(cos.unsqueeze(1), sin.unsqueeze(1))


class CounterclockwisePositions(RotaryPositions):
    """The same, rotated counterclockwise, as in the paper and in the Llama and Qwen3 families."""

    direction = -1.0


POSITIONS: dict[str, type[LearnedPositions] | type[RotaryPositions]] = {
    "learned": LearnedPositions,
    "rotary": RotaryPositions,
    "rotary_ccw": CounterclockwisePositions,
}
