"""`python -m bench`: measure, print tables and write the numbers to --json."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench import generate, start, time_to_loss, train_step
from bench.measure import Options, Result, gemm_gflops, machine
from groundup.errors import UsageError

SUBJECTS: dict[str, Callable[[Options], Result]] = {
    "start": start.run,
    "train-step": train_step.run,
    "generate": partial(generate.run, generate.GPT2),
    "generate-small": partial(generate.run, generate.SMALL),
    "time-to-loss": time_to_loss.run,
}
NEEDS_TEXT = {"time-to-loss"}


def main() -> int:
    """Exit status: 0 if all promises hold, 1 if one is broken, 2 for invalid options."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Side-by-side benchmarks; see bench/README.md."
    )
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"{', '.join(SUBJECTS)} (default: all)")
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a checkout of nanoGPT to compare with")
    parser.add_argument(
        "--peers-python", type=Path, metavar="PATH",
        help="a Python that has transformers, ctranslate2 and llama-cpp-python, for generate and generate-small",
    )  # fmt: skip
    parser.add_argument("--text", type=Path, metavar="FILE", help="tinyshakespeare's input.txt; time-to-loss needs it")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch (default 2)")
    parser.add_argument("--rounds", type=int, help="rounds per subject (default: each subject's own)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    args = parser.parse_args()
    if unknown := [name for name in args.subjects if name not in SUBJECTS]:
        parser.error(f"{unknown[0]}: no such subject; there are {', '.join(SUBJECTS)}")
    options = Options(args.nanogpt, args.text, args.threads, args.rounds, args.peers_python)
    subjects, skipped = args.subjects, []
    try:
        options.check()
    except UsageError as error:
        parser.error(str(error))
    if missing := [name for name in subjects if name in NEEDS_TEXT and not options.text]:
        parser.error(f"{missing[0]}: give tinyshakespeare's input.txt with --text")
    if not subjects:
        skipped = [] if options.text else sorted(NEEDS_TEXT)
        subjects = [name for name in SUBJECTS if name not in skipped]
    torch.set_num_threads(options.threads)
    console, facts, results = Console(), machine(), {}
    console.print("  ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
    for name in subjects:
        before = gemm_gflops()
        results[name] = SUBJECTS[name](options)
        results[name].ceiling = [before, gemm_gflops()]
        show(results[name], console)
        if args.json:  # after each, so that a later failure loses nothing
            write(args.json, facts, results)
    for name in skipped:
        console.print(f"\n{name}: left out; give tinyshakespeare's input.txt with --text", highlight=False)
    return int(any(result.failures for result in results.values()))


def write(path: Path, facts: dict[str, str | int], results: dict[str, Result]) -> None:
    """Write the results so far."""
    report = {
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "machine": facts,
        "results": {name: result.as_dict() for name, result in results.items()},
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def show(result: Result, console: Console) -> None:
    """Print the table, notes and failures."""
    table = Table(title=result.title, title_justify="left", title_style="bold")
    table.add_column("")
    for heading in (result.unit, "lowest", "highest", f"x {result.baseline}"):
        table.add_column(heading, justify="right")
    for row in result.rows:
        ratio = result.ratio(row)
        numbers = [readable(value) for value in (row.median, min(row.values), max(row.values))]
        table.add_row(row.name, *numbers, "" if ratio is None else f"{ratio:.2f}")
    console.print()
    console.print(table)
    before, after = result.ceiling
    rounds = len(result.rows[0].values)
    console.print(
        f"medians of {rounds} interleaved rounds; fp32 matrix product: {before:.0f} GFLOP/s before, {after:.0f} after"
    )
    for note in result.notes:
        console.print(note, highlight=False)
    for failure in result.failures:
        console.print(f"FAILED: {failure}", style="red")


def readable(value: float) -> str:
    """Three significant digits below 100, else no decimals."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
