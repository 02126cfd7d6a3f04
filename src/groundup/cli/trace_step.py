"""`groundup why`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from groundup.errors import UsageError
from groundup.ui.format import visible

if TYPE_CHECKING:
    from groundup.diagnostics.trace_step import DocumentExcerpt, StepTrace

EPILOG = """Each window of the global batch with the documents it lies in: source, the byte where the document begins
there, and which of its tokens these are. Of a window's text the beginning and the end are shown; --json has all.

  groundup why runs/mine 700
  groundup why runs/mine 700 --json | jq -r '.windows[].parts[].source' | sort | uniq -c"""

NARROWEST = 20  # characters of text; fewer say nothing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = EPILOG
    parser.add_argument("run", metavar="RUN", help="folder written by `groundup train`")
    parser.add_argument("step", metavar="STEP", type=int, help="a step as in log.jsonl, or one that is yet to come")
    parser.add_argument("--data", metavar="DIR", help="the run's prepared folder, where it has moved")
    parser.add_argument("--width", type=int, metavar="N", help="characters of text a document [the terminal's width]")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with the whole text")


def run(args: argparse.Namespace) -> int:
    """Open the step and print it."""
    from groundup.diagnostics.trace_step import trace_step

    if args.width is not None and args.width < NARROWEST:
        raise UsageError(f"--width {args.width}: must be {NARROWEST} or more")
    found = trace_step(Path(args.run), args.step, Path(args.data) if args.data else None)
    if args.json:
        print(json.dumps(as_json(found)))
        return 0
    indent = len(str(len(found.windows))) + 2
    width = args.width or shutil.get_terminal_size().columns - indent
    console = Console(highlight=False, soft_wrap=True, file=sys.stdout)
    for line in shown(found, indent, max(NARROWEST, width)):
        console.print(line)
    return 0


def as_json(trace_step: StepTrace) -> dict[str, object]:
    """All of it, under names that need no explanation."""
    windows = [
        {
            "cursor": window.cursor,
            "start": window.start,
            "tokens": window.tokens,
            "parts": [{**part._asdict(), "text": text} for part, text in window.excerpts],
        }
        for window in trace_step.windows
    ]
    return {**vars(trace_step), "run": str(trace_step.run), "notes": list(trace_step.notes), "windows": windows}


def shown(trace_step: StepTrace, indent: int, width: int) -> Iterator[Text]:
    """The step in lines: what the log says, then each window's documents and their text."""
    title = Text(f"step {trace_step.step:,}", style="bold")
    for name, value in (("loss", trace_step.loss), ("gradient norm", trace_step.grad_norm)):
        if value is not None:
            title.append(f"   {name} {value:.4g}" if name != "loss" else f"   {name} {value:.4f}", style="not bold")
    yield title
    documents = {(part.source, part.begin) for window in trace_step.windows for part, _ in window.excerpts}
    sources = {source for source, _ in documents}
    of = f"{_many(len(documents), 'document')} in {_many(len(sources), 'source')}"
    first, length = trace_step.windows[0], trace_step.windows[0].tokens - 1
    yield Text(f"windows {first.cursor:,} to {trace_step.windows[-1].cursor:,}, of {length:,} tokens each: {of}")
    for note in trace_step.notes:
        yield Text(note, style="yellow")
    for i, window in enumerate(trace_step.windows, 1):
        yield Text()
        for j, extract in enumerate(window.excerpts):
            number = Text(f"{i if j == 0 else '':>{indent - 2}}  ", style="bold")
            yield number.append_text(_place(extract))
            if extract.text:
                yield Text(" " * indent + shortened(extract.text, width))


def _place(extract: DocumentExcerpt) -> Text:
    part = extract.part
    line = Text(visible(part.source), style="not bold cyan")
    tokens = f", tokens {part.start:,} to {part.stop - 1:,} of {part.length:,}" if extract.text else ", its end"
    return line.append(f" @{part.offset:,}{tokens}", style="not cyan dim")


def shortened(text: str, width: int) -> str:
    """`text` on one line, all in it to be seen; of a long one the beginning and the end, `width` columns together."""
    begin, end = (visible(piece).replace("\n", "⏎") for piece in (text[:width], text[-width:]))
    if len(text) <= width and cell_len(begin) <= width:
        return begin
    left = (width - 3) * 2 // 3
    return f"{_fitting(begin, left)} … {_fitting(end[::-1], width - 3 - left)[::-1]}"


def _fitting(line: str, width: int) -> str:
    """As much of the beginning of a line as fits into `width` columns."""
    used = 0
    for i, char in enumerate(line):
        used += cell_len(char)
        if used > width:
            return line[:i]
    return line


def _many(n: int, thing: str) -> str:
    return f"{n:,} {thing}" + ("" if n == 1 else "s")
