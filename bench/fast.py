"""Loss after a given time: `groundup train fast` against a model of the same size trained the GPT-2 way.

    python -m bench.fast --text SOURCE … [--seconds 60 …] [--tokenizer char] [--rounds 3] [--json FILE]

The time covers everything from the start of `groundup prepare` to the end of `groundup train`: training gets the time
that preparation and start-up left in the previous round. The loss is that of the last checkpoint over the complete
validation split, the last tenth of a text, evaluated afterwards, in windows of 256 tokens and of 64. GPT-2's way
is AdamW with a cosine, GELU, LayerNorm and learned positions, in the preset's own layers, width, context and batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench.measure import gemm_gflops, machine, seconds
from bench.time_to_loss import QUIET, groundup, pinned
from groundup.config.presets import PRESETS

WINDOWS = (256, 64)  # tokens; the first is the preset's own context
SHAPE = {key: PRESETS["fast"]["model"][key] for key in ("n_layer", "n_head", "n_embd", "block_size")}
CONTENDERS = {
    "fast": ["fast"],
    "GPT-2's way": [
        "gpt2-micro",
        *(word for key, value in SHAPE.items() for word in (f"--model.{key}", str(value))),
        *("--train.batch_tokens", str(PRESETS["fast"]["train"]["batch_tokens"])),
    ],
}
MAX_EVAL_TOKENS = 250_000
OVERHEAD = 12.0  # seconds assumed for preparation and start-up in the first round


def main() -> int:
    """Print one table per text and time."""
    parser = argparse.ArgumentParser(prog="python -m bench.fast", description=__doc__.splitlines()[0])
    parser.add_argument("--text", nargs="+", required=True, metavar="SOURCE", help="as of `groundup prepare`")
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0], help="total time of `prepare` and `train`")
    parser.add_argument("--tokenizer", default="char", help="as of `groundup prepare` (default: char)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="CPU cores for all processes (default 2)")
    parser.add_argument("--only", choices=CONTENDERS, help="measure this contender only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    parser.add_argument("--seed", type=int, default=1337, help="seed of the first round; each next round adds 1")
    args = parser.parse_args()
    if min(args.seconds) <= OVERHEAD:
        parser.error(
            f"--seconds {min(args.seconds):g}: give more than {OVERHEAD:g}, the time for preparation and start-up"
        )
    torch.set_num_threads(args.threads)
    console, found = Console(), []
    names = [args.only] if args.only else list(CONTENDERS)
    for text in args.text:
        for limit in args.seconds:
            before = gemm_gflops()
            rows = measure(text, limit, args.tokenizer, names, args.rounds, args.seed, args.threads)
            found.append(
                {"text": Path(text).name, "seconds": limit, "gemm_gflops": [before, gemm_gflops()], "rows": rows}
            )
            console.print(table(found[-1]))
            if args.json:
                options = {**vars(args), "text": [Path(text).name for text in args.text], "json": None}
                report = {"command": "python -m bench.fast", "arguments": options, "machine": machine()}
                args.json.write_text(json.dumps(report | {"results": found}, indent=2, default=str) + "\n", "utf-8")
    return 0


def measure(
    text: str, limit: float, tokenizer: str, names: list[str], rounds: int, seed: int, threads: int
) -> list[dict[str, float | str]]:
    """One record per contender and round, interleaved."""
    rows: list[dict[str, float | str]] = []
    overhead = dict.fromkeys(names, OVERHEAD)
    with tempfile.TemporaryDirectory() as folder, pinned(threads):
        for n in range(rounds):
            for name in names:
                data, run = (Path(folder) / f"{kind}-{len(rows)}" for kind in ("data", "run"))
                took = seconds(partial(groundup, "prepare", text, "--out", data, "--tokenizer", tokenizer))
                budget = limit - overhead[name]
                words = ["--data", data, "--out", run, "--train.max_time", f"{budget:.2f}s", "--train.seed", seed + n]
                took += seconds(partial(groundup, "train", *CONTENDERS[name], *words, *QUIET))
                overhead[name] = max(took - budget, 1.0) + 0.3
                rows.append({"name": name, "round": n, "seconds": took, **outcome(run)})
    return rows


def outcome(run: Path) -> dict[str, float]:
    """Losses of a run, and its tokens, steps and speed."""
    found: dict[str, float] = {}
    for window in WINDOWS:
        words = ["evaluate", run, "--window", window, "--tokens", MAX_EVAL_TOKENS, "--json"]
        loss = json.loads(groundup(*words))
        found |= {f"loss_{window}": loss["loss"], f"bits_per_byte_{window}": loss["bits_per_byte"]}
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    last = [record for record in steps if record["event"] == "step"][-1]
    return {**found, "tokens": last["tokens"], "steps": last["step"], "tokens_per_s": last["tokens"] / last["elapsed"]}


def table(result: dict[str, object]) -> Table:
    """Table of medians for one text and time."""
    rows = result["rows"]
    assert isinstance(rows, list), "as measured"
    shown = Table(title=f"{result['text']}: {result['seconds']:g} s in total", title_justify="left")
    columns = (
        "seconds",
        "tokens",
        "tokens_per_s",
        *(f"{kind}_{w}" for w in WINDOWS for kind in ("loss", "bits_per_byte")),
    )
    for heading in ("", *columns):
        shown.add_column(heading.replace("_", " "), justify="right" if heading else "left")
    for name in dict.fromkeys(row["name"] for row in rows):
        medians = [statistics.median(row[column] for row in rows if row["name"] == name) for column in columns]
        shown.add_row(name, *(f"{value:,.0f}" if value > 100 else f"{value:.4g}" for value in medians))
    return shown


if __name__ == "__main__":
    sys.exit(main())
