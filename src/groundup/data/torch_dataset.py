"""A prepared split as a PyTorch dataset, for training loops of other programs. The only module of `data` with torch."""

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
from groundup.utils.plural import human_plural

Sample = tuple[Tensor, Tensor]  # ids and targets, each (block_size,) int64; a target is the next id


class WindowDataset(Dataset[Sample]):
    """The sequences of a split in the order of `groundup train`, as `dataset` returns them.

    The ids stay on disk. A copy or a pickle, as worker processes get it, holds the folder's path and opens it again.
    """

    def __init__(self, folder: Path, split: Literal["train", "val"], block_size: int, seed: int, epochs: int) -> None:
        self._arguments = folder, split, block_size, seed, epochs
        self.vocab_size = Manifest.load(folder).tokenizer.n_vocab  # for building a model of this data
        tokens = Tokens.open(folder, split)
        if len(tokens) < block_size + 1:
            raise DataError(
                f"{folder}: the {split} split has {human_plural(len(tokens), 'token')}, fewer than a block_size of "
                f"{block_size} and one more; prepare more text, or give a smaller block_size"
            )
        self._windows = ShuffledWindows(tokens, block_size, seed)
        self._length = epochs * self._windows.per_epoch

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """The sequence at `index`, from the end if negative. Raises IndexError beyond the ends."""
        (sample,) = self.__getitems__([index])
        return sample

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several sequences at once, as a DataLoader asks for them: much cheaper than one by one."""
        numbers = [operator.index(index) for index in indices]
        for number in numbers:
            if not -len(self) <= number < len(self):
                raise IndexError(f"window {number} of {len(self)}")
        positive = np.array(numbers, dtype=np.int64) % len(self)
        windows = torch.from_numpy(self._windows.read_at(positive))  # (n, block_size + 1)
        # Clones, so that changing the one of a pair leaves the other, and neither keeps the complete batch alive.
        return [(window[:-1].clone(), window[1:].clone()) for window in windows]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments  # open files cannot be pickled


def dataset(
    folder: str | Path,
    split: Literal["train", "val"] = "train",
    block_size: int = 256,
    seed: int = 1337,
    epochs: int = 1,
) -> WindowDataset:
    """A split of a folder made by `prepare` as a map-style dataset of (ids, targets), each (block_size,) int64.

    Item i is sequence i of a training run with the same `block_size` and `train.seed`: read without shuffling, items
    come in the order of `groundup train`; `torch.utils.data.Subset(data, range(i, len(data)))` resumes at sequence i.
    Each of the `epochs` has its own order and cuts. An epoch leaves out one or two sequences' worth of tokens, not the
    same as another epoch, as room to shift the cuts.

    `vocab_size` of the result is the number of token ids. Raises DataError, UsageError.
    """
    if split not in ("train", "val"):
        raise UsageError(f"split {split!r}: must be train or val")
    for name, value, least in (("block_size", block_size, 1), ("seed", seed, 0), ("epochs", epochs, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise UsageError(f"{name} {value!r}: must be a whole number, {least} or more and below 2^63")
    return WindowDataset(Path(folder).absolute(), split, block_size, seed, epochs)
