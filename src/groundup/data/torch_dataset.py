"""A prepared split as a PyTorch dataset, for a training loop of one's own. No other module of `data` needs torch."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from groundup.data.shards import Manifest, Tokens
from groundup.data.windows import ShuffledWindows
from groundup.errors import DataError, UsageError

Sample = tuple[Tensor, Tensor]  # ids and targets, each (block_size,) int64; a target is the id one place further on


class Windows(Dataset[Sample]):
    """The windows of a split in the order in which `groundup train` draws them; `dataset` makes one.

    The ids stay on disk. A copy or a pickle, as worker processes get it, holds the folder's path and opens it anew.
    """

    def __init__(self, folder: Path, split: Literal["train", "val"], block_size: int, seed: int, epochs: int) -> None:
        self._arguments = folder, split, block_size, seed, epochs
        self.vocab_size = Manifest.load(folder).tokenizer.n_vocab  # what a model of this data needs to know
        tokens = Tokens.open(folder, split)
        if len(tokens) < block_size + 1:
            raise DataError(
                f"{folder}: the {split} split has {len(tokens)} tokens, fewer than a block_size of {block_size} and "
                "one more; prepare more text, or give a smaller block_size"
            )
        self._batches = ShuffledWindows(tokens, block_size, seed)
        self._length = epochs * self._batches.windows

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """The window at `index`, from the end where negative; IndexError beyond the ends."""
        (sample,) = self.__getitems__([index])
        return sample

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several windows at once, as a DataLoader asks for them: much cheaper than one by one."""
        places = np.array([self._place(index) for index in indices], dtype=np.int64)
        windows = torch.from_numpy(self._batches.read_at(places))  # (n, block_size + 1)
        # Clones, so that changing the one of a pair leaves the other, and neither keeps the whole batch alive.
        return [(window[:-1].clone(), window[1:].clone()) for window in windows]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments  # a memory map would be pickled with all that it maps

    def _place(self, index: int) -> int:
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"window {place} of {len(self)}")
        return place % len(self)


def dataset(
    folder: str | Path,
    split: Literal["train", "val"] = "train",
    block_size: int = 256,
    seed: int = 1337,
    epochs: int = 1,
) -> Windows:
    """A split of a folder made by `prepare` as a map-style dataset of (ids, targets), each (block_size,) int64.

    Item i is window i of a training run with the same `block_size` and `train.seed`: read it without shuffling and
    you see what `groundup train` sees; start at i with `torch.utils.data.Subset(data, range(i, len(data)))` and you go
    on where a run stopped. The order and the cuts between windows are drawn anew for each of the `epochs`. One window's
    worth of tokens is left over an epoch, as room to shift the cuts.

    `vocab_size` of the result is what a model needs. Raises DataError, UsageError.
    """
    if split not in ("train", "val"):
        raise UsageError(f"split {split!r}: must be train or val")
    _whole_number("block_size", block_size, 1)
    _whole_number("seed", seed, 0)
    _whole_number("epochs", epochs, 1)
    return Windows(Path(folder).absolute(), split, block_size, seed, epochs)


def _whole_number(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise UsageError(f"{name} {value!r}: must be a whole number, {least} or more and below 2^63")
