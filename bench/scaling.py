"""Time per token by size of the model and number of processes; memory by micro-batch.

    python -m bench.scaling --json FILE --pictures DIR
    python -m bench.scaling --shapes 2x64 4x64 --steps 4 --rounds 1 --micro 1 2       about a minute, to try it
    python -m bench.scaling --from FILE --pictures DIR                                 only draw earlier results

Speeds are those of `groundup train` in fp32, as its log gives them; for two processes torchrun starts it. Memory is the
peak of a process, one process for each micro-batch.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.contenders import NANO, Task, sizes_of
from bench.exact import bare_process, trainee
from bench.exact_table import OURS, Contender
from bench.measure import copy_gbytes, gemm_gflops, machine
from bench.parallel import command, prepare, tokens_per_s
from bench.peers import Checkouts
from bench.worker import Worker
from groundup.config.model import ModelConfig
from groundup.errors import UsageError
from groundup.model.size import flops_per_token, parameters

SHAPES = ("2x64", "4x128", "6x256", "12x384")
CONTEXT, STEP_TOKENS = 256, 4096  # as bench.parallel trains
VOCAB = 257  # bytes, and the end of a document
RUN_FLOPS = 3e12  # operations per run, between the limits of the next line
MIN_STEPS, MAX_STEPS = 5, 24
MEMORY_SHAPE, MEMORY_ROWS, MICRO = "6x256", 16, (1, 2, 4, 8, 16)
ROUNDS = 3


@dataclass(frozen=True)
class Way:
    """A division of the machine into processes and threads."""

    processes: int
    threads: int  # per process

    @property
    def name(self) -> str:
        """Label in the pictures."""
        each = " each" if self.processes > 1 else ""
        return f"{_counted(self.processes, 'process', 'es')}, {_counted(self.threads, 'thread', 's')}{each}"


def _counted(n: int, word: str, plural: str) -> str:
    return f"{n} {word}{plural if n > 1 else ''}"


def ways(threads: int) -> list[Way]:
    """All threads in one process, half of them in one, and half of them in each of two."""
    half = max(1, threads // 2)
    return list(dict.fromkeys([Way(1, threads), Way(2, half), Way(1, half)]))


def config_of(shape: str) -> ModelConfig:
    """Model over bytes of the shape LAYERSxWIDTH; UsageError for any other `shape`."""
    return ModelConfig(**sizes_of(shape), block_size=CONTEXT, vocab_size=VOCAB)


def steps_of(config: ModelConfig) -> int:
    """Steps of a run: fewer for a large model."""
    return round(min(MAX_STEPS, max(MIN_STEPS, RUN_FLOPS / (flops_per_token(config) * STEP_TOKENS))))


def speeds(shapes: list[str], threads: int, rounds: int, steps: int | None) -> list[dict[str, Any]]:
    """For each shape its size, and tokens per second of each way, one value per round, interleaved."""
    found = [_size(shape) | {"tokens_per_s": {way.name: [] for way in ways(threads)}} for shape in shapes]
    with tempfile.TemporaryDirectory(prefix="groundup-bench-") as name:
        folder = Path(name)
        prepare(folder)
        for turn in range(rounds):
            for shape, row in zip(shapes, found, strict=True):
                for way in ways(threads):
                    print(f"round {turn + 1}: {shape}, {way.name} ...", file=sys.stderr, flush=True)
                    speed = _run(folder, shape, way, turn, steps or steps_of(config_of(shape)))
                    row["tokens_per_s"][way.name].append(speed)
    return found


def _size(shape: str) -> dict[str, Any]:
    config = config_of(shape)
    return {"shape": shape, "parameters": parameters(config), "flops_per_token": flops_per_token(config)}


def _run(folder: Path, shape: str, way: Way, turn: int, steps: int) -> float:
    out = f"{shape}-{way.processes}-{way.threads}-{turn}"
    options = [word for name, value in sizes_of(shape).items() for word in (f"--model.{name}", value)]
    options += ["--train.precision", "fp32", "--train.threads", way.threads, "--train.max_steps", steps, "--out", out]
    done = subprocess.run(command(way.processes, *options), cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shape}, {way.name}: the run failed\n{done.stderr[-2000:]}")
    return tokens_per_s(folder / out, steps)


def memory(micro: list[int], threads: int, shape: str = MEMORY_SHAPE) -> dict[str, Any]:
    """Peak memory of a process after two steps for each micro-batch, and the part that does not depend on it."""
    config = config_of(shape)
    task = replace(NANO, name=shape, config=config, rows=max(MEMORY_ROWS, *micro))
    ours = Contender(OURS, "fp32")
    peaks = [_peak(partial(trainee, ours, _with(task, n), Checkouts(), 2), threads, 2) for n in micro]
    return {
        **_size(shape),
        "micro_batches": micro,
        "peak_bytes": peaks,
        "bare_process_bytes": _peak(partial(bare_process, task), threads, 0),
        "state_bytes": 16 * parameters(config),  # weights, gradients and AdamW's state (two tensors), 4 bytes each
    }


def _with(task: Task, micro_rows: int) -> Task:
    return replace(task, micro_rows=micro_rows)


def _peak(make: Any, threads: int, steps: int) -> int:
    worker = Worker(make, threads)
    try:
        return worker.train(steps).peak
    finally:
        worker.close()


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Complete report, as written to --json."""
    ceilings, copies = [gemm_gflops()], [copy_gbytes()]
    found = speeds(args.shapes, args.threads, args.rounds, args.steps)
    held = memory(args.micro, args.threads)
    return {
        "command": shlex.join(["python", "-m", "bench.scaling", *sys.argv[1:]]),
        "machine": machine(),
        "ways": [asdict(way) | {"name": way.name} for way in ways(args.threads)],
        "context": CONTEXT,
        "step_tokens": STEP_TOKENS,
        "gemm_gflops": [*ceilings, gemm_gflops()],
        "copy_gbytes": [*copies, copy_gbytes()],
        "sizes": found,
        "memory": held,
    }


