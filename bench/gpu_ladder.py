"""Subject `ladder` of `bench.gpu`: known speed-ups of GPT-2's training, one by one, as `bench.ladder` measures them."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import torch

from bench.contenders import GPT2, Task
from bench.gpu_child import Job
from bench.gpu_device import here
from bench.gpu_table import Row
from bench.ladder import COMPARED, PACES, VOCAB, measure_rungs
from bench.ladder_rungs import RUNGS
from bench.ladder_table import Results, row
from bench.worker import InProcess, Worker


def task_of(*, toy: bool) -> Task:
    """GPT-2's smallest size with its own vocabulary, in fewer rounds than `bench.ladder`."""
    if toy:
        small = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 100}
        return replace(GPT2, config=GPT2.config.model_copy(update=small), compared=2, steps=1, rounds=1)
    config = GPT2.config.model_copy(update={"vocab_size": VOCAB})
    return replace(GPT2, config=config, rows=PACES["cuda"].rows, compared=COMPARED, steps=5, rounds=3)


def ladder(job: Job) -> None:
    """Tokens per second of each rung and of the one it builds on; none is compiled in a test."""
    started, took = time.monotonic(), [0.0]

    def save(found: Results) -> None:
        took.append(time.monotonic() - started - sum(took))
        job.fact("rungs", [row(found, step) for step in found.steps])
        job.show(rows_of(found))

    start = InProcess if job.toy else partial(Worker, threads=torch.get_num_threads())
    rungs = [rung for rung in RUNGS if not (job.toy and "backend" in rung.changes)]
    found = Results(task_of(toy=job.toy), here(toy=job.toy))
    measure_rungs(found, rungs, start, on_rung=save, should_stop=lambda: job.left < 1.3 * max(took) + 3)
    for line in [*found.notes, *found.failures]:
        job.note(line)


def rows_of(found: Results) -> list[Row]:
    """Rows of the measured rungs, each compared with the one it builds on."""
    speeds = {one["key"]: one["tokens_per_s"] for one in (row(found, step) for step in found.steps)}
    rows = []
    for step in found.steps:
        if (speed := speeds[step.rung.key]) is None:
            continue
        peer = {"peer": speeds[step.before], "peer_name": step.before, "ratio": step.over_before} if step.ratios else {}
        rows.append(Row(f"{step.rung.name} ({step.peak / 1e9:.0f} GB)", speed, "tokens/s", **peer))
    return rows
