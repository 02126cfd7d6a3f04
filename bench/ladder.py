"""Every known speed-up of GPT-2's training, switched on one by one, with the gain of each. `python -m bench.ladder`

    python -m bench.ladder [--json FILE]                          a small model on a CPU, 124M on a GPU
    python -m bench.ladder --shape 6x256 --only inductor --only fused --rounds 3

A rung is measured in turn with the one it builds on and the first, A B C A B C ..., each in its own process: on a
GPU, three of them share its memory. It is kept for the next if it is faster. Exit status 1 if losses differ from the
first's or a rung failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from rich.console import Console

from bench.contenders import TASKS, Task
from bench.exact import Training, bare_process
from bench.gpu_device import gemm_tflops
from bench.ladder_rungs import FIRST, RUNGS, Rung, Switches, trainee
from bench.ladder_table import Results, Step, judge, report, show
from bench.measure import check_json, gemm_gflops
from bench.where import task_of
from bench.worker import Failed, Make, Worker
from groundup.errors import GroundupError, UsageError
from groundup.utils.device import choose_device

VOCAB, CONTEXT = 50_257, 256  # GPT-2's ids; tokens per sequence unless the shape says
COMPARED = 5  # untimed first steps, whose losses must agree
SLOW = 5  # times the step of the rung it builds on: a rung whose second step is dropped is stopped after two

Start = Callable[[Make], Training]


class Pace(NamedTuple):
    """Sizes that a device finishes within minutes."""

    shape: str
    rows: int  # sequences per step
    steps: int  # per round


PACES = {"cpu": Pace("4x128", rows=2, steps=2), "cuda": Pace("gpt2", rows=8, steps=10)}


class ActiveRung(NamedTuple):
    """A rung being measured."""

    step: Step
    training: Training


def measure_rungs(
    found: Results,
    rungs: Sequence[Rung],
    start: Start,
    *,
    on_rung: Callable[[Results], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Results:
    """Measure the rungs in turn, calling `on_rung` after each, until the last one or until `should_stop` returns True.

    Failed, with the rung's name, if the first rung, or one that others are compared with, cannot be measured.
    """
    with _named(FIRST):
        first = _start(found, FIRST, Switches(), start)
    found.steps.append(first.step)
    current, first.step.kept = first, True
    try:
        first.step.rates.append(_reference_rate(found.task, first))
        for rung in rungs:
            if should_stop():
                found.notes.append(f"no time left from {rung.key} on")
                break
            switches = replace(current.step.switches, **rung.changes)  # type: ignore[arg-type]
            step = Step(rung, switches, current.step.rung.key, rung.skip(found.device, found.task.config))
            found.steps.append(step)
            if not step.skipped:
                current = _try(found, step, first, current, start)
            on_rung(found)
    finally:
        for active in {id(one): one for one in (current, first)}.values():
            active.training.close()
    judge(found)
    return found


def _try(found: Results, step: Step, first: ActiveRung, current: ActiveRung, start: Start) -> ActiveRung:
    """Measure one rung; returns the one to build on, closing the other. Failed if a rung it is compared with fails."""
    try:
        active = _start(found, step.rung, step.switches, start, current.step.pace, step)
    except Failed as failed:
        step.fail(str(failed))
        return current
    try:
        _rounds(found.task, first, current, active)
    except Failed:
        active.training.close()
        raise
    step.kept = step.rung.keep_if_faster and step.over_before > 1.0
    dropped = current if step.kept else active
    if dropped is not first:
        dropped.training.close()
    return active if step.kept else current


def _start(
    found: Results, rung: Rung, switches: Switches, start: Start, pace: float | None = None, step: Step | None = None
) -> ActiveRung:
    """Start a rung and run its first steps; only two if they take far longer than `pace`, in seconds."""
    print(f"{rung.key}: {rung.name} ...", file=sys.stderr, flush=True)
    step = step or Step(rung, switches)
    active = ActiveRung(step, start(partial(trainee, switches, found.task, found.device)))
    try:
        answers = [active.training.train(1) for _ in range(2)]  # the first may be slow: kernels are compiled
        step.slow = pace is not None and answers[1].seconds > SLOW * pace
        answers += [active.training.train(1) for _ in range(0 if step.slow else found.task.compared - 2)]
    except Failed:
        active.training.close()
        raise
    step.pace, step.peak = median(answer.seconds for answer in answers[1:]), answers[-1].peak
    step.losses = [loss for answer in answers for loss in answer.losses]
    return active


def _rounds(task: Task, first: ActiveRung, current: ActiveRung, active: ActiveRung) -> None:
    """Interleaved rounds, until the rung fails; a slow rung counts with its second step."""
    step = active.step
    for _ in range(1 if step.slow else task.rounds):
        lowest = _reference_rate(task, first)
        before = lowest if current is first else _reference_rate(task, current)
        try:
            mine = task.step_tokens / step.pace if step.slow else _rate(task, active)
        except Failed as failed:
            step.fail(str(failed))
            return
        first.step.rates.append(lowest)
        step.rates.append(mine)
        step.ratios.append(mine / before)
        step.ratios_first.append(mine / lowest)


def _reference_rate(task: Task, active: ActiveRung) -> float:
    """Rate of a rung that others are compared with; Failed includes its name."""
    with _named(active.step.rung):
        return _rate(task, active)


@contextmanager
def _named(rung: Rung) -> Iterator[None]:
    try:
        yield
    except Failed as failed:
        raise Failed(f"{rung.name}: {failed}") from failed


def _rate(task: Task, active: ActiveRung) -> float:
    """Tokens per second of a round."""
    answer = active.training.train(task.steps)
    active.step.peak = answer.peak
    return task.steps * task.step_tokens / answer.seconds


def ceiling(device: torch.device) -> float:
    """GFLOP/s of a large fp32 matrix product."""
    return gemm_gflops() if device.type == "cpu" else 1e3 * gemm_tflops(device, torch.float32, (4096, 4096, 4096))


def arguments() -> argparse.ArgumentParser:
    """Command-line options."""
    parser = argparse.ArgumentParser(prog="python -m bench.ladder", description=(__doc__ or "").splitlines()[0])
    paces = "; ".join(f"on {device} {pace.shape}, {pace.rows}, {pace.steps}" for device, pace in PACES.items())
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--shape", metavar="SHAPE", help=f"{', '.join(TASKS)} or LAYERSxWIDTH")
    parser.add_argument("--vocab", type=int, default=VOCAB, metavar="N", help="ids (default GPT-2's 50,257)")
    parser.add_argument("--context", type=int, metavar="N", help="tokens per sequence (default the shape's, or 256)")
    parser.add_argument("--rows", type=int, metavar="N", help="sequences per step")
    parser.add_argument("--steps", type=int, metavar="N", help=f"steps per round (default: shape, rows, steps {paces})")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="interleaved rounds (default 5)")
    keys = [rung.key for rung in RUNGS]
    parser.add_argument("--only", action="append", choices=keys, metavar="NAME", help=f"one of {', '.join(keys)}")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads of torch (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    return parser


def chosen(args: argparse.Namespace) -> tuple[Task, torch.device, list[Rung]]:
    """Task, device and rungs; GroundupError for invalid options."""
    for name in ("context", "rows", "steps", "rounds", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: must be 1 or more")
    check_json(args.json)
    device = choose_device(args.device)
    device = device if device.type in PACES else torch.device("cpu")
    pace = PACES[device.type]
    shape = args.shape or pace.shape
    context = args.context or (None if shape in TASKS else CONTEXT)
    task = task_of(shape, context, args.vocab, args.rows or pace.rows)
    task = replace(task, compared=COMPARED, steps=args.steps or pace.steps, rounds=args.rounds)
    return task, device, [rung for rung in RUNGS if not args.only or rung.key in args.only]


def main(argv: Sequence[str] | None = None, start: Callable[[Make, int], Training] = Worker) -> int:
    """Exit status: 0 if the losses agree, 1 if they do not or a rung failed, 2 for invalid options."""
    parser = arguments()
    args = parser.parse_args(argv)
    try:
        task, device, rungs = chosen(args)
    except GroundupError as error:
        parser.error(str(error))
    torch.set_num_threads(args.threads)
    start_worker: Start = partial(start, threads=args.threads)
    found = Results(task, device, ceilings=[ceiling(device)])
    if device.type == "cpu":
        found.bare = _bare(start_worker, task)
    try:
        measure_rungs(found, rungs, start_worker)
    except Failed as failed:
        print(f"bench.ladder: {failed}", file=sys.stderr)
        return 1
    found.ceilings.append(ceiling(device))
    show(found, Console(width=124))
    if args.json:
        options = {name: value for name, value in vars(args).items() if name != "json"}
        args.json.write_text(json.dumps(report(found, options), indent=2) + "\n", encoding="utf-8")
    return int(bool(found.failures) or any(step.failed for step in found.steps))


def _bare(start: Start, task: Task) -> int:
    training = start(partial(bare_process, task))
    try:
        return training.train(0).peak
    finally:
        training.close()


if __name__ == "__main__":
    sys.exit(main())
