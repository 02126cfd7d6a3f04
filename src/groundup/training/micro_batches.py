"""From windows of token ids to tensors on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundup.model.gpt import IGNORED
from groundup.training.loop import MicroBatch


class Windows(Protocol):
    """Where training windows come from."""

    block_size: int

    def read(self, cursor: int, n: int) -> NDArray[np.int64]:
        """`n` windows with their next tokens: (n, block_size + 1)."""
        ...


class BatchLoader:
    """Each step's global batch, of which a process takes its share, cut into pieces of at most `micro_rows` windows.

    All shares are of one size, so that all processes make equally many passes over equally many windows; the last is
    filled up with windows that are not scored.
    """

    def __init__(
        self, windows: Windows, rows: int, micro_rows: int, device: torch.device, *, rank: int = 0, size: int = 1
    ) -> None:
        """`rows` windows a step, in all; this is process `rank` of `size`."""
        self.windows, self.rows, self.device = windows, rows, device
        self.share = -(-rows // size)  # windows a process
        self.micro_rows = min(micro_rows, self.share)
        self.scored = rows * windows.block_size
        self.in_step = False  # a batch has been begun, and not all of its pieces are done
        self._first = rank * self.share

    def micro_batches(self, cursor: int) -> Iterator[MicroBatch]:
        """Ids and targets of this process's share of the batch at `cursor`, and whether they are its last."""
        self.in_step = True
        for first in range(0, self.share, self.micro_rows):
            n = min(self.micro_rows, self.share - first)
            ids, targets = to_inputs_targets(self._windows(cursor, self._first + first, n), self.device)
            yield ids, targets, first + n == self.share
        self.in_step = False

    def trial(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What a step asks of memory: its pieces twice, for gradients are then added up, and the ragged one."""
        for rows in (self.micro_rows, self.micro_rows, self.share % self.micro_rows or self.micro_rows):
            yield to_inputs_targets(self.windows.read(0, rows), self.device)

    def _windows(self, cursor: int, first: int, n: int) -> NDArray[np.int64]:
        """`n` windows from the batch's `first` on: (n, block_size + 1), past the batch's end all of them IGNORED."""
        there = max(0, min(n, self.rows - first))
        found = np.full((n, self.windows.block_size + 1), IGNORED, dtype=np.int64)
        if there:
            found[:there] = self.windows.read(cursor + first, there)
        return found


def to_inputs_targets(windows: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
    """(n, block_size + 1) ids -> ids and targets, each (n, block_size), on the device; an IGNORED id becomes 0."""
    both = torch.from_numpy(windows)
    if device.type == "cuda":
        both = both.pin_memory()  # lets the copy overlap with the arithmetic
    both = both.to(device, non_blocking=device.type == "cuda")
    return both[:, :-1].clamp(min=0), both[:, 1:].contiguous()
