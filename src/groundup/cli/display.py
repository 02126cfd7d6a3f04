"""Watching a run from the command line: a panel on a terminal, plain lines in a pipe."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from groundup.config.schema import Config
from groundup.run.trainer import TrainResult
from groundup.ui.display import Display, NullDisplay
from groundup.ui.lines import PlainDisplay
from groundup.ui.panel import Panel, can_show_panel


@contextmanager
def watching(title: str, config: Config, *, plain: bool = False, quiet: bool = False) -> Iterator[Display]:
    """A view for a run of `config`; `plain` keeps standard output free and writes lines to standard error.

    `quiet` says nothing: one of several processes speaks for all.
    """
    if quiet:
        yield NullDisplay()
        return
    console = Console()
    if plain or not can_show_panel(console):
        stream = sys.stderr if plain else sys.stdout
        yield Unfailing(PlainDisplay(partial(print, file=stream, flush=True), config.train.log_every))
        return
    panel = Panel(title, config.train.max_steps, config.train.max_time, console)
    try:
        yield Unfailing(panel.__enter__())
    finally:
        with suppress(OSError):  # of a terminal that was closed
            panel.__exit__(None, None, None)


class Unfailing:
    """A view whose terminal may be closed, or whose reader may leave: it falls silent and asks for an orderly stop."""

    def __init__(self, display: Display) -> None:
        self._view, self._gone = display, False

    def step(self, **values: Any) -> None:
        """As the view that is watched."""
        self._tell(self._view.step, **values)

    def evaluation(self, **values: Any) -> None:
        """As the view that is watched."""
        self._tell(self._view.evaluation, **values)

    def sample(self, text: str) -> None:
        """As the view that is watched."""
        self._tell(self._view.sample, text)

    def message(self, text: str) -> None:
        """As the view that is watched."""
        self._tell(self._view.message, text)

    def _tell(self, tell: Callable[..., None], *text: str, **values: Any) -> None:
        if self._gone:
            return
        try:
            tell(*text, **values)
        except (OSError, ValueError):
            self._gone = True
            signal.raise_signal(signal.SIGTERM)
        except RuntimeError as error:
            if "reentrant" not in str(error):  # a signal's message in the middle of a line: the line matters more
                raise


def finish(result: TrainResult, *, as_json: bool, quiet: bool = False) -> int:
    """Say how a run ended, or `quiet` say nothing; returns the exit status, 128 + n when signal n stopped it."""
    best = result.best
    if quiet:
        pass
    elif as_json:
        values = {**asdict(result), **asdict(result.losses)}
        del values["losses"]
        print(json.dumps(values, default=lambda path: path.as_posix() if isinstance(path, Path) else str(path)))
    elif result.signal:
        with suppress(OSError):  # the terminal may be what has gone
            print(f"stopped at step {result.step:,}; saved in {result.checkpoint}")
            print("next:", shlex.join(["groundup", "resume", str(result.run)]), flush=True)
    else:
        print(f"step {result.step:,} saved in {result.checkpoint}")
        earlier = best.loss is not None and best.step < result.step
        if earlier:
            print(f"best validation loss {best.loss:.4f} at step {best.step:,}: --checkpoint best uses that one")
        words = ["groundup", "generate", str(result.run), "--prompt", "TEXT"]
        print("next:", shlex.join([*words, *(["--checkpoint", "best"] if earlier else [])]))
    return 128 + result.signal if result.signal else 0
