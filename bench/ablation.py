"""Ablation of `fast`: the preset with one thing changed at a time. Each row has the same number of steps, except the
ones that say otherwise.

    python -m bench.ablation --text input.txt [--steps 290] [--only NAME …] [--json FILE]

The loss is that of the last checkpoint in windows of 256 tokens and of 64, over at most 250,000 tokens of the
validation split, which is the last tenth of the text. One seed each unless --rounds says otherwise; seconds are those
of the complete command.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from bench.fast import outcome
from bench.measure import check_json, machine, seconds
from bench.time_to_loss import QUIET, groundup, pinned
from groundup.errors import UsageError

VARIANTS: dict[str, list[object]] = {
    "fast": [],
    "no n-grams": ["--model.ngram", 1],
    "no n-grams, twice the steps": ["--model.ngram", 1],
    "pairs alone": ["--model.ngram", 2],
    "runs of up to 4": ["--model.ngram", 4],
    "runs of up to 8": ["--model.ngram", 8],
    "codes of 32 numbers, no n-gram frequencies on the logits": ["--model.ngram_width", 32],
    "16,384 rows": ["--model.ngram_rows", 16_384],
    "262,144 rows": ["--model.ngram_rows", 262_144],
    "full sequences from the start": ["--train.seq_len_warmup_from", "none"],
    "five iterations of Muon": ["--optimizer.orthogonalize", "newton_schulz"],
    "AdamW at 3e-3": ["--optimizer.name", "adamw", "--optimizer.learning_rate", 3e-3],
    "64 wide": ["--model.n_embd", 64],
    "128 wide": ["--model.n_embd", 128],
    "three layers": ["--model.n_layer", 3],
}
STEP_FACTOR = {"no n-grams, twice the steps": 2}
COLUMNS = ("tokens", "seconds", "loss_256", "loss_64")


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table. Exit status: 0; 2 for invalid options, 1 if a command fails for another reason."""
    parser = argparse.ArgumentParser(prog="python -m bench.ablation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", required=True, metavar="SOURCE", help="as of `groundup prepare`")
    parser.add_argument("--tokenizer", default="char", help="as of `groundup prepare` (default: char)")
    parser.add_argument("--steps", type=int, default=290, help="steps of 2,048 tokens (default 290)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds, each with the next seed (default 1)")
    parser.add_argument("--only", action="append", choices=VARIANTS, help="measure this row only; can be repeated")
    parser.add_argument("--threads", type=int, default=2, help="CPU cores for all processes (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    args = parser.parse_args(argv)
    if min(args.steps, args.rounds, args.threads) < 1:
        parser.error("--steps, --rounds and --threads must be 1 or more")
    try:
        check_json(args.json)
    except UsageError as error:
        parser.error(str(error))
    torch.set_num_threads(args.threads)
    names = args.only or list(VARIANTS)
    try:
        with pinned(args.threads):
            rows = measure(args.text, args.tokenizer, names, args.steps, args.rounds)
    except subprocess.CalledProcessError as error:
        print(error.stderr.strip(), file=sys.stderr)
        return 2 if error.returncode == 2 else 1
    Console().print(table(rows, names))
    if args.json:
        file_names = {name: Path(getattr(args, name)).name for name in ("text", "tokenizer")}
        options = {**vars(args), **file_names, "json": None}
        report = {"command": "python -m bench.ablation", "arguments": options, "machine": machine(), "rows": rows}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(text: str, tokenizer: str, names: list[str], steps: int, rounds: int) -> list[dict[str, float | str]]:
    """One record per variant and round."""
    rows: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        groundup("prepare", text, "--out", data, "--tokenizer", tokenizer)
        for n in range(rounds):
            for name in names:
                print(f"{name} ...", file=sys.stderr, flush=True)
                run = Path(folder) / f"run-{len(rows)}"
                words = ["--data", data, "--out", run, "--train.seed", 1337 + n, *VARIANTS[name]]
                words += ["--train.max_steps", steps * STEP_FACTOR.get(name, 1)]
                took = seconds(partial(groundup, "train", "fast", *words, *QUIET))
                rows.append({"name": name, "round": n, "seconds": took, **outcome(run)})
    return rows


def table(rows: list[dict[str, float | str]], names: list[str]) -> Table:
    """Table of medians, and the difference of each loss from the first row's."""
    shown = Table(title="one thing changed at a time", title_justify="left")
    for heading in ("", *COLUMNS, "to the first"):
        shown.add_column(heading.replace("_", " "), justify="right" if heading else "left")
    medians = {
        name: {column: median(float(row[column]) for row in rows if row["name"] == name) for column in COLUMNS}
        for name in names
    }
    for name, found in medians.items():
        difference = found["loss_256"] - medians[names[0]]["loss_256"]
        values = (
            f"{found['tokens']:,.0f}",
            f"{found['seconds']:.1f}",
            f"{found['loss_256']:.4f}",
            f"{found['loss_64']:.4f}",
        )
        shown.add_row(name, *values, f"{difference:+.4f}")
    return shown


if __name__ == "__main__":
    sys.exit(main())
