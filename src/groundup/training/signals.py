"""Signals that stop training in an orderly way, such as SIGINT and SIGTERM, and SLURM's time limit."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from groundup.utils import ending_signal

# Not all exist on Windows. The program around training may use those of UNLESS_HANDLED itself.
UNLESS_HANDLED = ("SIGUSR2", "SIGXCPU", "SIGALRM", "SIGQUIT")
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", *UNLESS_HANDLED)
SECONDS_BEFORE_LIMIT = 120.0  # that a checkpoint and the exit may take before SLURM's time limit


class StoppedAtOnce(BaseException):
    """Raised out of work that may be broken off. No Exception: a compiler that catches those must not swallow it."""


class StopSignals:
    """Turns signals into a requested stop while entered; a second SIGINT interrupts at once.

    A signal that is ignored already, as under `nohup`, stays ignored; one of UNLESS_HANDLED with a handler keeps that.
    SLURM's time limit (`SLURM_JOB_END_TIME`, seconds since 1970) requests a stop too, two minutes ahead. `acknowledge`
    is called at the first request, so that a user sees an answer to Ctrl-C.

    Of several processes one may receive a signal and all must stop: `agree` returns the largest of the signals they
    received, 0 for none. They must then ask at the same moments.
    """

    def __init__(
        self, acknowledge: Callable[[], None] = lambda: None, agree: Callable[[int], int] | None = None
    ) -> None:
        self._acknowledge, self._agree = acknowledge, agree
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        self._raise_at_once = self._agreed = False
        self._limit = _slurm_limit()

    def __call__(self) -> bool:
        """Whether to stop after the current step."""
        if self.received is None and time.time() > self._limit:
            self._receive(signal.SIGTERM)
        if self._agree is None:
            return self.received is not None
        if not self._agreed:
            number = self._agree(self.received or 0)
            self._agreed = number > 0
            if number and not self.received:
                self._receive(number)
        return self._agreed

    def _receive(self, number: int) -> None:
        self.received = number
        self._acknowledge()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While entered, a signal does not wait for the end of a step: it raises StoppedAtOnce.

        One of several processes waits all the same, since the others would wait for it.
        """
        if self():
            raise StoppedAtOnce
        self._raise_at_once = self._agree is None
        try:
            yield
        except Exception as error:
            if self._raise_at_once and ending_signal.recorded():  # C code has replaced the handler's exception
                raise StoppedAtOnce from error
            raise
        finally:
            self._raise_at_once = False
            ending_signal.forget()

    def __enter__(self) -> StopSignals:
        try:
            for number in (getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)):
                used = number.name in UNLESS_HANDLED and signal.getsignal(number) != signal.SIG_DFL
                if not used and signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup, or not Python's
                    self._previous[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread: the program that runs us handles signals
            self._previous.clear()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            ending_signal.record(number)
            raise KeyboardInterrupt
        if self.received is None:
            self._receive(number)
        self.received = number
        if self._raise_at_once:
            ending_signal.record(number)
            raise StoppedAtOnce


def _slurm_limit() -> float:
    """When to stop because SLURM will, in seconds since 1970."""
    try:
        return float(os.environ["SLURM_JOB_END_TIME"]) - SECONDS_BEFORE_LIMIT
    except (KeyError, ValueError):
        return math.inf
