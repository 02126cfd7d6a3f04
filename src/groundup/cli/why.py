"""`groundup why`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells
from rich.text import Text

from groundup.cli.parsing import Parser, whole_number
from groundup.errors import UsageError
from groundup.ui.console import Console
from groundup.ui.format import human_plural, json_line, single_line

if TYPE_CHECKING:
    from groundup.diagnostics.step_documents import DocumentExcerpt, StepTrace

EPILOG = """\
Shows each sequence of the step's global batch with its documents: source, the byte where the document begins there,
which of its tokens these are, and the beginning and end of their text; --json has the full text.

  groundup why runs/mine 700
  groundup why runs/mine 700 --json | jq -r '.windows[].parts[].source' | sort | uniq -c"""

MIN_WIDTH = 20  # characters of text


def add_arguments(parser: Parser) -> None:
    parser.epilog = EPILOG
    parser.option("run RUN", "folder written by `groundup train`")
    parser.option("step STEP", "a step as in log.jsonl, or a future one", type=whole_number)
    parser.option("--data DIR", "the run's prepared folder, if it has moved")
    parser.option("--width N", "characters of text per document [terminal's width]", type=whole_number)
    parser.option("--json", "print one JSON object, with the full text")


def run(args: argparse.Namespace) -> int:
    from groundup.diagnostics.step_documents import trace_step

    if args.width is not None and args.width < MIN_WIDTH:
        raise UsageError(f"--width {args.width}: must be {MIN_WIDTH} or more")
    trace = trace_step(Path(args.run), args.step, Path(args.data) if args.data else None)
    if args.json:
        print(json_line(to_json(trace)))
        return 0
    indent = len(str(len(trace.windows))) + 2
    width = args.width or shutil.get_terminal_size().columns - indent
    console = Console(soft_wrap=True)
    for line in _lines(trace, indent, max(MIN_WIDTH, width)):
        console.print(line)
    return 0


def to_json(trace: StepTrace) -> dict[str, object]:
    """All values of a trace, as JSON has them."""
    windows = [
        {"cursor": window.cursor, "start": window.start, "tokens": window.tokens}
        | {"parts": [{**part._asdict(), "text": text} for part, text in window.excerpts]}
        for window in trace.windows
    ]
    return {**vars(trace), "run": str(trace.run), "notes": list(trace.notes), "windows": windows}


def _lines(trace: StepTrace, indent: int, width: int) -> Iterator[Text]:
    """The step as logged, then the documents of each sequence with their text."""
    title = Text(f"step {trace.step:,}", style="bold")
    for name, value, digits in (("loss", trace.loss, ".4f"), ("gradient norm", trace.grad_norm, ".4g")):
        if value is not None:
            title.append(f"   {name} {value:{digits}}", style="not bold")
    yield title
    documents = {(part.source, part.begin) for window in trace.windows for part, _ in window.excerpts}
    sources = {source for source, _ in documents}
    first, last = trace.windows[0], trace.windows[-1]
    yield Text(
        f"sequences {first.cursor:,} to {last.cursor:,}, of {first.tokens - 1:,} tokens each: "
        f"{human_plural(len(documents), 'document')} in {human_plural(len(sources), 'source')}"
    )
    for note in trace.notes:
        yield Text(note, style="yellow")
    for i, window in enumerate(trace.windows, 1):
        yield Text()
        for j, excerpt in enumerate(window.excerpts):
            number = Text(f"{i if j == 0 else '':>{indent - 2}}  ", style="bold")
            yield number.append_text(_heading(excerpt))
            if excerpt.text:
                yield Text(" " * indent + shortened(excerpt.text, width))


def _heading(excerpt: DocumentExcerpt) -> Text:
    part = excerpt.part
    line = Text(single_line(part.source), style="not bold cyan")
    tokens = f", tokens {part.start:,} to {part.stop - 1:,} of {part.length:,}" if excerpt.text else ", its end"
    return line.append(f" @{part.offset:,}{tokens}", style="not cyan dim")


def shortened(text: str, width: int) -> str:
    """`text` on one line of at most `width` columns, unprintable characters escaped; of long text the two ends."""
    begin, end = (single_line(piece) for piece in (text[:width], text[-width:]))
    if len(text) <= width and cell_len(begin) <= width:
        return begin
    left = (width - 3) * 2 // 3
    return f"{chop_cells(begin, left)[0]} … {chop_cells(end[::-1], width - 3 - left)[0][::-1]}"
