"""Every known speed-up of GPT-2's training, switched on one by one, each with its gain here. `python -m bench.ladder`

    python -m bench.ladder [--json FILE]                          a small model on a CPU, 124M on a GPU
    python -m bench.ladder --shape 6x256 --only inductor --only fused --rounds 3

A rung is measured in turn with the one it builds on and the first, A B C A B C ..., each in a process of its own: on a
GPU, three of them share its memory. It is kept for the next where it helps. Exit status 1 where losses are not the
first's, or a rung failed.
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

from bench.apart import Failed, Make, Worker
from bench.contenders import TASKS, Task
from bench.exact import Training, bare_process
from bench.gpu_device import gemm_tflops
from bench.ladder_rungs import FIRST, RUNGS, Rung, Switches, trainee
from bench.ladder_table import Found, Step, judge, report, show
from bench.measure import check_json, gemm_gflops
from bench.where import task_of
from groundup.errors import GroundupError, UsageError
from groundup.utils.device import choose_device

VOCAB, CONTEXT = 50_257, 256  # GPT-2's ids; tokens a window where the shape does not say
COMPARED = 5  # steps before the clock, whose losses must agree
SLOW = 5  # times the step of the rung it builds on: after two steps this slow, the first not counted, it is stopped

Start = Callable[[Make], Training]


class Pace(NamedTuple):
    """What a device can do within minutes."""

    shape: str
    rows: int  # windows a step
    steps: int  # a round


PACES = {"cpu": Pace("4x128", rows=2, steps=2), "cuda": Pace("gpt2", rows=8, steps=10)}


class Climber(NamedTuple):
    """A rung under way."""

    step: Step
    training: Training


def climb(
    found: Found,
    rungs: Sequence[Rung],
    start: Start,
    *,
    tell: Callable[[Found], None] = lambda _: None,
    enough: Callable[[], bool] = lambda: False,
) -> Found:
    """Measure the rungs in turn, calling `tell` after each, until there are no more, or it is `enough`.

    Failed, with the rung's name, where the first rung, or one that others are compared with, cannot be measured.
    """
    with _named(FIRST):
        first = _begin(found, FIRST, Switches(), start)
    found.steps.append(first.step)
    standing, first.step.kept = first, True
    try:
        first.step.rates.append(_sound(found.task, first))
        for rung in rungs:
            if enough():
                found.notes.append(f"no time left from {rung.key} on")
                break
            switches = replace(standing.step.switches, **rung.turned)  # type: ignore[arg-type]
            step = Step(rung, switches, standing.step.rung.key, said=rung.idle(found.device, found.task.config))
            found.steps.append(step)
            if not step.said:
                standing = _try(found, step, first, standing, start)
            tell(found)
    finally:
        for climber in {id(one): one for one in (standing, first)}.values():
            climber.training.close()
    judge(found)
    return found


def _try(found: Found, step: Step, first: Climber, standing: Climber, start: Start) -> Climber:
    """Measure one; who stands afterwards. The other is closed. Failed where it is not this one that fails."""
    try:
        climber = _begin(found, step.rung, step.switches, start, standing.step.pace, step)
    except Failed as failed:
        step.fail(str(failed))
        return standing
    try:
        _rounds(found.task, first, standing, climber)
    except Failed:
        climber.training.close()
        raise
    step.kept = step.rung.stays and step.over_before > 1.0
    gone = standing if step.kept else climber
    if gone is not first:
        gone.training.close()
    return climber if step.kept else standing


def _begin(
    found: Found, rung: Rung, switches: Switches, start: Start, pace: float | None = None, step: Step | None = None
) -> Climber:
    """A training that has made its first steps; only two where they take far longer than `pace`, in seconds."""
    print(f"{rung.key}: {rung.name} ...", file=sys.stderr, flush=True)
    step = step or Step(rung, switches)
    climber = Climber(step, start(partial(trainee, switches, found.task, found.device)))
    try:
        answers = [climber.training.train(1) for _ in range(2)]  # the first may be slow for once: kernels are made
        step.slow = pace is not None and answers[1].seconds > SLOW * pace
        answers += [climber.training.train(1) for _ in range(0 if step.slow else found.task.compared - 2)]
    except Failed:
        climber.training.close()
        raise
    step.pace, step.peak = median(answer.seconds for answer in answers[1:]), answers[-1].peak
    step.losses = [loss for answer in answers for loss in answer.losses]
    return climber


def _rounds(task: Task, first: Climber, standing: Climber, climber: Climber) -> None:
    """All in turn; of the slow the second step counts, and the others' rounds follow it. Until the climber fails."""
    step = climber.step
    for _ in range(1 if step.slow else task.rounds):
        lowest = _sound(task, first)
        before = lowest if standing is first else _sound(task, standing)
        try:
            mine = task.step_tokens / step.pace if step.slow else _rate(task, climber)
        except Failed as failed:
            step.fail(str(failed))
            return
        first.step.rates.append(lowest)
        step.rates.append(mine)
        step.ratios.append(mine / before)
        step.ratios_first.append(mine / lowest)


