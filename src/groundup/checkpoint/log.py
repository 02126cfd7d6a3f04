"""What became of a run, as its log tells it: only what still holds, however often it was resumed. No torch here."""

from __future__ import annotations

import json
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """Losses of a moment, and where the run stood."""

    step: int
    tokens: int  # trained on so far
    seconds: float  # trained so far; evaluations count, interruptions and what a crash lost do not
    lr: float | None  # of the step before it
    val_loss: float | None  # nats a token; None where it was not finite, or nothing was held out
    bits_per_byte: float | None  # of the validation text
    train_loss: float | None  # nats a token


@dataclass(frozen=True)
class Task:
    """What a task gave, by metric, and at which step."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class History:
    """A run from its first step to its last."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluations: tuple[Evaluation, ...] = ()  # in order of steps, one a step
    tasks: dict[str, Task] = field(default_factory=dict)  # the newest of each


def read_history(log: Path) -> History:
    """The history in a log.jsonl; an empty one where there is none. Lines cut off by a crash are left out.

    Where a run went back, to a checkpoint after a kill or away from bad data, what it did after that is forgotten:
    the later record of a step wins.
    """
    tape = _Tape()
    for record in _records(log):
        act = ACTIONS.get(str(record.get("event")))
        step = record.get("step")
        if act and isinstance(step, int) and step >= 0:
            act(tape, step, record)
    return tape.history()


class _Tape:
    """Steps in order, in 32 bytes each: a long run has millions."""

    def __init__(self) -> None:
        self.steps, self.tokens = array("q"), array("q")
        self.seconds, self.lr = array("d"), array("d")
        self.evaluations: dict[int, Mapping[str, Any]] = {}
        self.tasks: dict[int, dict[str, dict[str, float]]] = {}

    def rewind(self, step: int, _: Mapping[str, Any]) -> None:
        """Forget what came after `step`."""
        n = bisect_right(self.steps, step)
        if n < len(self.steps):
            for column in (self.steps, self.tokens, self.seconds, self.lr):
                del column[n:]
        for kept in (self.evaluations, self.tasks):
            for later in [key for key in kept if key > step]:
                del kept[later]

    def trained(self, step: int, record: Mapping[str, Any]) -> None:
        """A step, whether or not it was applied."""
        if not self.steps or step <= self.steps[-1]:
            self.rewind(step - 1, record)
        tokens, seconds = record.get("tokens"), _number(record.get("elapsed"))
        if isinstance(tokens, int) and 0 <= tokens < 2**63 and step < 2**63 and seconds is not None:
            self.steps.append(step)
            self.tokens.append(tokens)
            self.seconds.append(seconds)
            lr = _number(record.get("lr"))
            self.lr.append(math.nan if lr is None else lr)

    def evaluated(self, step: int, record: Mapping[str, Any]) -> None:
        """Losses, and tasks where the run measures them as it goes."""
        self.evaluations[step] = record
        self.tell(step, record.get("tasks"))

    def examined(self, step: int, record: Mapping[str, Any]) -> None:
        """Tasks that a checkpoint was given later."""
        self.tell(step, record.get("results"))

    def tell(self, step: int, results: object) -> None:
        """Keep the numbers among the results of tasks."""
        for task, metrics in results.items() if isinstance(results, dict) else ():
            if isinstance(metrics, dict) and task != "loss":
                numbers = {str(k): x for k, v in metrics.items() if (x := _number(v)) is not None}
                self.tasks.setdefault(step, {})[str(task)] = numbers

    def history(self) -> History:
        """What is left."""
        found = [self._evaluation(step, self.evaluations[step]) for step in sorted(self.evaluations)]
        newest = {task: Task(step, m) for step in sorted(self.tasks) for task, m in self.tasks[step].items() if m}
        last = (self.steps[-1], self.tokens[-1], self.seconds[-1]) if self.steps else (0, 0, 0.0)
        return History(*last, tuple(e for e in found if e), newest)

    def _evaluation(self, step: int, record: Mapping[str, Any]) -> Evaluation | None:
        """None where the log has lost the step, and nobody knows when that was."""
        i = bisect_left(self.steps, step)
        losses = [_number(record.get(name)) for name in ("val_loss", "bits_per_byte", "train_loss")]
        if i < len(self.steps) and self.steps[i] == step:
            lr = None if math.isnan(self.lr[i]) else self.lr[i]
            return Evaluation(step, self.tokens[i], self.seconds[i], lr, *losses)
        return Evaluation(0, 0, 0.0, None, *losses) if step == 0 else None


ACTIONS: dict[str, Callable[[_Tape, int, Mapping[str, Any]], None]] = {
    "step": _Tape.trained,
    "skip": _Tape.trained,
    "eval": _Tape.evaluated,
    "evaluate": _Tape.examined,
    "resume": _Tape.rewind,
    "rollback": _Tape.rewind,
}


def _records(log: Path) -> Iterator[dict[str, Any]]:
    try:
        with log.open("rb") as file:  # as bytes, where nothing but a newline ends a line
            for line in file:
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict):
                    yield record
    except OSError:
        return


def _number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
