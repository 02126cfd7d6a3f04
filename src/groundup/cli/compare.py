"""`groundup compare`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.cli.parsing import Parser
from groundup.errors import UsageError
from groundup.ui.format import json_line, single_line

if TYPE_CHECKING:
    from groundup.comparison.comparison import Comparison
    from groundup.ui.console import Console

EPILOG = """Compares validation losses at equal tokens, steps and time; the tokens, steps and time that each run needed
to reach the lowest loss that all have reached, also as a multiple of the first run's; results of tasks, with standard
errors; settings that differ. Runs may still be training.

Between two evaluations a loss is interpolated linearly and marked ~; nothing is extrapolated. If tokenizers differ,
losses are in bits per byte of text. Time is training time, evaluations included.

  groundup compare runs/*
  groundup compare runs/adamw runs/muon --out compare.png"""

SUFFIXES = (".png", ".svg")
STYLES = ("cyan", "yellow", "magenta", "green", "red", "blue", "white", "bright_black")  # of curves on a terminal
CHART_LINES = 14


def add_arguments(parser: Parser) -> None:
    parser.epilog = EPILOG
    parser.option("runs RUN", "folders written by `groundup train`", nargs="+")
    parser.option("--out FILE", "plot losses and tasks into a .png or .svg")
    parser.option("--overwrite", "replace an existing FILE")
    parser.option("--at-tokens N", "compare at N tokens, such as 300M [the most that all runs have reached]")
    parser.option("--json", "print one JSON object")


def run(args: argparse.Namespace) -> int:
    from groundup.cli.plan import parse_tokens
    from groundup.comparison.table import as_json, compare

    out = Path(args.out) if args.out else None
    if out:
        _check_out(out, overwrite=args.overwrite)
    elif args.overwrite:
        raise UsageError("--overwrite: there is nothing to replace; give --out FILE")
    tokens = None if args.at_tokens is None else parse_tokens(args.at_tokens, "--at-tokens")
    comparison = compare(args.runs, at_tokens=tokens)
    if out:
        _draw(comparison, out)
    print(json_line(as_json(comparison))) if args.json else _print(comparison)
    if out and not args.json:
        print(f"plotted in {out}")
    return 0


def _check_out(out: Path, *, overwrite: bool) -> None:
    """UsageError if `out` cannot be written, before any run is read."""
    from groundup.comparison.plot import missing

    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {out}: the name must end in {' or '.join(SUFFIXES)}")
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; give a file in it, such as {out / 'compare.png'}")
    if out.exists() and not overwrite:
        raise UsageError(f"--out {out}: exists already; choose another name, or add --overwrite")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}; make it, or choose another")
    if sentence := missing():
        raise UsageError(f"--out {out}: {sentence}")


def _draw(comparison: Comparison, out: Path) -> None:
    """Write the plot atomically."""
    from groundup.comparison.plot import draw
    from groundup.utils.files import replace_bytes

    try:
        replace_bytes(out, draw(comparison, out.suffix.lower().removeprefix(".")))
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror}); choose another path") from error


def _print(comparison: Comparison) -> None:
    from groundup.comparison.table import notes, rows, table
    from groundup.ui.console import Console, print_line
    from groundup.ui.panel import can_show_panel

    console = Console()
    names, lines = [single_line(run.name) for run in comparison.runs], list(rows(comparison))
    for line in table(names, lines, console.width if console.is_terminal else None):
        console.print(line, soft_wrap=True)
    console.print()
    if can_show_panel(console) and not console.no_color and len(names) <= len(STYLES):
        _chart(comparison, names, console)
    for note in notes(comparison):
        print_line(f"note  {note}", console)


def _chart(comparison: Comparison, names: list[str], console: Console) -> None:
    """Print all curves over tokens, and below them the names, ordered by the last loss, highest first."""
    from rich.text import Text

    from groundup.comparison.table import LOSS_NAMES
    from groundup.ui.chart import Series, braille_chart

    curves = [[(float(p.tokens), float(getattr(p, comparison.measure))) for p in run.points] for run in comparison.runs]
    series = [Series(points, style) for points, style in zip(curves, STYLES, strict=False)]
    console.print(Text(f"{LOSS_NAMES[comparison.measure]} over tokens", "bold"))
    console.print(braille_chart(series, min(console.width, 100), CHART_LINES))
    order = sorted(range(len(names)), key=lambda i: -curves[i][-1][1])
    console.print(Text("  ").join(Text(f"━ {names[i]}", STYLES[i]) for i in order))
    console.print()
