"""From a record of log.jsonl to what trackers draw: named numbers and texts at a step."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from groundup.utils.system import peak_gpu_memory, process_memory

STEP = ("loss", "lr", "grad_norm", "tokens_per_s", "tokens")  # of a record `step`, all drawn under train/
EVALUATION = {"train_loss": "train/eval_loss", "val_loss": "val/loss", "bits_per_byte": "val/bits_per_byte"}


@dataclass(frozen=True)
class Point:
    """What happened at one step."""

    step: int
    numbers: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)  # plain text


class Points:
    """Turns records into points."""

    def __init__(self, flops_per_token: float | None = None, peak_flops: float | None = None) -> None:
        """FLOPs to train on one token, and FLOPs a second that the hardware can do at most; None where unknown."""
        self._used_per_token_s = flops_per_token / peak_flops if flops_per_token and peak_flops else None
        self._step = 0  # the last one seen, for records that have none

    def of(self, event: str, values: Mapping[str, Any]) -> Point:
        """The point that a record stands for.

        train/mfu is the model FLOPs utilisation of PaLM (arXiv:2204.02311), appendix B: the tokens a second that were
        trained on, over those that a machine at its peak would train on,

            MFU = tokens_per_s · flops_per_token / peak_flops

        where flops_per_token counts one forward and one backward pass of the model, not what activation checkpointing
        computes again. Attention is counted as a causal mask leaves it (`groundup.model.size`), which is half of the
        12 L H Q T in PaLM's 6 N + 12 L H Q T: this MFU is the lower one.
        """
        step = values.get("step")
        self._step = step if isinstance(step, int) else self._step
        if event == "step":
            numbers = {f"train/{name}": values.get(name) for name in STEP}
            if self._used_per_token_s and values.get("tokens_per_s") is not None:
                numbers["train/mfu"] = values["tokens_per_s"] * self._used_per_token_s
            return Point(self._step, _finite({**numbers, **_memory()}))
        if event == "eval":
            losses = {shown: values.get(name) for name, shown in EVALUATION.items()}
            return Point(self._step, _finite({**losses, **_tasks(values.get("tasks", {}))}))
        if event == "sample":
            return Point(self._step, texts={"sample": str(values.get("text", ""))})
        return Point(self._step, {f"event/{event}": 1.0})  # a mark: save, resume, skip, spike, rollback …


def _memory() -> dict[str, float]:
    """Memory of this process now, and the peak of its GPUs, in GB; without what is unknown."""
    found = {"memory/process_gb": process_memory(), "memory/gpu_gb": peak_gpu_memory()}
    return {name: size / 1e9 for name, size in found.items() if size is not None}


def _tasks(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The metrics of tasks, without standard errors and counts, as tasks/hellaswag/acc."""
    return {
        f"tasks/{task}/{name}": value
        for task, found in results.items()
        for name, value in found.items()
        if name != "n" and not name.endswith("_stderr")
    }


def fenced(text: str) -> str:
    """Any text as a block of Markdown that shows it as it is."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _finite(numbers: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in numbers.items() if isinstance(v, int | float) and math.isfinite(v)}
