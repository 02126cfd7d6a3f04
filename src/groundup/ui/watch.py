"""The display that fits where a run is watched: a panel on a terminal or in a notebook, plain lines elsewhere."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from groundup.config.sections import TrainConfig
from groundup.ui.console import Console
from groundup.ui.display import Display, NullDisplay, PlainDisplay
from groundup.ui.notebook import in_notebook
from groundup.ui.panel import NotebookPanel, Panel, can_show_panel
from groundup.ui.progress import log_line, shows
from groundup.utils.wording import worded_for_python


@contextmanager
def watching(title: str, train: TrainConfig, *, plain: bool = False, quiet: bool = False) -> Iterator[Display]:
    """Display for a run; `plain`: lines on standard error, standard output stays free; `quiet`: none, as on rank 1."""
    if quiet:
        yield NullDisplay()
        return
    console = Console()
    if plain or not can_show_panel(console):
        stream = sys.stderr if plain else sys.stdout
        yield ClosableDisplay(PlainDisplay(partial(print, file=stream, flush=True), train.log_every))
        return
    with Panel(title, train.max_steps, train.max_time, console) as panel:
        yield ClosableDisplay(panel)


@contextmanager
def watching_call(title: str, train: TrainConfig, *, progress: bool = True) -> Iterator[Display]:
    """Display for a run of the Python API: a panel in a notebook or on a terminal, else lines on standard error.

    Without `progress`, and where the logger `groundup` is enabled at INFO, lines go to that logger and nowhere else.
    """
    if not shows(progress):
        yield _worded(PlainDisplay(log_line, train.log_every))
    elif in_notebook():
        with NotebookPanel(title, train.max_steps, train.max_time) as panel:
            yield _worded(ClosableDisplay(panel))
    else:
        with watching(title, train, plain=not can_show_panel(Console())) as display:
            yield _worded(display)


def _worded(display: Display) -> Display:
    """The display, whose messages speak of arguments instead of options."""
    show = display.message
    display.message = lambda text: show(worded_for_python(text))  # type: ignore[method-assign]
    return display


class ClosableDisplay(NullDisplay):
    """Wraps a display whose terminal or pipe may be closed: then it shows nothing more, and training goes on.

    Where the reader of a pipe is gone, as after `| head`, training stops as after SIGTERM.
    """

    def __init__(self, display: Display) -> None:
        self._closed = False
        self.shows_history = display.shows_history
        for name in ("begin", "step", "evaluation", "sample", "message"):
            setattr(self, name, partial(self._show, getattr(display, name)))

    def _show(self, show: Callable[..., None], *args: Any, **values: Any) -> None:
        if self._closed:
            return
        try:
            show(*args, **values)
        except (OSError, ValueError) as error:
            self._closed = True
            if isinstance(error, BrokenPipeError):
                signal.raise_signal(signal.SIGTERM)
        except RuntimeError as error:
            if "reentrant" not in str(error):  # a signal handler's message while a line is written: drop the message
                raise
