"""Trackers and the points they draw: interface of a backend, and the conversion of records of log.jsonl."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from groundup.utils.system import peak_gpu_memory, process_memory

STEP = ("loss", "lr", "grad_norm", "tokens_per_s", "tokens")  # fields of a `step` record, drawn under train/
EVALUATION = {"train_loss": "train/eval_loss", "val_loss": "val/loss", "bits_per_byte": "val/bits_per_byte"}


@dataclass(frozen=True)
class Point:
    """Numbers and texts at one step."""

    step: int
    numbers: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)  # plain text


@dataclass(frozen=True)
class RunInfo:
    """Name and id of a run in its trackers, and its config and environment."""

    project: str
    name: str  # for people; without a slash
    id: str  # the same for every part of a resumed run
    folder: Path  # of the run
    offline: bool  # no network requests
    facts: Mapping[str, Any]  # `config` and `environment`, as nested mappings


class Tracker(Protocol):
    """An open tracker. Its methods are called from one thread; they may raise or hang."""

    def log(self, point: Point) -> None:
        """Draw one point; steps may decrease, after a rollback."""

    def close(self) -> None:
        """Flush and close."""


@dataclass(frozen=True)
class TrackerType:
    """A kind of tracker that can be opened."""

    name: str  # also of its Python package
    open: Callable[[RunInfo], Tracker]
    remedy: str  # what the user can do when it fails
    abandon: Callable[[], None] = lambda: None  # after a failure: let the process end without waiting for the tracker


class PointBuilder:
    """Converts records of log.jsonl to points."""

    def __init__(self, flops_per_token: float | None = None, peak_flops: float | None = None) -> None:
        """FLOPs to train on one token, and peak FLOPs per second of the hardware; None where unknown."""
        self._flops_ratio = flops_per_token / peak_flops if flops_per_token and peak_flops else None
        self._step = 0  # the last one seen, for records without a step

    def build(self, event: str, values: Mapping[str, Any]) -> Point:
        """The point of one record.

        train/mfu is the model FLOPs utilization of PaLM (arXiv:2204.02311), appendix B: tokens per second over those
        of a machine at its peak,

            MFU = tokens_per_s · flops_per_token / peak_flops

        where flops_per_token counts one forward and one backward pass of the model, without the recomputation of
        activation checkpointing. Causal attention is counted with its mask (`groundup.model.size`), which is half of
        the 12 L H Q T in PaLM's 6 N + 12 L H Q T: this MFU is the lower one.
        """
        step = values.get("step")
        self._step = step if isinstance(step, int) else self._step
        if event == "step":
            numbers = {f"train/{name}": values.get(name) for name in STEP}
            if self._flops_ratio and values.get("tokens_per_s") is not None:
                numbers["train/mfu"] = values["tokens_per_s"] * self._flops_ratio
            for name, size in (("process", process_memory()), ("gpu", peak_gpu_memory())):
                numbers[f"memory/{name}_gb"] = None if size is None else size / 1e9
            return Point(self._step, _finite(numbers))
        if event == "eval":
            numbers = {shown: values.get(name) for name, shown in EVALUATION.items()}
            for task, metrics in values.get("tasks", {}).items():
                shown = (name for name in metrics if name != "n" and not name.endswith(("_stderr", "_ties")))
                numbers |= {f"tasks/{task}/{name}": metrics[name] for name in shown}
            return Point(self._step, _finite(numbers))
        if event == "sample":
            return Point(self._step, texts={"sample": str(values.get("text", ""))})
        return Point(self._step, {f"event/{event}": 1.0})  # a mark: save, resume, skip, spike, rollback …


def _finite(numbers: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in numbers.items() if isinstance(v, int | float) and math.isfinite(v)}


def fenced(text: str) -> str:
    """Quote any text as a code block of Markdown."""
    fence = max(("`" + run for run in re.findall("`{3,}", text)), key=len, default="```")
    return f"{fence}text\n{text}\n{fence}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str | bool | int | float]:
    """Flatten nested mappings to dotted keys; each value is a number or a text, None is left out."""
    found: dict[str, str | bool | int | float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = value if isinstance(value, str | bool | int | float) else str(value)
    return found
