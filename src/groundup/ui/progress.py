"""Progress of long work: a bar on a terminal or in a notebook, else a line every ten seconds on standard error."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from html import escape

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TransferSpeedColumn,
)
from rich.text import Text
from typing_extensions import override

from groundup.ui.console import Console, can_redraw
from groundup.ui.format import human_time, single_line, visible
from groundup.ui.notebook import CellOutput, in_notebook
from groundup.utils.progress import ProgressReporter
from groundup.utils.wording import worded_for_python

LINE_SECONDS = 10.0  # between two lines; shorter work prints none
DELAY_SECONDS = 2.0  # until a notebook shows a bar; shorter work shows none


def shows(progress: bool) -> bool:
    """Whether a call of the Python API shows its progress, rather than to log it.

    `progress`: whether the caller wants it. Where the logger `groundup` is enabled at INFO, its lines are enough.
    """
    return progress and not logging.getLogger("groundup").isEnabledFor(logging.INFO)


def log_line(line: str) -> None:
    """Log a line to the logger `groundup`, at INFO."""
    logging.getLogger("groundup").info(line)


@contextmanager
def reporting(progress: Callable[[int], None] | bool | None) -> Iterator[ProgressReporter]:
    """Yields the reporter for the argument `progress` of the Python API: a function of bytes done, or whether to show.

    Messages that are not shown go to the logger `groundup`.
    """
    if isinstance(progress, ProgressReporter):
        yield progress
    elif callable(progress):
        yield ProgressReporter(progress)
    elif shows(bool(progress)):
        with byte_progress() as reporter:
            yield _WordedForPython(reporter)
    else:
        yield _Log()


class _WordedForPython(ProgressReporter):
    """Another reporter, whose messages name arguments of the Python API instead of options."""

    def __init__(self, reporter: ProgressReporter) -> None:
        super().__init__(reporter)
        self._reporter = reporter

    def phase(self, name: str, total: int | None, done: int = 0) -> None:
        self._reporter.phase(name, total, done)

    def message(self, line: str) -> None:
        self._reporter.message(worded_for_python(line))


class _Log(ProgressReporter):
    """Messages to the logger `groundup`."""

    def message(self, line: str) -> None:
        log_line(single_line(worded_for_python(line)))


@contextmanager
def byte_progress(*, quiet: bool = False) -> Iterator[ProgressReporter]:
    """Yields a reporter of bytes: a bar on a terminal, lines elsewhere. `quiet`: no output."""
    console = Console(stderr=True)
    if quiet:
        yield ProgressReporter()
    elif in_notebook():
        with _cell_bar() as bar:
            yield bar
    elif not can_redraw(console):
        yield _Lines(console)
    else:
        with _progress_bar(console, DownloadColumn(), TransferSpeedColumn()) as bar:
            yield _Bar(bar)


def _progress_bar(console: Console, *amounts: ProgressColumn) -> Progress:
    name = TextColumn("{task.description}", markup=False)
    return Progress(SpinnerColumn(), name, BarColumn(30), *amounts, _TimeColumn(), console=console, transient=True)


class _TimeColumn(ProgressColumn):
    """Time left; where that is not known, the time so far."""

    max_refresh = 0.5

    @override
    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text(f"after {human_time(task.elapsed or 0)}" if left is None else f"{human_time(left)} left", "cyan")


class _Bar(ProgressReporter):
    """One bar, restarted for each phase."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, visible=False)

    def __call__(self, done: int) -> None:
        self._bar.update(self._task, completed=done)

    def phase(self, name: str, total: int | None, done: int = 0) -> None:
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=total, completed=done)

    def message(self, line: str) -> None:
        self._bar.console.print(Text(single_line(line)), soft_wrap=True)


@contextmanager
def _cell_bar() -> Iterator["_CellBar"]:
    bar = _CellBar()
    try:
        yield bar
    finally:
        bar.close()


class _CellBar(ProgressReporter):
    """A bar in a cell of a notebook."""

    def __init__(self) -> None:
        self._output, self._name = CellOutput(delay=DELAY_SECONDS), ""
        self._total: int | None = None

    def __call__(self, done: int) -> None:
        self._draw(self._name, done, self._total, f"{done / 1e6:,.1f} MB")

    def phase(self, name: str, total: int | None, done: int = 0) -> None:
        self._name, self._total = name, total

    def count(self, name: str, done: int, of: int) -> None:
        """Show `done` of so many things."""
        self._name = name
        self._draw(name, done, of, f"{done:,} of {of:,}")

    def message(self, line: str) -> None:
        print(single_line(line), flush=True)

    def close(self) -> None:
        """Show that the work has ended, where a bar was shown."""
        if self._output.is_shown:
            self._output.draw(lambda: (f"<p>{escape(visible(self._name))}: done</p>", f"{self._name}: done"), now=True)

    def _draw(self, name: str, done: int, total: int | None, amount: str) -> None:
        share = f' value="{done}" max="{total}"' if total else ""
        text = f"{visible(name)} {amount}" + (f" ({done / total:.0%})" if total else "")
        self._output.draw(lambda: (f"<progress{share}></progress> {escape(text)}", text))


class _Lines(ProgressReporter):
    """Lines in a log: phase, amount, speed, time left."""

    def __init__(self, console: Console) -> None:
        self._console, self._last = console, time.monotonic()
        self.phase("", None)

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        speed = (done - self._first) / max(now - self._begun, 1e-9)  # bytes per second
        line = f"{self._name} | {done / 1e6:,.1f} MB | {speed / 1e6:,.1f} MB/s"
        if self._total and speed > 0:
            line += f" | {done / self._total:.0%} | {(self._total - done) / speed:,.0f} s left"
        self.message(line)

    def phase(self, name: str, total: int | None, done: int = 0) -> None:
        self._name, self._total, self._begun = name, total, time.monotonic()
        self._first = done  # resumed work does not start at 0

    def message(self, line: str) -> None:
        self._console.print(Text(single_line(line)), soft_wrap=True)


@contextmanager
def count_progress(*, quiet: bool = False) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Yields a function that takes a task's name and returns a function to call with its done and total counts."""
    console = Console(stderr=True)
    if quiet:
        yield lambda name: lambda done, of: None
    elif in_notebook():
        with _cell_bar() as cell:
            yield lambda name: partial(cell.count, name)
    elif not can_redraw(console):
        yield partial(_CountLines, console)
    else:
        with _progress_bar(console, MofNCompleteColumn()) as bar:

            def start(name: str) -> Callable[[int, int], None]:
                task = bar.add_task(name, total=None)
                return lambda done, of: bar.update(task, completed=done, total=of)

            yield start


class _CountLines:
    """Lines in a log: how many of a task's things are done."""

    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name, self._last = console, name, time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS:
            self._last = now
            self._console.print(Text(f"{self._name} | {done:,} of {of:,}"), soft_wrap=True)
