"""Subjects of `bench.gpu`: a training step of exact GPT-2, ours and others', and its kernels.

All start from the same weights and see the same sequences in the same order; ours runs in the loop of `groundup train`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from bench.contenders import GPT2, Setup, Task, Trainee, open_setup
from bench.gpu_child import Job
from bench.gpu_device import forget, gemm_tflops, here, kernels, peak, seconds
from bench.gpu_table import Row
from bench.peers import MAKERS, Checkouts
from groundup.model.size import flops_per_token
from groundup.utils.device import Name

MICRO = (16, 32, 64)  # sequences per pass
COMPARED, TIMED, ROUNDS = 5, 5, 3  # untimed steps, timed steps per round
MIN_SHARE, MIN_SPEEDUP = 0.60, 1.3  # goals: of a large matrix product's speed; x the fastest peer
MAX_KERNELS = 25  # in the file


@dataclass(frozen=True)
class Contender:
    """A trainer and its settings."""

    who: str  # groundup, or a key of MAKERS
    compiling: bool
    micro: int  # sequences per pass

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"{self.who}, {'compiled' if self.compiling else 'eager'}, {self.micro} sequences per pass"


@dataclass(frozen=True)
class Speed:
    """Measurements of a contender."""

    tokens_per_s: float
    peak: int  # bytes
    losses: list[float]  # of the first steps
    ready: float  # seconds to build, compile and run the first steps


def task_of(toy: bool, micro: int) -> Task:
    """GPT-2's smallest size at 1,024 tokens, steps of 64 sequences."""
    if toy:
        small = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 32, "vocab_size": 128}
        return replace(GPT2, config=GPT2.config.model_copy(update=small), rows=4, micro_rows=micro)
    return replace(GPT2, rows=64, micro_rows=micro)


def exact(job: Job) -> None:
    """Tokens per second, compared with peers and the ceiling; peak memory; difference of losses."""
    device, precision = here(toy=job.toy), precision_of(job)
    ceiling = lambda: gemm_tflops(device, torch.bfloat16, (64,) * 3 if job.toy else (8192,) * 3)  # noqa: E731
    before, found = ceiling(), dict[Contender, Speed]()
    micro = (1, 2) if job.toy else MICRO
    compiling = not job.toy
    with open_setup(task_of(job.toy, micro[0])) as setup:

        def measure(each: Contender) -> None:
            """Measure one contender, unless less time is left than the slowest took so far."""
            if each in found or job.left < 1.3 * max((one.ready for one in found.values()), default=0.0) + 3:
                return
            if speed := job.attempt(each.name, partial(speed_of, setup, each, job, precision)):
                found[each] = speed
                job.fact("contenders", {who.name: vars(speed) for who, speed in found.items()})
                job.show(rows_of(job, found, before))

        for n in micro:
            measure(Contender("groundup", False, n))
        best = fastest(found, "groundup")
        n = best.micro if best else micro[0]
        order = [("groundup", compiling), *((who, compiling) for who in peers(job)), ("nanoGPT", False)]
        for who, compiled in order:
            if who == "groundup" or who in peers(job):
                measure(Contender(who, compiled, n))
        for other in micro:  # other micro-batches, if time is left
            for who in ("groundup", *peers(job)):
                measure(Contender(who, compiling, other))
    after = ceiling()
    job.fact("ceiling_tflops", [before, after])
    job.show(rows_of(job, found, max(before, after)))
    first = next((each for each in found if each.who == "groundup"), None)
    for each in found if first else ():
        gap = float(np.abs(np.subtract(found[first].losses, found[each].losses)).max())
        job.note(f"{each.name}: losses of the first {COMPARED} steps within {gap:.1e} nats per token of {first.name}'s")


