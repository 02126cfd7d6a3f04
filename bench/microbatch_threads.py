"""Speed of a micro-batch divided among threads against every operation divided: `python -m bench.microbatch_threads`

    python -m bench.microbatch_threads [--shapes 4x96 4x128 ...] [--context 256] [--rows 8] [--rounds 5] [--json FILE]

The real loop in fp32 with GPT-2's parts, one process per variant, in turn; first on the machine as it is, then with
another process that keeps one core busy. Idle threads spin as long as they do under the command line.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.contenders import NANO, Task, sizes_of
from bench.exact import spin_count_set, trainee
from bench.exact_table import OURS, Contender
from bench.measure import gemm_gflops, interleaved, machine
from bench.peers import Checkouts
from bench.worker import Worker
from groundup.errors import UsageError
from groundup.model.size import flops_per_token

SHAPES = ("2x64", "4x128", "6x256", "12x384")
ROUND_FLOPS = 2e11  # per round, but at least one step
LOAD = "other load"
OPERATIONS, MICRO_BATCH = "operations divided", "micro-batch divided"


def task_of(shape: str, context: int, rows: int) -> Task:
    """Training task of a model LAYERSxWIDTH over 65 characters; UsageError if `shape` is not of that form."""
    config = NANO.config.model_copy(update={**sizes_of(shape), "block_size": context})
    return replace(NANO, name=shape, config=config, rows=rows)


def measure(task: Task, rounds: int, steps: int, threads: int, start: Any = Worker) -> dict[str, list[float]]:
    """Tokens per second of each variant, one value per round."""
    ours = Contender(OURS, "fp32")
    ways = {OPERATIONS: replace(task, microbatch_threads=1), MICRO_BATCH: task}
    with spin_count_set(ours):
        workers = {name: start(partial(trainee, ours, each, Checkouts(), 0), threads) for name, each in ways.items()}
    try:
        for worker in workers.values():
            worker.train(2)
        speed = {
            name: partial(lambda worker: steps * task.step_tokens / worker.train(steps).seconds, worker)
            for name, worker in workers.items()
        }
        return {row.name: row.values for row in interleaved(speed, rounds)}
    finally:
        for worker in workers.values():
            worker.close()


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy with another process."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def table(found: Sequence[dict[str, Any]]) -> Table:
    """One row per shape and load."""
    shown = Table(title="microbatch_threads: tokens per second", title_justify="left")
    for heading in ("layers x width", LOAD, OPERATIONS, MICRO_BATCH, "x", "lowest-highest"):
        shown.add_column(heading, justify="left" if heading == LOAD else "right")
    for row in found:
        ratios = sorted(b / a for a, b in zip(row[OPERATIONS], row[MICRO_BATCH], strict=True))
        middle = [sorted(row[way])[len(row[way]) // 2] for way in (OPERATIONS, MICRO_BATCH)]
        spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
        speeds = (f"{value:,.0f}" for value in middle)
        shown.add_row(row["shape"], row[LOAD], *speeds, f"{ratios[len(ratios) // 2]:.2f}", spread)
    return shown


def main() -> int:
    """Measure, print a table and return the exit status."""
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m bench.microbatch_threads", description=description)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="LAYERSxWIDTH")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rows", type=int, default=8, help="sequences per step (default 8)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    args = parser.parse_args()
    try:
        tasks = [task_of(shape, args.context, args.rows) for shape in args.shapes]
    except UsageError as error:
        parser.error(str(error))
    for name in ("context", "rows", "rounds", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: must be 1 or more")
    torch.set_num_threads(args.threads)
    gemm, found = gemm_gflops(), []
    for load, running in (("none", nullcontext), ("a busy process", busy_process)):
        with running():
            for shape, task in zip(args.shapes, tasks, strict=True):
                print(f"{shape}, {LOAD}: {load} ...", file=sys.stderr, flush=True)
                steps = max(1, round(ROUND_FLOPS / (flops_per_token(task.config) * task.step_tokens)))
                found.append({"shape": shape, LOAD: load, **measure(task, args.rounds, steps, args.threads)})
    Console().print(table(found))
    if args.json:
        report = {
            "command": shlex.join(["python", "-m", "bench.microbatch_threads", *sys.argv[1:]]),
            "machine": machine(),
            "gemm_gflops": [gemm, gemm_gflops()],
        }
        report |= {"context": args.context, "rows": args.rows, "rounds": args.rounds, "results": found}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
