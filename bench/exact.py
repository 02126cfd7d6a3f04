"""A training step of exact GPT-2 in groundup and other trainers, with the same arithmetic. `python -m bench.exact`

    python -m bench.exact --nanogpt DIR [--build-nanogpt DIR] [--shape gpt2] [--json FILE]
    python -m bench.exact --shape gpt2 --only "groundup, fp32" --rounds 1 --compared 1     one contender, two steps

Each contender is a process of its own; they train in turn, A B C A B C ... Exit status 1 where our fp32 losses are not
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

from bench.apart import Answer, Failed, Make, Worker
from bench.contenders import CPU, TASKS, Task, Trainee, stage
from bench.exact_table import OURS, WIDTH, Contender, Found, judge, report, show, table
from bench.measure import copy_gbytes, gemm_gflops, interleaved
from bench.nanogpt import HINT
from bench.peers import MAKERS, Places, available
from groundup.cli import GOMP_SPIN_COUNT
from groundup.errors import UsageError
from groundup.utils.device import DTYPES, Name, choose_precision

SPINS = "GOMP_SPINCOUNT"


class Training(Protocol):
    """A contender under way, in a process of its own or, in tests, in this one."""

    def train(self, steps: int) -> Answer:
        """The next steps; Failed where they cannot be made."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def contenders(auto: Name, peers: Sequence[str]) -> list[Contender]:
    """Everyone in fp32; ours and nanoGPT compiled; and where the machine computes bf16 faster, that too."""
    quick = [auto] if auto != "fp32" else []
    found = [Contender(OURS, precision, compiling) for precision in ("fp32", *quick) for compiling in (False, True)]
    if "nanoGPT" in peers:
        found += [Contender("nanoGPT", "fp32"), Contender("nanoGPT", auto, compiling=True)]
    if "build-nanogpt" in peers:
        found.append(Contender("build-nanogpt", auto))  # its train_gpt2.py computes in bf16 everywhere, not compiled
    return found + [Contender(who, "fp32") for who in peers if who not in ("nanoGPT", "build-nanogpt")]


@contextmanager
def trainee(contender: Contender, task: Task, places: Places, steps: int) -> Iterator[Trainee]:
    """A contender with all that it needs for so many steps."""
    with stage(task) as place:
        if contender.who == OURS:
            yield place.ours(contender.precision, compiling=contender.compiling)
        else:
            make = partial(MAKERS[contender.who], places=places)
            yield place.theirs(make, steps, contender.precision, compiling=contender.compiling)


@contextmanager
def bare_process(task: Task) -> Iterator[Trainee | None]:
    """A process without a model, to measure its memory."""
    with stage(task):
        yield None


def measure(
    task: Task, them: Sequence[Contender], places: Places, start: Callable[[Make], Training], rounds: int
) -> Found:
    """Losses of the first steps, then timed rounds of all in turn; one that fails is left out and named."""
    found, training = Found(task), {}
    precisions = sorted({contender.precision for contender in them})
    try:
        found.bare = _once(start(partial(bare_process, task)))
        _ceilings(found, precisions)
        for each in them:
            print(f"{each.name}: {task.compared} steps ...", file=sys.stderr, flush=True)
            with as_it_starts(each):
                under_way = start(partial(trainee, each, task, places, task.compared + rounds * task.steps))
            training[each.name] = under_way
            try:
                found.losses[each.name] = under_way.train(task.compared).losses
            except Failed as failed:
                training.pop(each.name).close()
                found.notes.append(f"{each.name}: left out ({failed})")
        print(f"{rounds} rounds of {', '.join(training)} ...", file=sys.stderr, flush=True)
        timed = {name: partial(_speed, found, name, each) for name, each in training.items()}
        found.rows = interleaved(timed, rounds)
    finally:
        for under_way in training.values():
            under_way.close()
    _ceilings(found, precisions)
    judge(found, {each.name: each for each in them})
    return found


@contextmanager
def as_it_starts(contender: Contender) -> Iterator[None]:
    """Ours is told how long idle threads spin, as the command line tells itself; the others have torch's default."""
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


def _ceilings(found: Found, precisions: Sequence[str]) -> None:
    found.copies.append(copy_gbytes())
    for precision in precisions:
        found.ceilings.setdefault(precision, []).append(gemm_gflops(dtype=DTYPES[precision]))


def _speed(found: Found, name: str, training: Training) -> float:
    try:
        answer = training.train(found.task.steps)
    except Failed as failed:
        raise SystemExit(f"{name}: {failed}; leave it out with --only") from failed
    found.peaks[name] = answer.peak
    return found.task.steps * found.task.step_tokens / answer.seconds


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.exact", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a checkout of nanoGPT")
    parser.add_argument("--build-nanogpt", type=Path, metavar="DIR", help="a checkout of build-nanogpt")
    parser.add_argument("--shape", choices=list(TASKS), default="nano", help="default nano; gpt2 is 124M at 1,024")
    parser.add_argument("--rows", type=int, metavar="N", help="windows a step")
    parser.add_argument(
        "--micro-rows", type=int, metavar="N", help="a pass (default: nanoGPT's all, ours as it decides)"
    )
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument("--steps", type=int, metavar="N", help="a round")
    parser.add_argument("--compared", type=int, metavar="N", help="first steps, untimed, whose losses are compared")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="of the rows beyond fp32")
    parser.add_argument("--only", action="append", metavar="NAME", help="a row of the table alone; can be repeated")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    return parser


def chosen(asked: argparse.Namespace, places: Places) -> tuple[Task, list[Contender]]:
    """The task and who takes part; UsageError where that makes no sense."""
    places.check()
    task = TASKS[asked.shape]
    numbers = {name: getattr(asked, name) for name in ("rows", "micro_rows", "rounds", "steps", "compared")}
    for name, value in {**numbers, "threads": asked.threads}.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be 1 or more")
    them = contenders(choose_precision(asked.precision, CPU).name, available(places))
    names = [each.name for each in them]
    for name in asked.only or ():
        if name not in names:
            raise UsageError(f"--only {name}: no such row here; there are {'; '.join(names)}")
    task = replace(task, **{name: value for name, value in numbers.items() if value is not None})
    if task.rows % (task.micro_rows or 1):
        raise UsageError(f"--micro-rows {task.micro_rows}: does not divide the {task.rows} windows of a step")
    return task, [each for each in them if not asked.only or each.name in asked.only]


def main() -> int:
    """0 when the promise held, 1 when it did not, 2 for a mistake in what was asked."""
    parser = arguments()
    asked = parser.parse_args()
    places = Places(asked.nanogpt, asked.build_nanogpt)
    torch.set_num_threads(asked.threads)
    try:
        task, them = chosen(asked, places)
    except UsageError as error:
        parser.error(str(error))
    found = measure(task, them, places, partial(Worker, threads=asked.threads), task.rounds)
    if not asked.nanogpt:
        found.notes.append(HINT)
    rows = table(found, {each.name: each for each in them})
    show(found, rows, Console(width=WIDTH))
    if asked.json:
        asked.json.write_text(json.dumps(report(found, rows), indent=2) + "\n", encoding="utf-8")
    return int(bool(found.failures))


if __name__ == "__main__":
    sys.exit(main())
