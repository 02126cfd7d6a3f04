"""Windows shared out among threads, beside every operation cut among them. `python -m bench.shares`

    python -m bench.shares [--shapes 4x96 4x128 6x256 ...] [--context 256] [--rows 8] [--rounds 5] [--json FILE]

The real loop in fp32, GPT-2's parts, a process each, in turn; first on the machine as it is, then beside a process that
keeps one core busy. Idle threads spin as long as the command line lets them.
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

from bench.apart import Worker
from bench.contenders import NANO, Task, sizes_of
from bench.exact import as_it_starts, trainee
from bench.exact_table import OURS, Contender
from bench.measure import gemm_gflops, interleaved, machine
from bench.peers import Places
from groundup.errors import UsageError
from groundup.model.size import flops_per_token

SHAPES = ("2x64", "4x128", "6x256", "12x384")
ENOUGH = 2e11  # operations a round, where that makes more than one step
CUT, SHARED = "operations cut", "windows shared"


def task_of(shape: str, context: int, rows: int) -> Task:
    """A training of LAYERSxWIDTH over 65 characters; UsageError where it is not that."""
    config = NANO.config.model_copy(update={**sizes_of(shape), "block_size": context})
    return replace(NANO, name=shape, config=config, rows=rows)


def measure(task: Task, rounds: int, steps: int, threads: int, start: Any = Worker) -> dict[str, list[float]]:
    """Tokens a second of each way, a value a round."""
    ours = Contender(OURS, "fp32")
    ways = {CUT: replace(task, shares=1), SHARED: task}
    with as_it_starts(ours):
        workers = {name: start(partial(trainee, ours, each, Places(), 0), threads) for name, each in ways.items()}
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
def neighbour() -> Iterator[None]:
    """Another process, which never rests."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def table(found: Sequence[dict[str, Any]]) -> Table:
    """A line for each shape and neighbour."""
    shown = Table(title="shares: tokens a second", title_justify="left")
    for heading in ("layers x width", "beside", CUT, SHARED, "x", "lowest-highest"):
        shown.add_column(heading, justify="left" if heading == "beside" else "right")
    for row in found:
        ratios = sorted(b / a for a, b in zip(row[CUT], row[SHARED], strict=True))
        middle = [sorted(row[way])[len(row[way]) // 2] for way in (CUT, SHARED)]
        spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
        speeds = (f"{value:,.0f}" for value in middle)
        shown.add_row(row["shape"], row["beside"], *speeds, f"{ratios[len(ratios) // 2]:.2f}", spread)
    return shown


def main() -> int:
    """0, and a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.shares", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="LAYERSxWIDTH")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rows", type=int, default=8, help="windows a step (default 8)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    asked = parser.parse_args()
    try:
        tasks = [task_of(shape, asked.context, asked.rows) for shape in asked.shapes]
    except UsageError as error:
        parser.error(str(error))
    for name in ("context", "rows", "rounds", "threads"):
        if getattr(asked, name) < 1:
            parser.error(f"--{name} {getattr(asked, name)}: must be 1 or more")
    torch.set_num_threads(asked.threads)
    gemm, found = gemm_gflops(), []
    for beside, company in (("nothing", nullcontext), ("a busy process", neighbour)):
        with company():
            for shape, task in zip(asked.shapes, tasks, strict=True):
                print(f"{shape}, beside {beside} ...", file=sys.stderr, flush=True)
                steps = max(1, round(ENOUGH / (flops_per_token(task.config) * task.step_tokens)))
                found.append({"shape": shape, "beside": beside, **measure(task, asked.rounds, steps, asked.threads)})
    Console().print(table(found))
    if asked.json:
        report = {
            "command": shlex.join(["python", "-m", "bench.shares", *sys.argv[1:]]),
            "machine": machine(),
            "gemm_gflops": [gemm, gemm_gflops()],
        }
        report |= {"context": asked.context, "rows": asked.rows, "rounds": asked.rounds, "results": found}
        asked.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