def rows_of(job: Job, found: dict[Contender, Speed], ceiling: float) -> list[Row]:
    """Rows of ours compiled and eager, compared with the fastest peer and the goals; then all others."""
    rows, shown = list[Row](), set[Contender]()
    per_token = flops_per_token(task_of(job.toy, 1).config)
    theirs = [each for each in found if each.who != "groundup"]
    rival = max(theirs, key=lambda each: found[each].tokens_per_s, default=None)
    for compiled in (True, False):
        mine = [each for each in found if each.who == "groundup" and each.compiling == compiled]
        if not mine:
            continue
        each = max(mine, key=lambda one: found[one].tokens_per_s)
        speed, share = found[each], found[each].tokens_per_s * per_token / (ceiling * 1e12)
        ratio = speed.tokens_per_s / found[rival].tokens_per_s if rival else None
        peer = {"peer": found[rival].tokens_per_s, "peer_name": rival.name, "ratio": ratio} if rival else {}
        shown.add(each)
        rows.append(Row(each.name, speed.tokens_per_s, "tokens/s", **peer, share=share))
        if compiled or job.toy:
            rows.append(Row("share of ceiling", share, "", goal=f">= {MIN_SHARE:g}", met=share >= MIN_SHARE))
            if ratio is not None:
                rows.append(Row("times the best peer", ratio, "", goal=f">= {MIN_SPEEDUP:g}", met=ratio >= MIN_SPEEDUP))
        rows.append(Row(f"{each.name}: peak memory", speed.peak / 1e9, "GB"))
    others = [(each, speed) for each, speed in found.items() if each not in shown]
    return rows + [Row(f"{e.name} ({speed.peak / 1e9:.0f} GB)", speed.tokens_per_s, "tokens/s") for e, speed in others]


def fastest(found: dict[Contender, Speed], who: str) -> Contender | None:
    """Fastest contender of one trainer."""
    mine = [each for each in found if each.who == who]
    return max(mine, key=lambda each: found[each].tokens_per_s, default=None)


def peers(job: Job) -> list[str]:
    """Names of the peers with a checkout."""
    return [who for who, there in (("nanoGPT", job.nanogpt), ("build-nanogpt", job.build_nanogpt)) if there]


def precision_of(job: Job) -> Name:
    """bf16; fp32 in a dry run, as not every CPU has bf16."""
    return "fp32" if job.toy else "bf16"


def trainee(setup: Setup, each: Contender, job: Job, precision: Name, steps: int) -> Trainee:
    """Set up a contender on the device."""
    own_setup = Setup(replace(task_of(job.toy, each.micro)), setup.tokens, setup.batches, setup.log)
    device = here(toy=job.toy)
    if each.who == "groundup":
        return own_setup.ours(precision, compiling=each.compiling, device=device)
    make = partial(MAKERS[each.who], checkouts=Checkouts(job.nanogpt, job.build_nanogpt))
    return own_setup.theirs(make, steps, precision, compiling=each.compiling, device=device)


def speed_of(setup: Setup, each: Contender, job: Job, precision: Name) -> Speed:
    """Build a contender, run its first steps, then time some."""
    device, timed = here(toy=job.toy), 1 if job.toy else TIMED
    torch.compiler.reset()
    forget(device)
    started = time.monotonic()
    one = trainee(setup, each, job, precision, COMPARED + ROUNDS * timed)
    losses = one.train(COMPARED)
    ready = time.monotonic() - started
    rates = [timed * one_step(job) / seconds(device, lambda: one.train(timed)) for _ in range(ROUNDS)]
    return Speed(sorted(rates)[ROUNDS // 2], peak(device), losses, ready)


def one_step(job: Job) -> int:
    """Tokens per step."""
    return task_of(job.toy, 1).step_tokens


def profile(job: Job) -> None:
    """Kernels of one step, the longest first."""
    device, precision = here(toy=job.toy), precision_of(job)
    micro = 2 if job.toy else 32
    ways: Sequence[bool] = (False,) if job.toy else (True, False)
    with open_setup(task_of(job.toy, micro)) as setup:
        for compiling in ways:
            each = Contender("groundup", compiling, micro)
            measure: Callable[[], list[dict[str, object]]] = partial(_kernels, setup, each, job, precision)
            forget(device)
            if not (found := job.attempt(each.name, measure)):
                continue
            job.fact(each.name, found[:MAX_KERNELS])
            total = sum(one["ms"] for one in found)
            job.add(Row(f"all kernels of a step: {each.name}", total, "ms"))
            for one in found[:8]:
                job.note(f"{one['ms']:9.2f} ms {one['ms'] / total:5.1%} {one['calls']:6d} x  {one['name'][:80]}")


def _kernels(setup: Setup, each: Contender, job: Job, precision: Name) -> list[dict[str, object]]:
    one = trainee(setup, each, job, precision, 5)
    one.train(3)
    return kernels(here(toy=job.toy), lambda: one.train(1))
