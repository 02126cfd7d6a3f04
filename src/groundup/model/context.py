"""The seam between a model and the world: where tokens stand, and what they may attend to.

A model asks its context three questions and knows nothing else about training, caching or serving. `Causal` is
training's answer, `KVCache` generation's, `SharedPrefix` that of questions with several endings.

Letters: B batch, H heads, T new tokens, S tokens attended to, D head width.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

NO_TOKEN = -1  # in place of the ids before a sequence's first
UNFUSED_MAX_TOKENS = 512  # tokens; up to here the scores fit a core's cache, and plain products win on CPUs


class Context(Protocol):
    """What attention needs to know about the tokens before and around it."""

    def positions(self, n: int, device: torch.device) -> Tensor:
        """Where the next `n` tokens stand: (T,) or (B, T). Asked once a forward pass, before any `attend`."""
        ...

    def previous_ids(self, ids: Tensor, n: int) -> Tensor:
        """The ids 1 … n places before each token of `ids`, (B, T) -> (n, B, T), `NO_TOKEN` where none is.

        Asked once a forward pass at most, after `positions`.
        """
        ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Mix values by attention: three (B, H, T, D) to one (B, H, T, D)."""
        ...


class Causal:
    """Whole sequences from their first token on: each token attends to itself and to those before it."""

    def positions(self, n: int, device: torch.device) -> Tensor:
        """0 … n-1, shape (T,)."""
        return torch.arange(n, device=device)

    def previous_ids(self, ids: Tensor, n: int) -> Tensor:
        """Those before it in the sequence."""
        return _shifted(ids, n, ids.size(1))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Causal attention within the sequence."""
        return causal_attention(q, k, v, dropout)


def _shifted(ids: Tensor, n: int, last: int) -> Tensor:
    """The ids 1 … n places before each of the last `last` of `ids`: (B, S) -> (n, B, last)."""
    windows = F.pad(ids, (n, 0), value=NO_TOKEN).unfold(1, ids.size(1), 1)  # (B, n + 1, S); row j is n - j places back
    return windows[:, :n, -last:].flip(1).transpose(0, 1)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Each token attends to itself and to those before it: three (B, H, T, D) to one."""
    q, k = q.type_as(v), k.type_as(v)  # under autocast a norm may have given fp32
    # torch's fused kernel for CPUs has no dropout, and in bf16 it is slower than the products spelt out: 3 times at
    # T = 256, 7 at 64, equal at 1,024 (docs/lab-notes.md).
    if q.device.type == "cpu" and (dropout or (q.dtype == torch.bfloat16 and q.size(2) <= UNFUSED_MAX_TOKENS)):
        return unfused_attention(q, k, v, dropout)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


def unfused_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """The same as two batched products with a softmax between."""
    B, H, T, D = q.shape
    future = torch.full((T, T), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    q, k, v = (part.reshape(B * H, T, D) for part in (q, k, v))
    scores = torch.baddbmm(future, q, k.mT, alpha=D**-0.5)  # (B·H, T, T)
    return torch.bmm(F.dropout(scores.softmax(-1), dropout), v).view(B, H, T, D)


class SharedPrefix:
    """Several continuations of one beginning in one row: each sees the beginning and itself, and not the others.

    A beginning that many endings share is then computed once, and none of them can tell that it is not alone.
    """

    def __init__(self, positions: Tensor, branch: Tensor) -> None:
        """`positions` (B, T) says where each token stands, `branch` (B, T) to which continuation it belongs; 0 is the
        beginning, which comes first, and a negative number is padding."""
        self._positions = positions
        mine, theirs = branch[:, :, None], branch[:, None, :]
        seen = ((theirs == 0) | (theirs == mine)).tril()  # (B, T, T)
        places = torch.arange(1, branch.size(1) + 1, device=branch.device)
        self._before = (seen.tril(-1) * places).amax(-1)  # (B, T): one past each token's predecessor; 0 is nothing
        self._mask = torch.zeros_like(seen, dtype=torch.float32).masked_fill_(~seen, -torch.inf)[:, None]

    def positions(self, n: int, device: torch.device) -> Tensor:
        """As given, (B, T)."""
        return self._positions

    def previous_ids(self, ids: Tensor, n: int) -> Tensor:
        """Those before it on the path from the beginning."""
        found = [ids]
        for _ in range(n):
            found.append(F.pad(found[-1], (1, 0), value=NO_TOKEN).gather(1, self._before))
        return torch.stack(found[1:])

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Attention along each path from the beginning to the end of a continuation."""
        self._mask = self._mask.type_as(v)
        return F.scaled_dot_product_attention(q.type_as(v), k.type_as(v), v, self._mask, dropout)


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
        self._ids: Tensor | None = None  # (B, length), where the model asks for them

    def positions(self, n: int, device: torch.device) -> Tensor:
        """The next n places, shape (T,). ValueError when they do not fit the context."""
        if self.length + n > self.block_size:
            raise ValueError(f"{self.length} cached and {n} new tokens exceed the context of {self.block_size}")
        self._start, self.length = self.length, self.length + n
        return torch.arange(self._start, self.length, device=device)

    def previous_ids(self, ids: Tensor, n: int) -> Tensor:
        """Those before it, cached or new."""
        self._ids = ids if self._ids is None else torch.cat([self._ids, ids], dim=1)
        return _shifted(self._ids, n, ids.size(1))

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
