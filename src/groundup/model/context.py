"""The seam between a model and the world: where tokens stand, and what they may attend to.

A model asks its context two questions and knows nothing else about training, caching or serving. `Causal` is
training's answer, `KVCache` generation's.

Letters: B batch, H heads, T new tokens, S tokens attended to, D head width.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Context(Protocol):
    """What attention needs to know about the tokens before and around it."""

    def positions(self, n: int, device: torch.device) -> Tensor:
        """Where the next `n` tokens stand: (T,) or (B, T). Asked once a forward pass, before any `attend`."""
        ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Mix values by attention: three (B, H, T, D) to one (B, H, T, D)."""
        ...


class Causal:
    """Whole sequences from their first token on: each token attends to itself and to those before it."""

    def positions(self, n: int, device: torch.device) -> Tensor:
        """0 … n-1, shape (T,)."""
        return torch.arange(n, device=device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Causal attention within the sequence."""
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


class KVCache:
    """Keys and values of the tokens seen so far, so that each new token costs one step and not a whole pass.

    Memory: 2 · n_layer · batch · n_embd · block_size numbers, allocated at the first token.
    """

    def __init__(self, n_layer: int, block_size: int) -> None:
        self.block_size = block_size
        self.length = 0  # tokens cached
        self._start = 0  # tokens cached before the forward pass under way
        self._keys: list[Tensor | None] = [None] * n_layer  # each (B, H, block_size, D)
        self._values: list[Tensor | None] = [None] * n_layer

    def positions(self, n: int, device: torch.device) -> Tensor:
        """The next n places, shape (T,). ValueError when they do not fit the context."""
        if self.length + n > self.block_size:
            raise ValueError(f"{self.length} cached and {n} new tokens exceed the context of {self.block_size}")
        self._start, self.length = self.length, self.length + n
        return torch.arange(self._start, self.length, device=device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Attention of the new tokens to all cached ones and, causally, to each other."""
        keys, values = self._extend(self._keys, layer, k), self._extend(self._values, layer, v)  # (B, H, S, D)
        if self._start == 0:
            return F.scaled_dot_product_attention(q, keys, values, dropout_p=dropout, is_causal=True)
        if q.size(2) == 1:  # the newest token sees everything
            return F.scaled_dot_product_attention(q, keys, values, dropout_p=dropout)
        # `is_causal` would align the mask to the first cached token, not to the first new one.
        mask = torch.ones(q.size(2), self.length, dtype=torch.bool, device=q.device).tril(self._start)  # (T, S)
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, dropout_p=dropout)

    def _extend(self, store: list[Tensor | None], layer: int, new: Tensor) -> Tensor:
        buffer = store[layer]
        if buffer is None:
            B, H, _, D = new.shape
            store[layer] = buffer = new.new_empty(B, H, self.block_size, D)
        buffer[:, :, self._start : self.length] = new
        return buffer[:, :, : self.length]
