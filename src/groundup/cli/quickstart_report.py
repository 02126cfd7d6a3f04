"""Report of a quickstart on a terminal: growth, bars, samples, a verdict in words, and what to do next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from groundup.first_model.existing import run_folder
from groundup.ui.console import Console
from groundup.ui.format import visible

if TYPE_CHECKING:
    from groundup.first_model.report import Report
    from groundup.run.memorization import Sample

MAX_LINES = 6  # of a sample; two screens of 24 lines hold all of the report
BAR_NAMES = ("gzip -9", "xz -9", "bigram")  # baselines with a bar of their own; --explain has all
LONGER = 5  # times the training time, in the first of the next steps
PROMPT, MODEL = "bright_black", "cyan"  # styles of held-out text and of the model's words


def show(found: Report, *, explain: bool = False) -> None:
    """Print the report; with `explain`, all baselines, and how each figure was computed."""
    console = Console()
    console.print()
    _show_growth(console, found)
    _show_bars(console, found, all_baselines=explain)
    if explain:
        for name, how in (("this model", found.how), *((row.name, row.how) for row in found.baselines)):
            console.print(Text(f"  {name}: {how}", "dim"))
        console.print(Text(f"  Baselines use the last {found.compared:,} bytes of the training text.\n", "dim"))
    for i, sample in reversed(list(enumerate(found.samples, 1))):  # the first, next to the true text, comes last
        console.print(_rule(f"sample {i}"))
        console.print(_beside_truth(console, sample, found.truth) if i == 1 and found.truth else _excerpt(sample))
    console.print(_rule(""))
    gzip = next(row for row in found.baselines if row.name == "gzip -9")
    console.print(
        f"It needs {found.bits_per_byte:.2f} bits for each byte of a text it has never read; gzip needs "
        f"{gzip.bits_per_byte:.2f}."
    )
    console.print(Text(found.overlap.describe()))
    best = found.result.best
    if best.loss is not None and best.step < found.result.step:
        console.print(f"All this is about step {best.step:,}, after which its validation loss was no lower.")
    steps = list(next_steps(found))
    width = max(len(effect) for effect, _ in steps)
    for effect, command in steps:
        console.print(Text.assemble((f"{effect:<{width}}  ", "dim"), (command, "bold")), soft_wrap=True)


def _show_growth(console: Console, found: Report) -> None:
    if len(found.growth) < 2:
        return
    texts = [text for _, text in found.growth]
    prompt = os.path.commonprefix(texts).rpartition(" ")[0]  # noqa: RUF071  # of texts, not paths
    console.print(_rule("as training went on, after the same beginning"))
    if prompt:
        console.print(Text(_single_line(prompt), PROMPT), no_wrap=True, overflow="ellipsis")
    width = len(f"step {found.growth[-1][0]:,}")
    for step, text in found.growth:
        words = (_single_line(text[len(prompt) :]), MODEL)
        console.print(
            Text.assemble((f"{f'step {step:,}':<{width}}  ", "dim"), words), no_wrap=True, overflow="ellipsis"
        )


def _single_line(text: str) -> str:
    return " ".join(visible(text).split())


def _show_bars(console: Console, found: Report, *, all_baselines: bool) -> None:
    rows = [(row.name, row.bits_per_byte) for row in found.baselines if all_baselines or row.name in BAR_NAMES]
    rows += [("before training", found.untrained)] if found.untrained else []
    rows = sorted([*rows, ("this model", found.bits_per_byte)], key=lambda row: -row[1])
    console.print(_rule("bits per byte of a text it has never read (less is better)"))
    names, longest = max(len(name) for name, _ in rows), rows[0][1]
    room = max(8, min(console.width, 80) - names - 8)
    for name, bits in rows:
        style = "bold green" if name == "this model" else ""
        bar = "█" * max(1, round(bits / longest * room))
        console.print(Text.assemble((f"{name:<{names}}  {bits:4.2f}  ", style), (bar, style or "dim")), no_wrap=True)


def _excerpt(sample: Sample, width: int | None = None) -> Text:
    """A sample's first lines, the prompt in grey."""
    text = Text.assemble((visible(sample.prompt), PROMPT), (visible(sample.text).rstrip(), MODEL))
    return _cut(text, (width or min(Console().width, 80)))


def _cut(text: Text, width: int) -> Text:
    """The first lines of a text, blank ones left out: they would take the room of others."""
    wrapped = [line for line in text.wrap(Console(), width) if line.plain.strip()]
    lines = wrapped[:MAX_LINES]
    if len(wrapped) > MAX_LINES:
        lines[-1].truncate(width - 2)
        lines[-1].rstrip()
        lines[-1].append(" …")
    return Text("\n").join(lines)


def _beside_truth(console: Console, sample: Sample, truth: str) -> Table | Text:
    """The sample, and on the right of it how the text really goes on."""
    half = (min(console.width, 100) - 3) // 2
    if half < 24:
        return _excerpt(sample)
    table = Table(box=None, padding=(0, 3, 0, 0), show_edge=False)
    table.add_column(Text("the model", "dim"), width=half)
    table.add_column(Text("the text itself", "dim"), width=half)
    true = Text.assemble((visible(sample.prompt), PROMPT), (visible(truth), "dim"))
    table.add_row(_excerpt(sample, half), _cut(true, half))
    return table


def _rule(title: str) -> Rule:
    return Rule(Text(title, "dim"), align="left", style="dim")


def next_steps(found: Report) -> Iterator[tuple[str, str]]:
    """Pairs of a short label and a shell command, for the list at the end of the report."""
    run, prompt = found.result.run, found.samples[0].prompt.partition("\n")[0] or "Once"
    minutes = found.seconds / 60 if found.result.signal else found.seconds / 60 * LONGER
    out = [] if run == run_folder(found.sources) else ["--out", str(run)]
    more = ["groundup", "quickstart", *found.sources, *out, "--minutes", f"{minutes:g}", "--continue"]
    yield f"{minutes:g} minutes in all", shlex.join(more)
    yield "more text, at once", shlex.join(["groundup", "generate", str(run), "--prompt", prompt])
    yield "larger models", shlex.join(["groundup", "plan", "--data", str(found.data)])
    yield "your own text", "groundup quickstart your-text.txt"