def _sound(task: Task, climber: Climber) -> float:
    """Rate of a rung that others are compared with; Failed names it."""
    with _named(climber.step.rung):
        return _rate(task, climber)


@contextmanager
def _named(rung: Rung) -> Iterator[None]:
    try:
        yield
    except Failed as failed:
        raise Failed(f"{rung.name}: {failed}") from failed


def _rate(task: Task, climber: Climber) -> float:
    """Tokens a second of a round."""
    answer = climber.training.train(task.steps)
    climber.step.peak = answer.peak
    return task.steps * task.step_tokens / answer.seconds


def ceiling(device: torch.device) -> float:
    """GFLOP/s of a large fp32 product."""
    return gemm_gflops() if device.type == "cpu" else 1e3 * gemm_tflops(device, torch.float32, (4096, 4096, 4096))


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.ladder", description=(__doc__ or "").splitlines()[0])
    paces = "; ".join(f"on {device} {pace.shape}, {pace.rows}, {pace.steps}" for device, pace in PACES.items())
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--shape", metavar="SHAPE", help=f"{', '.join(TASKS)} or LAYERSxWIDTH")
    parser.add_argument("--vocab", type=int, default=VOCAB, metavar="N", help="ids (default GPT-2's 50,257)")
    parser.add_argument("--context", type=int, metavar="N", help="tokens a window (default the shape's, or 256)")
    parser.add_argument("--rows", type=int, metavar="N", help="windows a step")
    parser.add_argument("--steps", type=int, metavar="N", help=f"a round (default: shape, rows, steps {paces})")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of all in turn (default 5)")
    keys = [rung.key for rung in RUNGS]
    parser.add_argument("--only", action="append", choices=keys, metavar="NAME", help=f"one of {', '.join(keys)}")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads of torch (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    return parser


def chosen(asked: argparse.Namespace) -> tuple[Task, torch.device, list[Rung]]:
    """Task, device and rungs; GroundupError where that makes no sense."""
    for name in ("context", "rows", "steps", "rounds", "threads"):
        value = getattr(asked, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: must be 1 or more")
    check_json(asked.json)
    device = choose_device(asked.device)
    device = device if device.type in PACES else torch.device("cpu")
    pace = PACES[device.type]
    shape = asked.shape or pace.shape
    context = asked.context or (None if shape in TASKS else CONTEXT)
    task = task_of(shape, context, asked.vocab, asked.rows or pace.rows)
    task = replace(task, compared=COMPARED, steps=asked.steps or pace.steps, rounds=asked.rounds)
    return task, device, [rung for rung in RUNGS if not asked.only or rung.key in asked.only]


def main(argv: Sequence[str] | None = None, start: Callable[[Make, int], Training] = Worker) -> int:
    """0 when the losses agreed, 1 when they did not or something failed, 2 for a mistake in what was asked."""
    parser = arguments()
    asked = parser.parse_args(argv)
    try:
        task, device, rungs = chosen(asked)
    except GroundupError as error:
        parser.error(str(error))
    torch.set_num_threads(asked.threads)
    begin: Start = partial(start, threads=asked.threads)
    found = Found(task, device, ceilings=[ceiling(device)])
    if device.type == "cpu":
        found.bare = _bare(begin, task)
    try:
        climb(found, rungs, begin)
    except Failed as failed:
        print(f"bench.ladder: {failed}", file=sys.stderr)
        return 1
    found.ceilings.append(ceiling(device))
    show(found, Console(width=124))
    if asked.json:
        words = {name: value for name, value in vars(asked).items() if name != "json"}
        asked.json.write_text(json.dumps(report(found, words), indent=2) + "\n", encoding="utf-8")
    return int(bool(found.failures) or any(step.failed for step in found.steps))


def _bare(start: Start, task: Task) -> int:
    training = start(partial(bare_process, task))
    try:
        return training.train(0).peak
    finally:
        training.close()


if __name__ == "__main__":
    sys.exit(main())
