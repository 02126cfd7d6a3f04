"""Whether two checkpoints are the same, bit for bit, and where they are not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from groundup.checkpoint.files import PROGRESS, read_json

CLOCKS = {"elapsed", "dt", "parent"}  # of progress.json: times, and the digest of a folder that holds times


@dataclass(frozen=True)
class Difference:
    """The tensor that is furthest off."""

    file: str
    tensor: str
    largest: float | None  # absolute; None where it is missing, misshapen or not finite


def difference(a: Path, b: Path) -> tuple[Difference | None, int]:
    """The tensor of two checkpoints that is furthest off, if any bit is; and how many were compared."""
    found, compared = [], 0
    for file in sorted({path.relative_to(f).as_posix() for f in (a, b) for path in f.rglob("*.safetensors")}):
        one, other = _keys(a / file), _keys(b / file)
        found += [Difference(file, name, None) for name in sorted(one ^ other)]
        for name in sorted(one & other):
            compared += 1
            x, y = _tensor(a / file, name), _tensor(b / file, name)
            if not same_bits(x, y):
                found.append(Difference(file, name, _distance(x, y)))
    return max(found, key=lambda d: math.inf if d.largest is None else d.largest, default=None), compared


def same_bits(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are the same to the last bit: 0 is not -0, and a NaN is itself."""
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    return torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8))


def different_books(a: Path, b: Path) -> list[str]:
    """What two checkpoints remember differently besides their tensors, times left out."""
    one, other = read_json(a / PROGRESS), read_json(b / PROGRESS)
    keys = sorted((one.keys() | other.keys()) - CLOCKS)
    return [key for key in keys if key not in one or key not in other or one[key] != other[key]]


def _distance(x: Tensor, y: Tensor) -> float | None:
    if x.shape != y.shape:
        return None
    distance = (x.double() - y.double()).abs().max().item()
    return distance if math.isfinite(distance) else None


def _keys(file: Path) -> set[str]:
    if not file.exists():
        return set()
    with safe_open(file, framework="pt") as tensors:
        return set(tensors.keys())


def _tensor(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as tensors:
        tensor: Tensor = tensors.get_tensor(name)
        return tensor
