"""A run's log.jsonl: writer, reader, and the history that is left after kills, resumes and rollbacks. No torch here."""

import json
import math
import os
import re
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, BinaryIO

from groundup.checkpoint.files import unreadable
from groundup.errors import CheckpointError
from groundup.utils.reading import MAX_BYTES, open_own, open_regular, parse_json

EVAL_CHECKPOINT = "eval_checkpoint"  # event of `groundup evaluate`, after training
EVAL_CHECKPOINT_EVENTS = (EVAL_CHECKPOINT, "evaluate")  # previous versions wrote the second


class Log:
    """Appends records to log.jsonl, one JSON object per line; each line is complete before the next begins."""

    def __init__(self, path: Path) -> None:
        """OSError; CheckpointError where something else than a file is there, such as a link."""
        try:
            handle = open_own(path, os.O_WRONLY | os.O_APPEND)
        except ValueError as error:
            raise CheckpointError(f"{path}: is {error}; remove it") from error
        # A line reaches the system when it is complete.
        self._file = os.fdopen(handle, "a", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()  # the thread that writes checkpoints logs as well
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            if file.read() not in (b"", b"\n"):
                self._file.write("\n")  # the previous process was killed while it wrote a line

    def write(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, **values}, ensure_ascii=False) + "\n"
        with self._lock:
            self._file.write(line)

    def close(self) -> None:
        """Flush to disk and close."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def last_saved(path: Path) -> int | None:
    """The step of the newest checkpoint that should be there, by a log; None if there should be none."""
    found = iter_log(path, matching=re.compile(rb'"event": "(save|resume|rollback)"'))
    steps = [(record["event"], record["step"]) for record in found if isinstance(record.get("step"), int)]
    newest, kept_until = None, math.inf
    for event, step in reversed(steps):
        if event != "save":
            kept_until = min(kept_until, step)
        elif step <= kept_until:
            newest = step if newest is None else max(newest, step)
    return newest


def iter_log(
    path: Path, *, matching: re.Pattern[bytes] | None = None, on_unreadable: Callable[[bytes], None] = lambda line: None
) -> Iterator[dict[str, Any]]:
    """Records of a log in the order written; none where there is no log.

    Lines that are no record, such as one cut off by a crash, go to `on_unreadable`. Only lines that `matching` finds
    are parsed: parsing all of a long run takes minutes. CheckpointError where the log is a pipe or a device;
    UnreadableError.
    """
    try:
        with open_regular(path) as file:  # as bytes, where only a newline ends a line
            for line in _lines(file):
                if matching is not None and not matching.search(line):
                    continue
                try:
                    record = parse_json(line)
                except ValueError:
                    record = None
                if isinstance(record, dict) and isinstance(record.get("event"), str):
                    yield record
                elif line.strip():
                    on_unreadable(line)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise unreadable(error, path) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; put back the log.jsonl of the run, or remove this") from None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of a file; of one longer than a record can be, the first part alone."""
    complete = True
    while line := file.readline(MAX_BYTES):
        if complete:
            yield line
        complete = line.endswith(b"\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """All records of a log, as of `iter_log`."""
    return list(iter_log(path))


def finite_number(value: object) -> float | None:
    """`value` as a float if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def task_metrics(results: object) -> dict[str, dict[str, float]]:
    """The finite numbers of each task in the results of a record, which may be of any type."""
    return {
        task: {name: x for name, value in metrics.items() if (x := finite_number(value)) is not None}
        for task, metrics in (results.items() if isinstance(results, dict) else ())
        if isinstance(metrics, dict) and task != "loss"
    }


@dataclass(frozen=True)
class Evaluation:
    """Losses at one step, and the run's position there."""

    step: int
    tokens: int  # trained on so far
    seconds: float  # training time so far, with evaluations; without interruptions and what a crash lost
    lr: float | None  # of the step before it
    val_loss: float | None  # nats per token; None where it was not finite, or nothing was held out
    bits_per_byte: float | None  # of the validation text
    train_loss: float | None  # nats per token
    text: int = 0  # texts evaluated on before; losses on different ones cannot be compared


@dataclass(frozen=True)
class Task:
    """Results of one task by metric, and the step they are of."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class History:
    """A run from its first step to its last."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluations: tuple[Evaluation, ...] = ()  # in order of steps, one per step
    tasks: dict[str, Task] = field(default_factory=dict)  # the newest of each


def read_history(log: Path) -> History:
    """The history in a log.jsonl; an empty one where there is none.

    Where a run went back, to a checkpoint after a kill or on a rollback, the records after that step are dropped: the
    later record of a step wins.
    """
    builder = _HistoryBuilder()
    for record in iter_log(log):
        event, step = record["event"], record.get("step")
        if not isinstance(step, int) or step < 0:
            continue
        if event in ("step", "skip"):  # a skipped step was not applied
            builder.add_step(step, record)
        elif event == "eval":
            builder.add_evaluation(step, record)
        elif event in EVAL_CHECKPOINT_EVENTS:
            builder.add_tasks(step, record.get("results"))
        elif event in ("resume", "rollback"):
            builder.drop_after(step)
            builder.text += record.get("other_text") is True
    return builder.history()


class _HistoryBuilder:
    """Steps in order, in 32 bytes each: a long run has millions."""

    def __init__(self) -> None:
        self.steps, self.tokens, self.seconds, self.lr = array("q"), array("q"), array("d"), array("d")
        self.columns: tuple[array[Any], ...] = (self.steps, self.tokens, self.seconds, self.lr)
        self.evaluations: dict[int, Mapping[str, Any]] = {}
        self.tasks: dict[int, dict[str, dict[str, float]]] = {}
        self.evaluated: list[int] = []  # steps of both, negated: a heap whose first is the latest
        self.text = 0

    def drop_after(self, step: int) -> None:
        n = bisect_right(self.steps, step)
        for column in self.columns:
            del column[n:]
        while self.evaluated and -self.evaluated[0] > step:
            later = -heappop(self.evaluated)
            self.evaluations.pop(later, None)
            self.tasks.pop(later, None)

    def add_step(self, step: int, record: Mapping[str, Any]) -> None:
        if not self.steps or step <= self.steps[-1]:
            self.drop_after(step - 1)
        tokens, seconds = record.get("tokens"), finite_number(record.get("elapsed"))
        if isinstance(tokens, int) and 0 <= tokens < 2**63 and step < 2**63 and seconds is not None:
            lr = finite_number(record.get("lr"))
            values = (step, tokens, seconds, math.nan if lr is None else lr)
            for column, value in zip(self.columns, values, strict=True):
                column.append(value)

    def add_evaluation(self, step: int, record: Mapping[str, Any]) -> None:
        self.evaluations[step] = {**record, "text": self.text}
        heappush(self.evaluated, -step)
        self.add_tasks(step, record.get("tasks"))

    def add_tasks(self, step: int, results: object) -> None:
        if found := task_metrics(results):
            heappush(self.evaluated, -step)
            self.tasks.setdefault(step, {}).update(found)

    def history(self) -> History:
        found = [self._evaluation(step, self.evaluations[step]) for step in sorted(self.evaluations)]
        newest = {task: Task(step, m) for step in sorted(self.tasks) for task, m in self.tasks[step].items() if m}
        last = (self.steps[-1], self.tokens[-1], self.seconds[-1]) if self.steps else (0, 0, 0.0)
        return History(*last, tuple(e for e in found if e), newest)

    def _evaluation(self, step: int, record: Mapping[str, Any]) -> Evaluation | None:
        """None where the log lacks the step, so that its tokens and time are unknown."""
        i = bisect_left(self.steps, step)
        val, bits, train = (finite_number(record.get(name)) for name in ("val_loss", "bits_per_byte", "train_loss"))
        text = record["text"]
        if i < len(self.steps) and self.steps[i] == step:
            lr = finite_number(self.lr[i])
            return Evaluation(step, self.tokens[i], self.seconds[i], lr, val, bits, train, text)
        return Evaluation(0, 0, 0.0, None, val, bits, train, text) if step == 0 else None
