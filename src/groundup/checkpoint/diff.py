"""Comparison of two checkpoints, bit for bit."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from groundup.checkpoint.files import PROGRESS, read_json

TIME_KEYS = {"elapsed", "dt", "parent"}  # of progress.json: times, and the digest of a folder that holds times


@dataclass(frozen=True)
class Difference:
    """A tensor in which two checkpoints differ."""

    file: str
    tensor: str
    largest: float | None  # absolute; None if the tensor is missing, misshapen or not finite


def largest_difference(a: Path, b: Path) -> tuple[Difference | None, int]:
    """The tensor of two checkpoints with the largest difference, if any bit differs; and the number compared."""
    found, compared = [], 0
    for file in sorted({path.relative_to(f).as_posix() for f in (a, b) for path in f.rglob("*.safetensors")}):
        one, other = (load_file(f / file) if (f / file).exists() else {} for f in (a, b))  # memory-mapped
        found += [Difference(file, name, None) for name in sorted(one.keys() ^ other.keys())]
        both = sorted(one.keys() & other.keys())
        compared += len(both)
        differing = (name for name in both if not same_bits(one[name], other[name]))
        found += [Difference(file, name, _distance(one[name], other[name])) for name in differing]
    return max(found, key=lambda d: math.inf if d.largest is None else d.largest, default=None), compared


def same_bits(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are equal to the last bit: 0 differs from -0, and a NaN equals itself."""
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    return torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8))


def differing_metadata(a: Path, b: Path) -> list[str]:
    """The keys of progress.json in which two checkpoints differ, without times."""
    one, other = read_json(a / PROGRESS), read_json(b / PROGRESS)
    keys = sorted((one.keys() | other.keys()) - TIME_KEYS)
    return [key for key in keys if (key in one) != (key in other) or one.get(key) != other.get(key)]


def _distance(x: Tensor, y: Tensor) -> float | None:
    if x.shape != y.shape:
        return None
    distance = (x.double() - y.double()).abs().max().item()
    return distance if math.isfinite(distance) else None
