"""Output of `train`, `resume` and `quickstart`: a panel on a terminal, plain lines in a pipe, the final lines."""

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from groundup.config.schema import Config
from groundup.run.trainer import TrainResult
from groundup.ui.console import Console
from groundup.ui.display import Display, NullDisplay, PlainDisplay
from groundup.ui.format import json_line
from groundup.ui.panel import Panel, can_show_panel


@contextmanager
def watching(title: str, config: Config, *, plain: bool = False, quiet: bool = False) -> Iterator[Display]:
    """Display for a run; `plain`: lines on standard error, standard output stays free; `quiet`: none, as on rank 1."""
    if quiet:
        yield NullDisplay()
        return
    console = Console()
    if plain or not can_show_panel(console):
        stream = sys.stderr if plain else sys.stdout
        yield ClosableDisplay(PlainDisplay(partial(print, file=stream, flush=True), config.train.log_every))
        return
    panel = Panel(title, config.train.max_steps, config.train.max_time, console)
    with panel:
        yield ClosableDisplay(panel)


class ClosableDisplay(NullDisplay):
    """Wraps a display whose terminal or pipe may be closed: then it shows nothing more, and training goes on.

    Where the reader of a pipe is gone, as after `| head`, training stops as after SIGTERM.
    """

    def __init__(self, display: Display) -> None:
        self._closed = False
        for name in ("step", "evaluation", "sample", "message"):
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


def finish(result: TrainResult, *, as_json: bool, quiet: bool = False) -> int:
    """Print how a run ended (unless `quiet`); returns the exit status, 128 + n when signal n stopped it."""
    best = result.best
    if quiet:
        pass
    elif as_json:
        values = {**asdict(result), **asdict(result.losses)}
        del values["losses"]
        print(json_line(values, default=lambda path: path.as_posix() if isinstance(path, Path) else str(path)))
    elif result.signal:
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
