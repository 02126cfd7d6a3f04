"""Shape of `modern` now, Qwen3's, beside the one that it had, nanochat's: trained for equal time, each with the same
optimizer, schedule and batches.

    python -m bench.modern_shape --books DIR [--seconds 60] [--seeds 3] [--only TEXT …] [--json FILE]

Texts: Tiny Shakespeare by characters, and Python's documentation and novels with a tokenizer of 2,048 pieces. The order
of the two changes with each seed, as machines drift. The loss is that of the last checkpoint over --tokens of the
validation split, the same ones for both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console
from rich.table import Table

import groundup
from bench.measure import check_json, machine
from bench.time_to_loss import QUIET, pinned
from bench.time_to_loss import groundup as command
from groundup.checkpoint.metadata import load_metadata
from groundup.checkpoint.run_folder import find_checkpoint
from groundup.config.presets import MODERN_PARTS, NANOCHAT_PARTS
from groundup.errors import UsageError
from groundup.kernels.cpu_build import library

TOKENIZERS = {"shakespeare": "char", "python-docs": "bpe:2048", "books": "bpe:2048"}
SHAPES = {"former": NANOCHAT_PARTS, "modern": MODERN_PARTS}
DIFFERENT = sorted(key for key in MODERN_PARTS | NANOCHAT_PARTS if MODERN_PARTS.get(key) != NANOCHAT_PARTS.get(key))
OFF = {"embedding_norm": "false", "logit_softcap": "none"}  # keys that one of the two leaves at its default
LEAST_GAIN = 0.015  # nats per token: what the change of shape is to gain on each text

Row = dict[str, float | str]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table. Exit status: 0; 2 for invalid options, 1 if a command fails for another reason."""
    parser = argparse.ArgumentParser(prog="python -m bench.modern_shape", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--books", metavar="SOURCE", help="the novels, as of `groundup prepare`; none: without them")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, for each run (default 60)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each shape on each text (default 3)")
    parser.add_argument("--preset", default="modern-micro", help="with whose sizes and recipe (default modern-micro)")
    parser.add_argument("--only", action="append", choices=TOKENIZERS, help="this text only; can be repeated")
    parser.add_argument("--tokens", type=int, default=250_000, help="of the validation split (default 250,000)")
    parser.add_argument("--threads", type=int, default=2, help="CPU cores for all processes (default 2)")
    parser.add_argument("--option", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"),
                        help="of `groundup train`, for both; can be repeated")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    args = parser.parse_args(argv)
    if min(args.seconds, args.seeds, args.threads, args.tokens) <= 0:
        parser.error("--seconds, --seeds, --tokens and --threads must be more than 0")
    sources = {"shakespeare": "shakespeare", "python-docs": "python-docs"}
    sources |= {"books": args.books} if args.books else {}
    texts = args.only or list(sources)
    if missing := [text for text in texts if text not in sources]:
        parser.error(f"--only {missing[0]}: give --books a file or folder of novels")
    try:
        check_json(args.json)
    except UsageError as error:
        parser.error(str(error))
    torch.set_num_threads(args.threads)
    _ = library()  # compiled now, not in the time of the first run
    options = [word for key, value in args.option for word in (f"--{key.removeprefix('--')}", value)]
    try:
        with pinned(args.threads):
            rows = measure({text: sources[text] for text in texts}, args, options)
    except subprocess.CalledProcessError as error:
        print(error.stderr.strip(), file=sys.stderr)
        return 2 if error.returncode == 2 else 1
    Console().print(table(rows))
    if args.json:
        given = vars(args) | {"books": args.books and Path(args.books).name, "json": None}
        report = {"command": "python -m bench.modern_shape", "arguments": given, "machine": machine(), "rows": rows}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(sources: dict[str, str], args: argparse.Namespace, options: Sequence[object]) -> list[Row]:
    """One record per text, seed and shape."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for text, source in sources.items():
            data = Path(folder) / text
            command("prepare", source, "--out", data, "--tokenizer", TOKENIZERS[text])
            for seed in range(args.seeds):
                for shape in (list(SHAPES), list(reversed(SHAPES)))[seed % 2]:
                    print(f"{text}, seed {seed}, {shape} ...", file=sys.stderr, flush=True)
                    run = Path(folder) / f"run-{len(rows)}"
                    words = [
                        *shape_options(shape),
                        "--train.seed",
                        1337 + seed,
                        "--train.max_time",
                        f"{args.seconds:g}s",
                    ]
                    command("train", args.preset, "--data", data, "--out", run, *words, *QUIET, *options)
                    step = float(load_metadata(find_checkpoint(run))["step"])
                    loss = groundup.evaluate(run, tokens=args.tokens, progress=False).loss
                    rows.append({"text": text, "seed": float(seed), "shape": shape, "step": step, "loss": loss})
    return rows


def shape_options(shape: str) -> list[object]:
    """Options that give a preset this shape, whichever it has."""
    parts = SHAPES[shape]
    return [word for key in DIFFERENT for word in (f"--model.{key}", str(parts.get(key, OFF.get(key))).lower())]


def table(rows: Sequence[Row]) -> Table:
    """Losses of each seed, means, and the differences, modern less former: negative is better."""
    shown = Table(title="validation loss, nats per token, at equal time", title_justify="left")
    for heading in ("text", "seed", "former", "modern", "difference", "steps former", "steps modern"):
        shown.add_column(heading, justify="left" if heading == "text" else "right")
    for text in dict.fromkeys(str(row["text"]) for row in rows):
        of_text = [row for row in rows if row["text"] == text]
        pairs = {
            seed: {str(row["shape"]): row for row in of_text if row["seed"] == seed}
            for seed in dict.fromkeys(row["seed"] for row in of_text)
        }
        gains = []
        for seed, pair in pairs.items():
            before, now = float(pair["former"]["loss"]), float(pair["modern"]["loss"])
            gains.append(now - before)
            steps = (f"{float(pair[shape]['step']):,.0f}" for shape in SHAPES)
            shown.add_row(text, f"{float(seed):.0f}", f"{before:.4f}", f"{now:.4f}", f"{gains[-1]:+.4f}", *steps)
        means = (mean(float(row["loss"]) for row in of_text if row["shape"] == shape) for shape in SHAPES)
        verdict = "enough" if mean(gains) <= -LEAST_GAIN else f"< {LEAST_GAIN}"
        cells = (*(f"{value:.4f}" for value in means), f"{mean(gains):+.4f}", verdict)
        shown.add_row(text, "mean", *cells, end_section=True)
    return shown


if __name__ == "__main__":
    sys.exit(main())