def lines(report: dict[str, Any]) -> list[str]:
    """The report as Markdown tables."""
    names, ceiling = [way["name"] for way in report["ways"]], max(report["gemm_gflops"])
    table = [
        f"| shape | parameters | MFLOP per token | {' | '.join(names)} (tokens/s) | GFLOP/s | of the ceiling |",
        f"|---|---|---|{'---|' * len(names)}---|---|",
    ]
    for row in report["sizes"]:
        middle = [statistics.median(row["tokens_per_s"][name]) for name in names]
        gflops = middle[0] * row["flops_per_token"] / 1e9
        cells = [row["shape"], f"{row['parameters']:,}", f"{row['flops_per_token'] / 1e6:,.1f}"]
        cells += [*(f"{value:,.0f}" for value in middle), f"{gflops:,.0f}", f"{gflops / ceiling:.0%}"]
        table.append(f"| {' | '.join(cells)} |")
    held = report["memory"]
    table += ["", f"| micro-batch of {held['shape']} | peak MB |", "|---|---|"]
    pairs = zip(held["micro_batches"], held["peak_bytes"], strict=True)
    return table + [f"| {n} x {report['context']} tokens | {peak / 1e6:,.0f} |" for n, peak in pairs]


def main() -> int:
    """Measure or read a file, print tables, write --json and draw."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), metavar="LxC", help="layers x width")
    parser.add_argument("--micro", nargs="+", type=int, default=list(MICRO), metavar="N", help="sequences per pass")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, metavar="N", help="steps per run (default: fewer for a large model)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads in total (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="read a file of --json; no measuring")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw plots there; needs groundup[plot]")
    parser.add_argument("--kind", choices=["svg", "png"], default="svg", help="file format of the plots (default svg)")
    args = parser.parse_args()
    try:
        _check(args)
    except UsageError as error:
        parser.error(str(error))
    torch.set_num_threads(args.threads)
    report = json.loads(args.source.read_text(encoding="utf-8")) if args.source else measured(args)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("\n".join(lines(report)))
    if args.pictures:
        from bench.scaling_pictures import draw

        for path in draw(report, args.pictures, args.kind):
            print(path)
    return 0


def _check(args: argparse.Namespace) -> None:
    from groundup.comparison.plot import missing

    for shape in args.shapes:
        config_of(shape)
    for name, values in {
        "micro": args.micro,
        **{n: [getattr(args, n)] for n in ("rounds", "steps", "threads")},
    }.items():
        if bad := [value for value in values if value is not None and value < 1]:
            raise UsageError(f"--{name} {bad[0]}: must be 1 or more")
    if args.source and not args.source.is_file():
        raise UsageError(f"--from: there is no {args.source}")
    if args.pictures and (why := missing()):
        raise UsageError(f"--pictures: {why}")


if __name__ == "__main__":
    sys.exit(main())
