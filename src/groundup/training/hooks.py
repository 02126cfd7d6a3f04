"""What happens between steps: each hook looks at a finished step and may act; none can change training."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from groundup.training.loop import Hook, StepInfo


def every(n: int, action: Hook, *, when_stopping: bool = False) -> Hook:
    """Run `action` every `n` steps (0: never) and at the end of the run; on a requested stop only `when_stopping`."""

    def hook(info: StepInfo) -> None:
        cut_short = info.stopping and not info.finished
        if when_stopping if cut_short else info.finished or (n and info.step % n == 0):
            action(info)

    return hook


def log_step(write: Callable[..., None]) -> Hook:
    """Every step as a record; a step that the guard refused as `skip`."""

    def hook(info: StepInfo) -> None:
        write(
            "step" if info.applied else "skip",
            step=info.step,
            tokens=info.tokens,
            loss=finite(info.loss),
            lr=info.lr,
            grad_norm=finite(info.grad_norm),
            tokens_per_s=round(info.tokens_per_s, 1),
            dt=round(info.dt, 6),
            elapsed=round(info.elapsed, 3),
            cursor=info.cursor,
        )

    return hook


def finite(x: float) -> float | None:
    """x, or None where JSON has no number for it."""
    return x if math.isfinite(x) else None


STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is not on Windows


class StopSignals:
    """While entered, SIGINT, SIGTERM and SIGHUP ask for an orderly stop; a second SIGINT interrupts at once.

    `acknowledge` is called at the first, so that nobody presses Ctrl-C again for want of an answer.
    """

    def __init__(self, acknowledge: Callable[[], None] = lambda: None) -> None:
        self._acknowledge = acknowledge
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether to stop after the step under way."""
        return self.received is not None

    def __enter__(self) -> StopSignals:
        try:
            for number in (getattr(signal, name) for name in STOPPING if hasattr(signal, name)):
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread: whoever runs us handles signals
            self._before.clear()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        first, self.received = self.received is None, number
        if first:
            self._acknowledge()
