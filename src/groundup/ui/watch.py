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
from groundup.ui.panel import Panel, can_show_panel


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


class ClosableDisplay(NullDisplay):
    """Wraps a display whose terminal or pipe may be closed: then it shows nothing more, and training goes on.

    Where the reader of a pipe is gone, as after `| head`, training stops as after SIGTERM.
    """

    def __init__(self, display: Display) -> None:
        self._closed = False
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
