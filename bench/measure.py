"""Interleaved timing, robust against drifts of the machine's speed, and a description of the machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from groundup.errors import UsageError
from groundup.utils.system import usable_cores

CLONE = "git clone https://github.com/karpathy/nanoGPT"


@dataclass(frozen=True)
class Options:
    """Command-line options."""

    nanogpt: Path | None  # a checkout of nanoGPT
    text: Path | None  # tinyshakespeare; optional for `train-step`
    threads: int
    rounds: int | None  # None: the subject's default
    peers_python: Path | None = None  # an interpreter that has other programs; optional for `generate`

    def check(self) -> None:
        """UsageError for a missing file or an invalid number, before anything is measured."""
        if self.text and not self.text.is_file():
            raise UsageError(f"--text: there is no {self.text}")
        if self.nanogpt:
            for name in ("model.py", "train.py"):
                if not (self.nanogpt / name).is_file():
                    raise UsageError(f"--nanogpt: there is no {self.nanogpt / name}; `{CLONE}` makes a checkout")
        if self.peers_python and not os.access(self.peers_python, os.X_OK):
            raise UsageError(f"--peers-python: there is no program {self.peers_python}")
        for option, value in (("threads", self.threads), ("rounds", self.rounds)):
            if value is not None and value < 1:
                raise UsageError(f"--{option} {value}: must be 1 or more")

    def rounds_or(self, default: int) -> int:
        """Rounds to measure."""
        return self.rounds or default


def check_json(path: Path | None) -> None:
    """UsageError if `path` cannot be written, before anything is measured; None is valid."""
    if path is None:
        return
    if not path.parent.is_dir():
        raise UsageError(f"--json: there is no folder {path.parent}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"--json {path}: cannot be written; name another file")


@dataclass(frozen=True)
class Row:
    """Measured values of one contender."""

    name: str
    values: list[float]  # one per round

    @property
    def median(self) -> float:
        """Median, which other processes' bursts of work change little."""
        return statistics.median(self.values)

    def ratio(self, other: Row) -> float:
        """Median over the rounds of this value over the other's of the same round."""
        return statistics.median(mine / its for mine, its in zip(self.values, other.values, strict=True))


@dataclass
class Result:
    """Results of a subject."""

    title: str
    unit: str
    rows: list[Row]
    baseline: str  # the row that ratios refer to; may be missing
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # broken promises; any of them makes the exit status 1
    ceiling: list[float] = field(default_factory=list)  # `gemm_gflops` before and after

    def ratio(self, row: Row) -> float | None:
        """Ratio of a row to the baseline; None if that was not measured."""
        base = next((other for other in self.rows if other.name == self.baseline), None)
        return row.ratio(base) if base else None

    def as_dict(self) -> dict[str, Any]:
        """All values and those of the table, for --json."""
        rows = [{"name": r.name, "median": r.median, "ratio": self.ratio(r), "values": r.values} for r in self.rows]
        return {**vars(self), "rows": rows}


def interleaved(contenders: Mapping[str, Callable[[], float]], rounds: int) -> list[Row]:
    """Run the contenders in turn, A B A B …; each call returns one measured value."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            values[name].append(measure())
    return [Row(name, measured) for name, measured in values.items()]


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def gemm_gflops(size: int = 2048, repeats: int = 5, dtype: torch.dtype = torch.float32) -> float:
    """GFLOP/s of the fastest of a few large matrix products: the machine's ceiling at this moment."""
    a, b = torch.rand(size, size).to(dtype), torch.rand(size, size).to(dtype)
    return 2 * size**3 / min(seconds(lambda: a @ b) for _ in range(repeats)) / 1e9


def copy_gbytes(megabytes: int = 256, repeats: int = 5) -> float:
    """GB/s, read and written, of the fastest of a few copies larger than any cache."""
    source, target = torch.ones(megabytes << 18), torch.zeros(megabytes << 18)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source)) for _ in range(repeats)) / 1e9


def machine() -> dict[str, str | int]:
    """Description of the machine and the versions."""
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "load": round(os.getloadavg()[0]) if hasattr(os, "getloadavg") else 0,  # processes that used a core before
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "groundup": version("groundup"),
        "system": platform.system(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
