"""From windows of token ids to tensors on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from groundup.training.loop import MicroBatch


class Windows(Protocol):
    """Where training windows come from."""

    block_size: int

    def read(self, cursor: int, n: int) -> NDArray[np.int64]:
        """`n` windows with their next tokens: (n, block_size + 1)."""
        ...


class Feed:
    """Each step's global batch, cut into micro-batches of at most `micro_rows` windows."""

    def __init__(self, windows: Windows, rows: int, micro_rows: int, device: torch.device) -> None:
        self.windows, self.rows, self.micro_rows, self.device = windows, rows, micro_rows, device
        self.scored = rows * windows.block_size
        self.under_way = False  # a batch has been begun, and not all of its pieces are done

    def micro_batches(self, cursor: int) -> Iterator[MicroBatch]:
        """Ids and targets of the batch at `cursor`."""
        self.under_way = True
        for first in range(0, self.rows, self.micro_rows):
            n = min(self.micro_rows, self.rows - first)
            yield as_micro_batch(self.windows.read(cursor + first, n), self.device)
        self.under_way = False


def as_micro_batch(windows: NDArray[np.int64], device: torch.device) -> MicroBatch:
    """(n, block_size + 1) ids -> ids and targets, each (n, block_size), on the device."""
    both = torch.from_numpy(windows)
    if device.type == "cuda":
        both = both.pin_memory()  # lets the copy overlap with the arithmetic
    both = both.to(device, non_blocking=device.type == "cuda")
    return both[:, :-1].contiguous(), both[:, 1:].contiguous()
