"""Micro-batches: each step's sequences of token ids as tensors on the device, and sequence-length warm-up.

In the warm-up (arXiv:2108.06084) sequences are short first and double in length as the run proceeds: nearby tokens
teach most at first, and short sequences cost less attention. The data order and the tokens per step stay the same.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundup.model.gpt import IGNORED


class Sequences(Protocol):
    """A data order: an endless row of training sequences."""

    block_size: int

    def read(self, cursor: int, n: int) -> NDArray[np.int64]:
        """`n` sequences from position `cursor`, each with its next token: (n, block_size + 1)."""


class BatchLoader:
    """Cuts each step's global batch into this process's micro-batches.

    Every process gets equally many sequences, so that all make equally many passes of equal size; the last process's
    part is filled up with sequences that are not scored.
    """

    def __init__(
        self,
        sequences: Sequences,
        batch_size: int,
        device: torch.device,
        *,
        rank: int = 0,
        world_size: int = 1,
        seq_len: Callable[[float], int] | None = None,
    ) -> None:
        """`batch_size` sequences per step, over all processes; `seq_len`: their length at a fraction of the run."""
        self.sequences, self.batch_size, self.device = sequences, batch_size, device
        self.per_process = -(-batch_size // world_size)
        self.scored = batch_size * sequences.block_size  # targets per step, over all processes
        self.in_step = False  # a batch was begun, and not all of its micro-batches are done
        self._first = rank * self.per_process
        self._seq_len = seq_len or (lambda fraction: sequences.block_size)

    def micro_batches(self, cursor: int, fraction: float, size: int) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Ids and targets, each (b, t), of at most `size` sequences of the batch at `cursor`; whether the last.

        Early in the run (`fraction`), sequences may be cut into shorter ones.
        """
        self.in_step = True
        size, length = min(size, self.per_process), self._seq_len(fraction)
        for first in range(0, self.per_process, size):
            n = min(size, self.per_process - first)
            ids, targets = to_inputs_targets(self._read(cursor, self._first + first, n), self.device)
            yield *split_sequences(ids, targets, length), first + n == self.per_process
        self.in_step = False

    def largest(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What a step asks of memory: its micro-batch twice, as gradients are then summed, and the ragged last one."""
        size = min(size, self.per_process)
        for n in (size, size, self.per_process % size or size):
            yield to_inputs_targets(self.sequences.read(0, n), self.device)

    def _read(self, cursor: int, first: int, n: int) -> NDArray[np.int64]:
        """`n` sequences from the batch's `first` on: (n, block_size + 1); past the batch's end all IGNORED."""
        present = max(0, min(n, self.batch_size - first))
        ids = np.full((n, self.sequences.block_size + 1), IGNORED, dtype=np.int64)
        if present:
            ids[:present] = self.sequences.read(cursor + first, present)
        return ids


def to_inputs_targets(sequences: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
    """(n, block_size + 1) ids -> ids and targets, each (n, block_size), on the device; an IGNORED id becomes 0."""
    both = torch.from_numpy(sequences)
    if device.type == "cuda":
        both = both.pin_memory()  # lets the copy overlap with the arithmetic
    both = both.to(device, non_blocking=device.type == "cuda")
    return both[:, :-1].clamp(min=0), both[:, 1:].contiguous()


def split_sequences(ids: Tensor, targets: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Sequences cut into shorter ones of `length` tokens: each (B, T) -> (B·T/length, length)."""
    return ids.reshape(-1, length), targets.reshape(-1, length)


def sequence_lengths(first: int | None, block_size: int) -> list[int]:
    """Every length that sequences have in a run: `first` doubled up to `block_size`; None: no warm-up."""
    first = first or block_size
    return [first << n for n in range((block_size // first).bit_length())]


def build_seq_len(first: int | None, until: float, block_size: int) -> Callable[[float], int]:
    """Length of sequences as a function of the fraction of the run done after the coming step.

    It starts at `first` and doubles at equal distances, up to `block_size` at the fraction `until`.
    """
    lengths = sequence_lengths(first, block_size)

    def seq_len(fraction: float) -> int:
        return lengths[int((len(lengths) - 1) * fraction / until)] if fraction < until else lengths[-1]

    return seq_len
