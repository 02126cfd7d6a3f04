"""Training sequences as a pure function of (seed, cursor).

The training split is cut into windows of `block_size` tokens. An epoch visits every window once, in an order that is
computed, not stored: window `cursor` of a run can be found directly, so resuming is a seek, and any step of a run can
be opened again. The cuts themselves shift from epoch to epoch, so that no token is always the last of its window, and
so does what an epoch leaves out, so that every token but the first is a target sooner or later.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.data.shards import Tokens
from groundup.errors import DataError
from groundup.utils.hashing import mix64
from groundup.utils.plural import human_plural

LAYOUT = 2  # how an epoch is cut; 1, of runs that began in an earlier version, never reaches the end of the split
FEISTEL_ROUNDS = 6  # 4 make a permutation pseudorandom (Luby & Rackoff 1988), two more cost little


def layout_of(metadata: Mapping[str, Any]) -> int:
    """The layout of a run's training sequences by a checkpoint's metadata, which is empty where there is none yet."""
    return metadata.get("sequence_layout", 1) if metadata else LAYOUT


def feistel_permutation(index: NDArray[np.uint64], n: int, key: int) -> NDArray[np.uint64]:
    """Images of `index` (numbers below n) under a permutation of 0 … n-1 chosen by `key`, in O(1) memory.

    A Feistel network over the smallest even number of bits that holds n, walked until it lands below n
    (Black & Rogaway 2002).
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    out = index.astype(np.uint64)
    outside = np.ones(out.shape, dtype=bool)
    while outside.any():
        left, right = out[outside] >> half, out[outside] & low
        for r in range(FEISTEL_ROUNDS):
            left, right = right, left ^ (mix64(key, r, right) & low)
        out[outside] = (left << half) | right
        outside = out >= n
    return out


def windows_per_epoch(tokens: int, block_size: int) -> int:
    """Windows of an epoch: one less than fit, where there are several; that slack is what lets the cuts shift."""
    return max(1, (tokens - 1) // block_size - 1)


class ShuffledWindows:
    """Windows of a training split in the order of a run. An index counts windows since the start of the run."""

    def __init__(self, tokens: Tokens, block_size: int, seed: int, layout: int = LAYOUT) -> None:
        """Raises DataError if the split is shorter than one window and its last target, or for an unknown layout."""
        if layout not in (1, LAYOUT):
            raise DataError(f"sequence layout {layout!r}: only a newer groundup has it; update this one")
        if len(tokens) < block_size + 1:
            fits = 2 ** ((len(tokens) - 1) // 2).bit_length() // 2  # a power of two, twice over
            remedy = f"give more text, or --model.block_size {fits}" if fits > 1 else "give more text"
            found = f"the training split has {human_plural(len(tokens), 'token')}"
            raise DataError(f"{found}, fewer than a context of {block_size} and one more; {remedy}")
        self.tokens, self.block_size, self.seed, self.layout = tokens, block_size, seed, layout
        self.per_epoch = windows_per_epoch(len(tokens), block_size)
        self._slack = len(tokens) - 1 - self.per_epoch * block_size

    def window_starts(self, cursor: int, n: int) -> NDArray[np.int64]:
        """First tokens of the `n` windows from index `cursor` on, (n,)."""
        return self._starts(np.arange(cursor, cursor + n))

    def read(self, cursor: int, n: int) -> NDArray[np.int64]:
        """The `n` windows from index `cursor` on, each with its next token: (n, block_size + 1)."""
        return self.read_at(np.arange(cursor, cursor + n))

    def read_at(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The windows at `indices` (n,), each with its next token: (n, block_size + 1)."""
        return np.stack([self.tokens.read(int(start), self.block_size + 1) for start in self._starts(indices)])

    def _starts(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        epochs, index = indices // self.per_epoch, indices % self.per_epoch
        starts = np.empty_like(indices)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            key = int(mix64(self.seed, int(epoch))[0])
            order = feistel_permutation(index[here].astype(np.uint64), self.per_epoch, key).astype(np.int64)
            gap, before, after = self._shifts(key)
            starts[here] = order * self.block_size + np.where(order < gap, before, after)
        return starts

    def _shifts(self, key: int) -> tuple[int, int, int]:
        """A window of an epoch, and by how much those before it, and it and those after it, are shifted.

        What is left out lies between the two, and at one end of the split, which takes turns with the other.
        """
        if self.layout == 1:
            shift = int(mix64(key, 0)[0]) % (min(self.block_size - 1, self._slack) + 1)
            return 0, shift, shift
        shift, gap, at_end = (int(mix64(key, n)[0]) for n in range(3))
        shift, gap = shift % (self._slack + 1), gap % (self.per_epoch + 1)
        return (gap, 0, shift) if at_end % 2 else (gap, shift, self._slack)


def scored_windows(tokens: int, block_size: int, stride: int, limit: int | None) -> NDArray[np.int64]:
    """First tokens of the windows that an evaluation scores in a split of so many tokens, (n,)."""
    targets = tokens - 1
    starts = np.arange(-(-max(0, targets - block_size) // stride) + 1) * stride
    if limit is not None and limit < targets and len(starts) > 1:
        # Never the incomplete window; nor, if they overlap, the first, whose tokens have less context.
        complete = starts[1:-1] if stride < block_size and len(starts) > 2 else starts[:-1]
        number = min(len(complete), max(1, limit // stride))
        starts = complete[np.arange(number) * len(complete) // number]
    return starts
