"""How a model knows where a token stands: a learned vector for each place, or rotated queries and keys.

Letters: B batch, T time, C width (`n_embd`), H heads, D head width.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.config.model import ModelConfig
from groundup.kernels.elementwise import apply_rotary, in_heads, rotary_qk_norm
from groundup.model.norms import RMSNorm

Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, (B, H, T, D) each."""


class Rotation(Protocol):
    """What happens to queries and keys before they meet."""

    def heads(self, qkv: Tensor, n_head: int, norm: nn.Module) -> Heads:
        """(B, T, 3C) in heads, queries and keys turned by their place and then normed."""
        ...


class NoRotary:
    """Nothing but the norm."""

    def heads(self, qkv: Tensor, n_head: int, norm: nn.Module) -> Heads:
        """(B, T, 3C) in heads."""
        q, k, v = in_heads(qkv, n_head)
        return norm(q), norm(k), v


class Rotated(NamedTuple):
    """Each pair of numbers by the angle of its place."""

    cos: Tensor  # (T, D) or (B, 1, T, D)
    sin: Tensor  # the same

    def heads(self, qkv: Tensor, n_head: int, norm: nn.Module) -> Heads:
        """(B, T, 3C) in heads."""
        if isinstance(norm, RMSNorm):
            return rotary_qk_norm(qkv, self.cos, self.sin, n_head, norm.eps)
        q, k, v = in_heads(qkv, n_head)
        return norm(apply_rotary(q, self.cos, self.sin)), norm(apply_rotary(k, self.cos, self.sin)), v


class LearnedPositions(nn.Embedding):
    """One learned vector a place, added to the token's: GPT-1 and GPT-2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.block_size, config.n_embd)

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return x + self(positions)

    def rotation(self, positions: Tensor) -> Rotation:
        """None at all."""
        return NoRotary()


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
        cos, sin = (F.embedding(positions, table) for table in (self.cos, self.sin))  # (T, D) or (B, T, D)
        return Rotated(cos, sin) if cos.dim() == 2 else Rotated(cos.unsqueeze(1), sin.unsqueeze(1))


POSITIONS: dict[str, type[LearnedPositions] | type[RotaryPositions]] = {
    "learned": LearnedPositions,
    "rotary": RotaryPositions,
}
