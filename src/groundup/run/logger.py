"""MetricLogger: a run's log.jsonl, its experiment trackers, and the display."""

import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from groundup.checkpoint.log import Log, finite_number, iter_log
from groundup.checkpoint.run_folder import RunFolder, environment
from groundup.config.resolved import ResolvedConfig
from groundup.model.size import flops_per_token
from groundup.tracking.permission import permitted
from groundup.tracking.trackers import NullTracker, open_trackers
from groundup.training.hooks import report_first_loss
from groundup.training.loop import StepInfo
from groundup.ui.display import Display
from groundup.utils.device import matmul_flops

MAX_SHOWN_BYTES = 64_000_000  # of a log, which is read in some seconds
SHOWN = re.compile(rb'"event": "(step|eval|resume|rollback)"')


class MetricLogger:
    """Writes every record to log.jsonl and the trackers; steps and events worth a line to the display as well."""

    def __init__(self, config: ResolvedConfig, folder: RunFolder, display: Display) -> None:
        self._config, self._folder, self._display = config, folder, display
        self._log: Log | None = None
        self._thread = threading.current_thread()
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()  # for the trackers, from other threads
        self._trackers = NullTracker()
        # A model that was trained, or that has n-gram tables of the text, does not start at random guessing.
        untrained = config.init_from is None and config.model.ngram < 2
        uniform = config.model.vocab if untrained else None
        self._first_loss = report_first_loss(uniform, display.message)

    @contextmanager
    def open(self) -> Iterator[None]:
        """While entered, records are accepted."""
        self._log = Log(self._folder.log)
        with ExitStack() as closing:  # the log reaches the disk whatever the trackers do
            closing.callback(self._log.close)
            info = self._tracker_info()
            tracking = permitted(self._config.tracking, self._folder.path, self._display.message)
            self._trackers = open_trackers(tracking, self._folder.path, info, self._display.message)
            closing.callback(self._trackers.close)
            closing.callback(self._flush_trackers)  # such as the last save, recorded from its own thread
            yield

    def record(self, event: str, **values: Any) -> None:
        """Write one line of log.jsonl; from any thread."""
        assert self._log is not None, "the logger is open"
        self._log.write(event, **values)
        self._waiting.append((event, values))
        if threading.current_thread() is self._thread:
            self._flush_trackers()

    def _flush_trackers(self) -> None:
        """Pass waiting records to the trackers; only from the thread that made the logger."""
        while self._waiting:
            self._trackers.record(*self._waiting.popleft())

    def begin(self, total_steps: int | None, *, resumed: bool) -> None:
        """Give the display the run's length and, of a resumed one, its losses so far, unless the log is very long."""
        log, display = self._folder.log, self._display
        is_read = resumed and display.shows_history and log.stat().st_size <= MAX_SHOWN_BYTES
        display.begin(total_steps, *(logged_losses(log) if is_read else ()))

    def step(self, info: StepInfo) -> None:
        """Display a step, and whether the guard rejected it; after the first, report the loss at the start."""
        self._first_loss(info)
        if not info.applied:
            self._display.message(f"step {info.step:,}: loss {info.loss}, gradient norm {info.grad_norm}: not applied")
        self._display.step(info)

    def spike(self, event: str, **values: Any) -> None:
        """Record and display a loss or gradient norm far above its running mean."""
        self.record(event, **values)
        self._display.message(
            f"step {values['step']:,}: a spike; loss {values['loss']:.3f} and gradient norm {values['grad_norm']:.3f} "
            f"are {values['z_loss']:.1f} and {values['z_grad_norm']:.1f} standard deviations above the mean"
        )

    def stopping(self) -> None:
        """Display that a signal was received."""
        self._display.message("stopping after this step, with a checkpoint; Ctrl-C again stops at once")

    def _tracker_info(self) -> dict[str, Any]:
        if not self._config.tracking.backends:
            return {}
        train = self._config.train
        return {
            "config": self._config.model_dump(mode="json"),
            "environment": environment(),
            "flops_per_token": flops_per_token(self._config.model),
            "peak_flops": matmul_flops(torch.device(train.device), train.precision, train.threads),
        }


def logged_losses(log: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float | None, float]]]:
    """Losses of a run's steps, and training and validation losses of its evaluations, each after its step.

    Left out: what resumes and rollbacks discarded, and evaluations on other text than the newest.
    """
    losses, evaluations = dict[int, float](), dict[int, tuple[float | None, float]]()
    for record in iter_log(log, matching=SHOWN):
        event, step = record["event"], record.get("step")
        if not isinstance(step, int):  # edited by hand
            continue
        if event in ("resume", "rollback"):
            losses = {done: loss for done, loss in losses.items() if done <= step}
            is_same = not record.get("other_text")
            evaluations = {done: found for done, found in evaluations.items() if is_same and done <= step}
        elif event == "step" and (loss := finite_number(record.get("loss"))) is not None:
            losses[step] = loss
        elif event == "eval" and (val_loss := finite_number(record.get("val_loss"))) is not None:
            evaluations[step] = finite_number(record.get("train_loss")), val_loss
    return sorted(losses.items()), [(step, *found) for step, found in sorted(evaluations.items())]


class NullLogger(MetricLogger):
    """No-op log for ranks other than 0."""

    @override
    @contextmanager
    def open(self) -> Iterator[None]:
        yield

    @override
    def begin(self, total_steps: int | None, *, resumed: bool) -> None:
        pass

    @override
    def record(self, event: str, **values: Any) -> None:
        pass
