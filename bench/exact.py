"""A training step of exact GPT-2 in groundup and other trainers, with the same arithmetic. `python -m bench.exact`

    python -m bench.exact --nanogpt DIR [--build-nanogpt DIR] [--shape gpt2] [--json FILE]
    python -m bench.exact --shape gpt2 --only "groundup, fp32" --rounds 1 --compared 1     one contender, two steps

Each contender is a separate process; they train in turn, A B C A B C ... Exit status 1 if our fp32 losses differ from
nanoGPT's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console

from bench.contenders import CPU, TASKS, Task, Trainee, open_setup
from bench.exact_table import OURS, WIDTH, Contender, Results, judge, report, show, table
from bench.measure import copy_gbytes, gemm_gflops, interleaved
from bench.nanogpt import HINT
from bench.peers import MAKERS, Checkouts, available
from bench.worker import Answer, Failed, Make, Worker
from groundup.cli import GOMP_SPIN_COUNT
from groundup.errors import UsageError
from groundup.utils.device import DTYPES, Name, choose_precision

SPINS = "GOMP_SPINCOUNT"


class Training(Protocol):
    """A running contender, in its own process or, in tests, in this one."""

    def train(self, steps: int) -> Answer:
        """Run the next steps; Failed if it cannot."""
        ...

    def close(self) -> None:
        """End the run."""
        ...


def contenders(auto: Name, peers: Sequence[str]) -> list[Contender]:
    """All in fp32; ours and nanoGPT also compiled, and in bf16 if the machine is faster in it."""
    quick = [auto] if auto != "fp32" else []
    found = [Contender(OURS, precision, compiling) for precision in ("fp32", *quick) for compiling in (False, True)]
    if "nanoGPT" in peers:
        found += [Contender("nanoGPT", "fp32"), Contender("nanoGPT", auto, compiling=True)]
    if "build-nanogpt" in peers:
        found.append(Contender("build-nanogpt", auto))  # its train_gpt2.py computes in bf16 everywhere, not compiled
    return found + [Contender(who, "fp32") for who in peers if who not in ("nanoGPT", "build-nanogpt")]


@contextmanager
def trainee(contender: Contender, task: Task, checkouts: Checkouts, steps: int) -> Iterator[Trainee]:
    """Set up a contender for `steps` steps."""
    with open_setup(task) as setup:
        if contender.who == OURS:
            yield setup.ours(contender.precision, compiling=contender.compiling)
        else:
            make = partial(MAKERS[contender.who], checkouts=checkouts)
            yield setup.theirs(make, steps, contender.precision, compiling=contender.compiling)


@contextmanager
def bare_process(task: Task) -> Iterator[Trainee | None]:
    """A process without a model, to measure its memory."""
    with open_setup(task):
        yield None


def measure(
    task: Task, them: Sequence[Contender], checkouts: Checkouts, start: Callable[[Make], Training], rounds: int
) -> Results:
    """Losses of the first steps, then interleaved timed rounds; a contender that fails is left out and named."""
    found, training = Results(task), {}
    precisions = sorted({contender.precision for contender in them})
    try:
        found.bare = _once(start(partial(bare_process, task)))
        _ceilings(found, precisions)
        for each in them:
            print(f"{each.name}: {task.compared} steps ...", file=sys.stderr, flush=True)
            with spin_count_set(each):
                run = start(partial(trainee, each, task, checkouts, task.compared + rounds * task.steps))
            training[each.name] = run
            try:
                found.losses[each.name] = run.train(task.compared).losses
            except Failed as failed:
                training.pop(each.name).close()
                found.notes.append(f"{each.name}: left out ({failed})")
        print(f"{rounds} rounds of {', '.join(training)} ...", file=sys.stderr, flush=True)
        timed = {name: partial(_speed, found, name, each) for name, each in training.items()}
        found.rows = interleaved(timed, rounds)
    finally:
        for run in training.values():
            run.close()
    _ceilings(found, precisions)
    judge(found, {each.name: each for each in them})
    return found


@contextmanager
def spin_count_set(contender: Contender) -> Iterator[None]:
    """Set how long idle threads spin, as the command line does, for ours; the others keep torch's default."""
    before = os.environ.get(SPINS)
    if contender.who == OURS and before is None:
        os.environ[SPINS] = GOMP_SPIN_COUNT
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(SPINS, None)


