"""Subjects of `bench.gpu`: a training step of exact GPT-2, ours and others', and the kernels that it is made of.

All start from the same weights and see the same windows in the same order; ours runs in the loop of `groundup train`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from bench.contenders import GPT2, Stage, Task, Trainee, stage
from bench.gpu_child import Job
from bench.gpu_device import forget, gemm_tflops, here, kernels, peak, seconds
from bench.gpu_table import Row
from bench.peers import MAKERS, Places
from groundup.model.size import flops_per_token
from groundup.utils.device import Name

MICRO = (16, 32, 64)  # windows a pass
COMPARED, TIMED, ROUNDS = 5, 5, 3  # steps before the clock, steps a round
SHARE, AHEAD = 0.60, 1.3  # goals: of a large matrix product's speed; times the fastest peer
TOP = 25  # kernels


@dataclass(frozen=True)
class Contender:
    """Who trains, and how."""

    who: str  # groundup, or one of MAKERS
    compiling: bool
    micro: int  # windows a pass

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"{self.who}, {'compiled' if self.compiling else 'eager'}, {self.micro} windows a pass"


@dataclass(frozen=True)
class Speed:
    """What a contender reached."""

    tokens_per_s: float
    peak: int  # bytes
    losses: list[float]  # of the first steps
    ready: float  # seconds until the first steps were done: building, compiling


def task_of(toy: bool, micro: int) -> Task:
    """GPT-2's smallest size at 1,024 tokens, steps of 64 windows."""
    if toy:
        small = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 32, "vocab_size": 128}
        return replace(GPT2, config=GPT2.config.model_copy(update=small), rows=4, micro_rows=micro)
    return replace(GPT2, rows=64, micro_rows=micro)


def exact(job: Job) -> None:
    """Tokens per second, with peers and as a fraction of the ceiling; peak memory; difference of losses."""
    device, precision = here(toy=job.toy), precision_of(job)
    ceiling = lambda: gemm_tflops(device, torch.bfloat16, (64,) * 3 if job.toy else (8192,) * 3)  # noqa: E731
    before, found = ceiling(), dict[Contender, Speed]()
    micro = (1, 2) if job.toy else MICRO
    compiling = not job.toy
    with stage(task_of(job.toy, micro[0])) as place:

        def look(each: Contender) -> None:
            """One contender, unless it could not end in time: the slowest so far says how long one takes."""
            if each in found or job.left < 1.3 * max((one.ready for one in found.values()), default=0.0) + 3:
                return
            if speed := job.tried(each.name, partial(speed_of, place, each, job, precision)):
                found[each] = speed
                job.fact("contenders", {who.name: vars(speed) for who, speed in found.items()})
                job.show(rows_of(job, found, before))

        for n in micro:
            look(Contender("groundup", False, n))
        best = fastest(found, "groundup")
        n = best.micro if best else micro[0]
        order = [("groundup", compiling), *((who, compiling) for who in peers(job)), ("nanoGPT", False)]
        for who, compiled in order:
            if who == "groundup" or who in peers(job):
                look(Contender(who, compiled, n))
        for other in micro:  # the best of both sides, where time is left
            for who in ("groundup", *peers(job)):
                look(Contender(who, compiling, other))
    after = ceiling()
    job.fact("ceiling_tflops", [before, after])
    job.show(rows_of(job, found, max(before, after)))
    first = next((each for each in found if each.who == "groundup"), None)
    for each in found if first else ():
        gap = float(np.abs(np.subtract(found[first].losses, found[each].losses)).max())
        job.note(f"{each.name}: losses of the first {COMPARED} steps within {gap:.1e} nats a token of {first.name}'s")


def rows_of(job: Job, found: dict[Contender, Speed], ceiling: float) -> list[Row]:
    """Ours compiled and eager, the faster one against the fastest peer and the goals; then all others."""
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
            rows.append(Row("share of a large product's speed", share, "", goal=f">= {SHARE:g}", met=share >= SHARE))
            if ratio is not None:
                rows.append(Row("times the best peer", ratio, "", goal=f">= {AHEAD:g}", met=ratio >= AHEAD))
        rows.append(Row(f"{each.name}: peak memory", speed.peak / 1e9, "GB"))
    others = [(each, speed) for each, speed in found.items() if each not in shown]
    return rows + [Row(f"{e.name} ({speed.peak / 1e9:.0f} GB)", speed.tokens_per_s, "tokens/s") for e, speed in others]


def fastest(found: dict[Contender, Speed], who: str) -> Contender | None:
    """Of one side."""
    mine = [each for each in found if each.who == who]
    return max(mine, key=lambda each: found[each].tokens_per_s, default=None)


def peers(job: Job) -> list[str]:
    """Those whose checkouts were named."""
    return [who for who, there in (("nanoGPT", job.nanogpt), ("build-nanogpt", job.build_nanogpt)) if there]


def precision_of(job: Job) -> Name:
    """bf16; in a rehearsal fp32, as not every CPU has the other."""
    return "fp32" if job.toy else "bf16"


def trainee(place: Stage, each: Contender, job: Job, precision: Name, steps: int) -> Trainee:
    """A contender with all that it needs, on the device."""
    here_ = Stage(replace(task_of(job.toy, each.micro)), place.tokens, place.batches, place.log)
    device = here(toy=job.toy)
    if each.who == "groundup":
        return here_.ours(precision, compiling=each.compiling, device=device)
    make = partial(MAKERS[each.who], places=Places(job.nanogpt, job.build_nanogpt))
    return here_.theirs(make, steps, precision, compiling=each.compiling, device=device)


def speed_of(place: Stage, each: Contender, job: Job, precision: Name) -> Speed:
    """Build it, let it take a few steps, then time some."""
    device, timed = here(toy=job.toy), 1 if job.toy else TIMED
    torch.compiler.reset()
    forget(device)
    began = time.monotonic()
    one = trainee(place, each, job, precision, COMPARED + ROUNDS * timed)
    losses = one.train(COMPARED)
    ready = time.monotonic() - began
    rates = [timed * one_step(job) / seconds(device, lambda: one.train(timed)) for _ in range(ROUNDS)]
    return Speed(sorted(rates)[ROUNDS // 2], peak(device), losses, ready)


def one_step(job: Job) -> int:
    """Tokens a step."""
    return task_of(job.toy, 1).step_tokens


def profile(job: Job) -> None:
    """Where the time of a step goes: the kernels of one, the longest first."""
    device, precision = here(toy=job.toy), precision_of(job)
    micro = 2 if job.toy else 32
    ways: Sequence[bool] = (False,) if job.toy else (True, False)
    with stage(task_of(job.toy, micro)) as place:
        for compiling in ways:
            each = Contender("groundup", compiling, micro)
            look: Callable[[], list[dict[str, object]]] = partial(_kernels, place, each, job, precision)
            forget(device)
            if not (found := job.tried(each.name, look)):
                continue
            job.fact(each.name, found[:TOP])
            total = sum(one["ms"] for one in found)
            job.add(Row(f"all kernels of a step: {each.name}", total, "ms"))
            for one in found[:8]:
                job.note(f"{one['ms']:9.2f} ms {one['ms'] / total:5.1%} {one['calls']:6d} x  {one['name'][:80]}")


def _kernels(place: Stage, each: Contender, job: Job, precision: Name) -> list[dict[str, object]]:
    one = trainee(place, each, job, precision, 5)
    one.train(3)
    return kernels(here(toy=job.toy), lambda: one.train(1))
