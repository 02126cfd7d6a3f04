"""The attention seam: at which positions tokens stand, and which tokens they attend to.

A model asks its context two questions and knows nothing else about training, caching or serving. `Causal` is for
training, `KVCache` for generation, `SharedPrefix` for evaluation where many continuations share one prompt.

Letters: B batch, H heads, T new tokens, S tokens attended to, D head width.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from groundup.kernels.thresholds import UNFUSED_ATTENTION_MAX_TOKENS


class Context(Protocol):
    """Positions and attention of the tokens of a forward pass."""

    def positions(self, n: int, device: torch.device) -> Tensor:
        """Positions of the next `n` tokens, (T,) or (B, T). Called once per forward pass, before any `attend`."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Attention: three (B, H, T, D) -> (B, H, T, D)."""


class Causal(Context):
    """Complete sequences from position 0 on: each token attends to itself and to those before it."""

    @override
    def positions(self, n: int, device: torch.device) -> Tensor:
        return torch.arange(n, device=device)

    @override
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        return causal_attention(q, k, v, dropout)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Each token attends to itself and to those before it: three (B, H, T, D) -> (B, H, T, D)."""
    q, k = q.type_as(v), k.type_as(v)  # under autocast a norm may have given fp32
    # torch's fused kernel for CPUs has no dropout, and in bf16 it is slower than two matrix products: 3 times at
    # T = 256, 7 at 64, equal at 1,024 (docs/lab-notes.md).
    short = q.size(2) <= UNFUSED_ATTENTION_MAX_TOKENS
    if q.device.type == "cpu" and (dropout or (q.dtype == torch.bfloat16 and short)):
        return unfused_attention(q, k, v, dropout)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


def unfused_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Causal attention as two batched matrix products with a softmax between: three (B, H, T, D) -> (B, H, T, D)."""
    B, H, T, D = q.shape
    future = torch.full((T, T), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    q, k, v = (part.reshape(B * H, T, D) for part in (q, k, v))
    scores = torch.baddbmm(future, q, k.mT, alpha=D**-0.5)  # (B·H, T, T)
    return torch.bmm(F.dropout(scores.softmax(-1), dropout), v).view(B, H, T, D)


class SharedPrefix(Context):
    """Several continuations of one prefix in one row: each token attends to the prefix and to its own continuation.

    The prefix is computed once, and every continuation gets what it would get alone.
    """

    def __init__(self, positions: Tensor, branch: Tensor) -> None:
        """`positions`, (B, T), and `branch`, (B, T): the continuation that a token belongs to.

        Branch 0 is the prefix, which comes first; negative numbers are padding.
        """
        self._positions = positions
        query, key = branch[:, :, None], branch[:, None, :]
        seen = ((key == 0) | (key == query)).tril()  # (B, T, T)
        self._mask = torch.zeros_like(seen, dtype=torch.float32).masked_fill_(~seen, -torch.inf)[:, None]

    @override
    def positions(self, n: int, device: torch.device) -> Tensor:
        return self._positions

    @override
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        self._mask = self._mask.type_as(v)
        return F.scaled_dot_product_attention(q.type_as(v), k.type_as(v), v, self._mask, dropout)


class KVCache(Context):
    """Keys and values of the tokens seen so far, so that a new token costs one step instead of a complete pass.

    Memory: 2 · n_layer · batch · n_embd · block_size numbers, allocated at the first token.
    """

    def __init__(self, n_layer: int, block_size: int) -> None:
        self.block_size = block_size
        self.length = 0  # cached tokens
        self.start = 0  # tokens cached before the current forward pass
        self._keys: list[Tensor | None] = [None] * n_layer  # each (B, H, block_size, D)
        self._values: list[Tensor | None] = [None] * n_layer

    @override
    def positions(self, n: int, device: torch.device) -> Tensor:
        """The next `n` positions, (T,); ValueError when they exceed `block_size`."""
        if self.length + n > self.block_size:
            raise ValueError(f"{self.length} cached and {n} new tokens exceed the context of {self.block_size}")
        self.start, self.length = self.length, self.length + n
        return torch.arange(self.start, self.length, device=device)

    @override
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Attention of the new tokens to all cached ones and, causally, to each other."""
        keys, values = self._extend(self._keys, layer, k), self._extend(self._values, layer, v)  # (B, H, S, D)
        if self.start == 0:
            return F.scaled_dot_product_attention(q, keys, values, dropout_p=dropout, is_causal=True)
        if q.size(2) == 1:  # the newest token attends to all
            return F.scaled_dot_product_attention(q, keys, values, dropout_p=dropout)
        # `is_causal` would align the mask to the first cached token, not to the first new one.
        mask = torch.ones(q.size(2), self.length, dtype=torch.bool, device=q.device).tril(self.start)  # (T, S)
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, dropout_p=dropout)

    def _extend(self, store: list[Tensor | None], layer: int, new: Tensor) -> Tensor:
        buffer = store[layer]
        if buffer is None:
            B, H, _, D = new.shape
            store[layer] = buffer = new.new_empty(B, H, self.block_size, D)
        buffer[:, :, self.start : self.length] = new
        return buffer[:, :, : self.length]
