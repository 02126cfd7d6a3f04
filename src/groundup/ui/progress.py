"""Bars for work measured in bytes, on standard error: where someone watches, and now and then as a line in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from groundup.utils.progress import ProgressReporter

LINE_SECONDS = 10.0  # between two lines where no terminal is; what takes less time stays silent


@contextmanager
def reading(label: str, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Yields a `ProgressReporter` to call with the bytes done so far."""
    with preparing(quiet=quiet) as watch:
        watch.phase(label, None)
        yield watch


@contextmanager
def preparing(*, quiet: bool = False) -> Iterator[ProgressReporter]:
    """A watch that draws a bar on a terminal, and writes a line every ten seconds elsewhere. `quiet`: nothing."""
    console = Console(stderr=True, highlight=False)
    if quiet:
        yield ProgressReporter()
    elif not console.is_terminal:
        yield _Lines(console)
    else:
        columns = (
            *(SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=30)),
            *(DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn(), TimeRemainingColumn()),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            yield _Bar(bar)


class _Bar(ProgressReporter):
    """One bar, which begins anew with each phase."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, visible=False)

    def __call__(self, done: int) -> None:
        self._bar.update(self._task, completed=done)

    def phase(self, name: str, total: int | None, done: int = 0) -> None:
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=total, completed=done)

    def message(self, line: str) -> None:
        self._bar.console.print(Text(line), soft_wrap=True)


class _Lines(ProgressReporter):
    """Lines in a log: what phase, how far, how fast, how much longer."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._name = ""
        self._total: int | None = None
        self._begun = self._last = time.monotonic()
        self._first = 0  # work that goes on does not begin with nothing

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        speed = (done - self._first) / max(now - self._begun, 1e-9)  # bytes a second
        line = f"{self._name} | {done / 1e6:,.1f} MB | {speed / 1e6:,.1f} MB/s"
        if self._total and speed > 0:
            line += f" | {done / self._total:.0%} | {(self._total - done) / speed:,.0f} s left"
        self.message(line)

    def phase(self, name: str, total: int | None, done: int = 0) -> None:
        self._name, self._total, self._first, self._begun = name, total, done, time.monotonic()

    def message(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


@contextmanager
def counting(*, quiet: bool = False) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Yields what to call with the name of some work, and what that gives with how much is done, and of how much."""
    console = Console(stderr=True, highlight=False)
    if quiet or not console.is_terminal:
        yield lambda name: partial(_now_and_then, console, name, [time.monotonic()]) if not quiet else _nothing
        return
    columns = (
        *(SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=30)),
        *(MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console, transient=True) as bar:

        def begun(name: str) -> Callable[[int, int], None]:
            task = bar.add_task(name, total=None)
            return lambda done, of: bar.update(task, completed=done, total=of)

        yield begun


def _nothing(done: int, of: int) -> None:
    pass


def _now_and_then(console: Console, name: str, last: list[float], done: int, of: int) -> None:
    if time.monotonic() - last[0] >= LINE_SECONDS:
        last[0] = time.monotonic()
        console.print(Text(f"{name} | {done:,} of {of:,}"), soft_wrap=True)
