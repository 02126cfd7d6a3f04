"""Watching a run from the command line: a panel on a terminal, plain lines in a pipe."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TextIO

from rich.console import Console

from groundup.build import Result
from groundup.config import Config
from groundup.report.lines import Lines
from groundup.report.panel import Panel, can_show_panel
from groundup.report.view import View


@contextmanager
def watching(title: str, config: Config, *, plain: bool = False) -> Iterator[View]:
    """A view for a run of `config`; `plain` keeps standard output free and writes lines to standard error."""
    console = Console()
    if plain or not can_show_panel(console):
        stream = sys.stderr if plain else sys.stdout
        yield Lines(partial(_print_line, stream), config.train.log_every)
        return
    with Panel(title, config.train.max_steps, config.train.budget, console) as panel:
        yield panel


def _print_line(stream: TextIO, line: str) -> None:
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:  # whoever read has gone: end as on any request to stop, with a checkpoint
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        signal.raise_signal(signal.SIGTERM)


def finish(result: Result, *, as_json: bool) -> int:
    """Say how a run ended; returns the exit status, 128 + n when signal n stopped it."""
    best = result.best
    if as_json:
        values = {**asdict(result), **asdict(result.losses)}
        del values["losses"]
        print(json.dumps(values, default=lambda path: path.as_posix() if isinstance(path, Path) else str(path)))
    elif result.signal:
        print(f"stopped at step {result.step:,}; saved in {result.checkpoint}")
        print(f"next: groundup resume {result.run}")
    else:
        print(f"step {result.step:,} saved in {result.checkpoint}")
        earlier = best.loss is not None and best.step < result.step
        if earlier:
            print(f"best validation loss {best.loss:.4f} at step {best.step:,}: --checkpoint best uses that one")
        print(f"next: groundup generate {result.run} --prompt TEXT{' --checkpoint best' if earlier else ''}")
    return 128 + result.signal if result.signal else 0
