"""What a run tells: its log, its trackers, and whoever watches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from groundup.checkpoint.log import Log
from groundup.checkpoint.run_folder import RunFolder, environment
from groundup.config.schema import Config
from groundup.model.size import flops_per_token
from groundup.tracking.trackers import Trackers, open_trackers
from groundup.training.hooks import first_loss
from groundup.training.loop import StepInfo
from groundup.ui.display import Display
from groundup.utils.device import matmul_flops


class MetricLogger:
    """Every record goes to log.jsonl and to the trackers; steps and what is worth a line to the view as well."""

    def __init__(self, config: Config, folder: RunFolder, display: Display) -> None:
        self.config, self.folder, self.display = config, folder, display
        self._log: Log | None = None
        self._thread = threading.current_thread()
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()  # for the trackers, from other threads
        self._say = display.message if display else print
        self._trackers = Trackers([], self._say)
        ignorant = (
            config.init_from is None and config.model.ngram < 2
        )  # weights are drawn, and nothing was counted before
        self._first = first_loss(config.model.vocab, self._say) if ignorant else None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While entered, records are taken."""
        self._log = Log(self.folder.log)
        with ExitStack() as closing:  # the log reaches the disk whatever the trackers do
            closing.callback(self._log.close)
            self._trackers = open_trackers(self.config.tracking, self.folder.path, self._facts(), self.display.message)
            closing.callback(self._trackers.close)
            closing.callback(self._pass_on)  # such as the last save, which was noted from its own thread
            yield

    def record(self, event: str, **values: Any) -> None:
        """One line of log.jsonl; from any thread."""
        assert self._log is not None, "nobody is listening"
        self._log.write(event, **values)
        self._waiting.append((event, values))
        if threading.current_thread() is self._thread:
            self._pass_on()

    def _pass_on(self) -> None:
        """Tell the trackers what has been noted since; from the one thread that may."""
        while self._waiting:
            self._trackers.record(*self._waiting.popleft())

    def step(self, info: StepInfo) -> None:
        """A step, and whether the guard kept it from the weights; before the first, what to make of its loss."""
        if self._first:
            self._first(info)
        if not info.applied:
            self.display.message(f"step {info.step}: loss {info.loss}, gradient norm {info.grad_norm}: not applied")
        self.display.step(info)

    def spike(self, event: str, **values: Any) -> None:
        """A loss or gradient norm far above the usual."""
        self.record(event, **values)
        self.display.message(
            f"step {values['step']:,}: a spike; loss {values['loss']:.3f} and gradient norm {values['grad_norm']:.3f} "
            f"are {values['z_loss']:.1f} and {values['z_grad_norm']:.1f} standard deviations above the usual"
        )

    def stopping(self) -> None:
        """The answer to a signal."""
        self.display.message("stopping after this step, with a checkpoint; Ctrl-C again stops at once")

    def _facts(self) -> dict[str, Any]:
        if not self.config.tracking.backends:
            return {}
        train = self.config.train
        assert train.precision != "auto", "a run's config is settled"
        return {
            "config": self.config.model_dump(mode="json"),
            "environment": environment(),
            "flops_per_token": flops_per_token(self.config.model),
            "peak_flops": matmul_flops(torch.device(train.device), train.precision, train.threads or 1),
        }


class NullLogger(MetricLogger):
    """What all but the first of several processes have: it tells nobody anything."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Nothing."""
        yield

    def record(self, event: str, **values: Any) -> None:
        """Nothing."""
