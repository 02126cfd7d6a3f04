"""`groundup quickstart`."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from groundup.cli.parsing import Parser
from groundup.errors import UsageError
from groundup.evaluation.baselines import Baseline
from groundup.evaluation.memorization import Memorization
from groundup.sources.corpus import PYTHON_DOCS
from groundup.ui.console import Console
from groundup.ui.format import json_line, visible
from groundup.ui.progress import byte_progress

if TYPE_CHECKING:
    from groundup.quickstart.workflow import Report

BAR = 30  # cells of the longest bar


def add_arguments(parser: Parser) -> None:
    parser.epilog = (
        "Looks at the text and the machine, chooses tokenizer, model, context, batch and run length, and says why.\n"
        "Without a text, it uses the documentation that came with your Python: no download.\n\n"
        "  groundup quickstart\n"
        "  groundup quickstart my-book.txt --minutes 10"
    )
    parser.option("sources TEXT", "files, folders, corpora; as for `groundup prepare`", nargs="*")
    parser.option("--minutes X", "time to train [3]", type=float, default=3.0)
    parser.option("--out RUN", "folder for data and run [runs/NAME, after the text]")
    parser.option("--tokenizer NAME", "as for `groundup prepare` [by the text]")
    parser.option("--json", "print the report as JSON; progress goes to standard error")


def run(args: argparse.Namespace) -> int:
    if not 0 < args.minutes < float("inf"):
        raise UsageError(f"--minutes {args.minutes}: must be more than 0")
    from groundup.cli.display import watching
    from groundup.quickstart.workflow import free_folder, quickstart

    sources = args.sources or [PYTHON_DOCS]
    out = Path(args.out) if args.out else free_folder(sources)
    stream = sys.stderr if args.json else sys.stdout
    found = quickstart(
        sources,
        out,
        minutes=args.minutes,
        tokenizer=args.tokenizer,
        say=lambda line: print(line, file=stream, flush=True),
        reading=partial(byte_progress, quiet=args.json),
        watching=partial(watching, plain=args.json),
    )
    if args.json:
        values = {
            "run": str(out),
            "steps": found.result.step,
            "checkpoint": found.checkpoint,
            "val_loss": found.loss,
            "bits_per_byte": found.bits_per_byte,
            "baselines": [asdict(b) for b in found.baselines],
            "samples": found.samples,
            "overlap": asdict(found.overlap) | {"recites": found.overlap.is_memorized},
        }
        print(json_line(values))
    else:
        show(found)
    return 128 + found.result.signal if found.result.signal else 0


def show(found: Report) -> None:
    """Print bits per byte of the model and the baselines, how each was computed, the samples, and next commands."""
    console = Console()
    model = Baseline("this model", found.bits_per_byte, found.how)
    rows = sorted([model, *found.baselines], key=lambda row: row.bits_per_byte)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("bits per byte of held-out text (less is better)")
    table.add_column(justify="right")
    table.add_column()
    for row in rows:
        style = "bold green" if row is model else ""
        bar = "█" * max(1, round(row.bits_per_byte / rows[-1].bits_per_byte * BAR))
        table.add_row(Text(row.name, style), Text(f"{row.bits_per_byte:.3f}", style), Text(bar, style or "dim"))
    console.print()
    console.print(table)
    console.print("\nHow each is computed")
    for row in [model, *found.baselines]:
        console.print(Text(f"  {row.name}: {row.how}", "dim"))
    console.print(Text(f"  Baselines use the last {found.compared:,} bytes of the training text.", "dim"))
    for i, sample in enumerate(found.samples, 1):
        console.print(Rule(Text(f"sample {i}", "dim"), align="left", style="dim"))
        console.print(Text(visible(sample).strip()))
    console.print(Rule(style="dim"))
    console.print(Text(describe_overlap(found.overlap)))
    run, data = shlex.quote(str(found.result.run)), shlex.quote(str(found.data))
    ended = f"stopped by signal {found.result.signal}" if found.result.signal else "done"
    console.print(f"{ended} after {found.result.step:,} steps; run in {found.result.run}, tokens in {found.data}")
    best, which = found.result.best, ""
    if best.loss is not None and best.step < found.result.step:
        which = " --checkpoint best"
        console.print(f"the above is about the best checkpoint, at step {best.step:,}; the loss was no lower after it")
    console.print("\nwhat to try next")
    for command, effect in (
        (f"groundup generate {run}{which} --prompt {shlex.quote(found.prompt)} --num-samples 3", "generate more text"),
        (f"groundup quickstart {shlex.join(found.sources)} --minutes 15", "train for longer"),
        ("groundup quickstart your-text.txt", "your own text, or a folder of texts"),
        (f"groundup train modern-mini --data {data} --out runs/mini", "a larger model, for longer"),
    ):
        console.print(Text(f"  {command}\n      {effect}"), soft_wrap=True)


def describe_overlap(found: Memorization) -> str:
    """Whether the samples are memorized, as a sentence."""
    usual = f"held-out text shares up to {found.usual} bytes in a row with it"
    if found.is_memorized:
        shared = f"a sample shares {found.length} bytes in a row with the training text"
        return f"Memorized: {shared}; {usual}: {found.text!r}"
    return f"Not memorized: the samples share {found.length} bytes in a row with the training text; {usual}."