def _once(training: Training) -> int:
    try:
        return training.train(0).peak
    finally:
        training.close()


def _ceilings(found: Results, precisions: Sequence[str]) -> None:
    found.copies.append(copy_gbytes())
    for precision in precisions:
        found.ceilings.setdefault(precision, []).append(gemm_gflops(dtype=DTYPES[precision]))


def _speed(found: Results, name: str, training: Training) -> float:
    try:
        answer = training.train(found.task.steps)
    except Failed as failed:
        raise SystemExit(f"{name}: {failed}; leave it out with --only") from failed
    found.peaks[name] = answer.peak
    return found.task.steps * found.task.step_tokens / answer.seconds


def arguments() -> argparse.ArgumentParser:
    """Command-line options."""
    parser = argparse.ArgumentParser(prog="python -m bench.exact", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a checkout of nanoGPT")
    parser.add_argument("--build-nanogpt", type=Path, metavar="DIR", help="a checkout of build-nanogpt")
    parser.add_argument("--shape", choices=list(TASKS), default="nano", help="default nano; gpt2 is 124M at 1,024")
    parser.add_argument("--rows", type=int, metavar="N", help="sequences per step")
    parser.add_argument(
        "--micro-rows", type=int, metavar="N", help="sequences per pass (default: all; ours: automatic)"
    )
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument("--steps", type=int, metavar="N", help="steps per round")
    parser.add_argument("--compared", type=int, metavar="N", help="untimed first steps, whose losses are compared")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="of the additional rows")
    parser.add_argument("--only", action="append", metavar="NAME", help="measure this row only; can be repeated")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    return parser


def chosen(args: argparse.Namespace, checkouts: Checkouts) -> tuple[Task, list[Contender]]:
    """Task and contenders; UsageError for invalid options."""
    checkouts.check()
    task = TASKS[args.shape]
    numbers = {name: getattr(args, name) for name in ("rows", "micro_rows", "rounds", "steps", "compared")}
    for name, value in {**numbers, "threads": args.threads}.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be 1 or more")
    them = contenders(choose_precision(args.precision, CPU).name, available(checkouts))
    names = [each.name for each in them]
    for name in args.only or ():
        if name not in names:
            raise UsageError(f"--only {name}: no such row here; there are {'; '.join(names)}")
    task = replace(task, **{name: value for name, value in numbers.items() if value is not None})
    if task.rows % (task.micro_rows or 1):
        raise UsageError(f"--micro-rows {task.micro_rows}: does not divide the {task.rows} sequences of a step")
    return task, [each for each in them if not args.only or each.name in args.only]


def main() -> int:
    """Exit status: 0 if the promise holds, 1 if it is broken, 2 for invalid options."""
    parser = arguments()
    args = parser.parse_args()
    checkouts = Checkouts(args.nanogpt, args.build_nanogpt)
    torch.set_num_threads(args.threads)
    try:
        task, them = chosen(args, checkouts)
    except UsageError as error:
        parser.error(str(error))
    found = measure(task, them, checkouts, partial(Worker, threads=args.threads), task.rounds)
    if not args.nanogpt:
        found.notes.append(HINT)
    rows = table(found, {each.name: each for each in them})
    show(found, rows, Console(width=WIDTH))
    if args.json:
        args.json.write_text(json.dumps(report(found, rows), indent=2) + "\n", encoding="utf-8")
    return int(bool(found.failures))


if __name__ == "__main__":
    sys.exit(main())
