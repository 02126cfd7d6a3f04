"""What happens between steps: each hook looks at a finished step and may act; none can change training."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
            context=info.context,
        )

    return hook


FAR = 0.5  # nats; logits with a variance of s add s / 2, so the first ones would vary by more than 1


def first_loss(vocab: int, say: Callable[[str], None]) -> Hook:
    """The loss before anything is learnt, beside that of `vocab` equal chances, ln V; a warning where it is far off."""
    ignorance = math.log(vocab)

    def hook(info: StepInfo) -> None:
        if info.step != 1:
            return
        say(f"start    loss {info.loss:.4f}; to know nothing is ln({vocab:,}) = {ignorance:.4f}")
        if not abs(info.loss - ignorance) <= FAR:  # a NaN is far as well
            say(f"warning  the first loss is far from that: {_why(info.loss, ignorance)}")

    return hook


def _why(loss: float, ignorance: float) -> str:
    if not math.isfinite(loss):
        return "it is no number; look for such weights (--init), or give --train.precision fp32"
    if loss > ignorance:
        return f"{loss - ignorance:.2f} nats above; the weights begin too large (model.init)"
    return f"{ignorance - loss:.2f} nats below; the targets leak into the input, or a few tokens are most of the text"


def finite(x: float) -> float | None:
    """x, or None where JSON has no number for it."""
    return x if math.isfinite(x) else None


def every_minutes(minutes: float | None, action: Hook, agree: Callable[[bool], bool] = bool) -> Hook:
    """Run `action` whenever that much time has passed since it last ran; None: never.

    `agree` makes one answer of those that several processes give.
    """
    began = time.monotonic()

    def hook(info: StepInfo) -> None:
        nonlocal began
        if minutes is not None and agree(time.monotonic() - began >= 60 * minutes):
            began = time.monotonic()
            action(info)

    return hook


STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # the last two are not on Windows
BEFORE_LIMIT = 120.0  # seconds that a checkpoint and the way out may take before SLURM's time limit


class StoppedAtOnce(BaseException):
    """Raised out of work that may be broken off. No Exception: a compiler that catches those must not swallow it."""


class StopSignals:
    """While entered, SIGINT, SIGTERM, SIGHUP and SIGUSR1 ask for an orderly stop; a second SIGINT interrupts at once.

    What is ignored already, as by `nohup`, stays ignored. SLURM's time limit asks too (`SLURM_JOB_END_TIME`, seconds
    since 1970), two minutes ahead. `acknowledge` is called at the first, so that nobody presses Ctrl-C again for want
    of an answer.

    Of several processes, one may be asked and all must stop: `agree` gives the highest of the signals that they
    received, 0 for none. They must then ask at the same moments.
    """

    def __init__(
        self, acknowledge: Callable[[], None] = lambda: None, agree: Callable[[int], int] | None = None
    ) -> None:
        self._acknowledge, self._agree = acknowledge, agree
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._at_once = self._agreed = False
        self._limit = _slurm_limit()

    def __call__(self) -> bool:
        """Whether to stop after the step under way."""
        if self.received is None and time.time() > self._limit:
            self._receive(signal.SIGTERM)
        if self._agree is None:
            return self.received is not None
        if not self._agreed:
            highest = self._agree(self.received or 0)
            self._agreed = highest > 0
            if highest and not self.received:
                self._receive(highest)
        return self._agreed

    def _receive(self, number: int) -> None:
        self.received = number
        self._acknowledge()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While inside, a signal does not wait for the end of a step: it raises StoppedAtOnce.

        One of several processes does wait: the others would wait for it.
        """
        if self():
            raise StoppedAtOnce
        self._at_once = self._agree is None
        try:
            yield
        finally:
            self._at_once = False

    def __enter__(self) -> StopSignals:
        try:
            for number in (getattr(signal, name) for name in STOPPING if hasattr(signal, name)):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup, or a handler not of Python's
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
        meant = signal.SIGINT if number == signal.SIGINT else number if number == _HUP else signal.SIGTERM
        if self.received is None:
            self._receive(meant)
        self.received = meant
        if self._at_once:
            raise StoppedAtOnce


_HUP = getattr(signal, "SIGHUP", None)


def _slurm_limit() -> float:
    """When to stop because SLURM will, in seconds since 1970."""
    try:
        return float(os.environ["SLURM_JOB_END_TIME"]) - BEFORE_LIMIT
    except (KeyError, ValueError):
        return math.inf
