"""The attention seam: at which positions tokens stand, and which tokens they attend to.

A model asks its context two questions and knows nothing else about training, caching or serving. `Causal` is for
training, `SlotCache` for generation, `SharedPrefix` for evaluation where many continuations share one prompt.

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


class SlotCache(Context):
    """Keys and values of several sequences, each in a slot, so that a new token costs one step instead of a full pass.

    A forward pass extends the slots that `select` names, all of them by default; their lengths may differ. Memory:
    2 · n_layer · slots · n_embd · block_size numbers, allocated at the first token.
    """

    def __init__(self, n_layer: int, block_size: int, slots: int = 1) -> None:
        self.block_size, self.slots = block_size, slots
        self.lengths = [0] * slots  # cached tokens of each slot
        self._keys: list[Tensor | None] = [None] * n_layer  # each (slots, H, block_size, D)
        self._values: list[Tensor | None] = [None] * n_layer
        self._written: Tensor | slice  # positions of the new tokens
        self._mask: Tensor | None
        self.select(0, slots)

    def select(self, first: int, rows: int) -> None:
        """The rows of the next forward pass are the slots from `first` on."""
        self._first, self._last = first, first + rows
        self._positions: Tensor | None = None

    def select_static(self, slots: Tensor, positions: Tensor, longest: int) -> None:
        """The rows of the next forward pass are the first slots, and each gets one token, at `positions`, (B, 1).

        Its keys and values are stored in `slots`, (B, 1), and the first `longest` places of each slot are read, of
        which a token attends to those up to its own. What is computed depends on the two tensors and not on `lengths`,
        which the caller counts: it can be recorded once and replayed at other positions.
        """
        self.select(0, len(slots))
        self._positions, self._longest = positions, longest
        self._rows, self._written = slots, positions
        self._mask = torch.arange(longest, device=positions.device) <= positions[:, None, :, None]  # (B, 1, 1, S)
        self._causal = False

    @override
    def positions(self, n: int, device: torch.device) -> Tensor:
        """The next `n` positions, (T,), or (B, T) where lengths differ; ValueError when they exceed `block_size`."""
        if self._positions is not None:
            return self._positions
        starts = self.lengths[self._first : self._last]
        longest = max(starts) + n
        if longest > self.block_size:
            raise ValueError(f"{longest - n} cached and {n} new tokens exceed the context of {self.block_size}")
        self.lengths[self._first : self._last] = [start + n for start in starts]
        self._longest = longest
        self._mask = None
        if len(set(starts)) == 1:
            positions = torch.arange(longest - n, longest, device=device)  # (T,)
            self._written = slice(longest - n, longest)
            self._causal = longest == n
            if n > 1 and not self._causal:  # `is_causal` would align the mask to the first cached token
                self._mask = torch.arange(longest, device=device) <= positions[:, None]  # (T, S)
            return positions
        positions = torch.tensor(starts, device=device)[:, None] + torch.arange(n, device=device)  # (B, T)
        self._rows = torch.arange(self._first, self._last, device=device)[:, None]  # (B, 1)
        self._written, self._causal = positions, False
        self._mask = torch.arange(longest, device=device) <= positions[:, None, :, None]  # (B, 1, T, S)
        return positions

    @override
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Attention of the new tokens to those before them in their slots and to themselves."""
        keys, values = self._extend(self._keys, layer, k), self._extend(self._values, layer, v)  # (B, H, S, D)
        return F.scaled_dot_product_attention(q, keys, values, self._mask, dropout, is_causal=self._causal)

    def _extend(self, store: list[Tensor | None], layer: int, new: Tensor) -> Tensor:
        """Store (B, H, T, D) at the new positions; everything up to the longest sequence, (B, H, S, D)."""
        buffer = store[layer]
        if buffer is None:
            _, H, _, D = new.shape
            # Zeros: what the mask excludes is multiplied by 0, and 0 times what memory holds may be NaN.
            store[layer] = buffer = new.new_zeros(self.slots, H, self.block_size, D)
        if isinstance(self._written, slice):
            buffer[self._first : self._last, :, self._written] = new
        else:
            buffer[self._rows, :, self._written] = new.transpose(1, 2)
        return buffer[self._first : self._last, :, : self._longest]

    def buffers(self, heads: int, width: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer in fp32, two (slots, H, block_size, D), for code that writes them itself."""
        for store in (self._keys, self._values):
            store[:] = [torch.zeros(self.slots, heads, self.block_size, width) for _ in store]
        return [(k, v) for k, v in zip(self._keys, self._values, strict=True) if k is not None and v is not None]

    def reserve(self, slot: int, n: int) -> int:
        """Position of the first of `n` tokens that the caller writes; ValueError when they exceed `block_size`."""
        start = self.lengths[slot]
        if start + n > self.block_size:
            raise ValueError(f"{start} cached and {n} new tokens exceed the context of {self.block_size}")
        self.lengths[slot] += n
        return start

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        self.lengths[slot] = 0

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens of a slot after its first `length`."""
        self.lengths[slot] = min(length, self.lengths[slot])

    def save(self, slot: int) -> list[Tensor]:
        """Copies of a slot's contents, for `load`."""
        return [buffer[slot, :, : self.lengths[slot]].clone() for buffer in self._buffers()]

    def load(self, slot: int, saved: list[Tensor]) -> None:
        """Replace the contents of a slot by saved ones."""
        self.lengths[slot] = saved[0].size(1)
        for buffer, content in zip(self._buffers(), saved, strict=True):
            buffer[slot, :, : self.lengths[slot]] = content

    def move(self, source: int, target: int) -> None:
        """Replace the contents of slot `target` by those of `source`, which is then empty."""
        n = self.lengths[target] = self.lengths[source]
        for buffer in self._buffers() if n else ():
            buffer[target, :, :n] = buffer[source, :, :n]
        self.clear(source)

    def _buffers(self) -> list[Tensor]:
        return [buffer for buffer in (*self._keys, *self._values) if buffer is not None]
