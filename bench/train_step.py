"""Subject `train-step`: complete training steps, ours and nanoGPT's, on the same weights, batches and hyperparameters.

The model is the one that nanoGPT's README gives for a machine without a GPU, in fp32 and eager mode. Where
`train.precision: auto` chooses bf16, which nanoGPT on a CPU cannot use, an additional row shows it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.contenders import CPU, NANO, Task, Trainee, open_setup
from bench.measure import Options, Result, gemm_gflops, interleaved, seconds
from bench.nanogpt import HINT
from bench.peers import Checkouts, nanogpt
from groundup.model.size import flops_per_token
from groundup.utils.device import choose_precision

BOUND = 1e-3  # nats per token; the same sums in another order differ by far less


def run(options: Options) -> Result:
    """Tokens per second, ratios to nanoGPT, and the largest difference of the fp32 losses."""
    task, ids = _task(options.text)
    rounds = options.rounds_or(task.rounds)
    with open_setup(task, ids) as setup:
        contenders: dict[str, Trainee] = {"groundup": setup.ours()}
        if options.nanogpt:
            make = partial(nanogpt, checkouts=Checkouts(options.nanogpt))
            contenders["nanoGPT"] = setup.theirs(make, task.compared + rounds * task.steps)
        if (auto := choose_precision("auto", CPU).name) != "fp32":
            contenders[f"groundup, {auto}"] = setup.ours(auto)
        losses = {name: contender.train(task.compared) for name, contender in contenders.items()}
        rows = interleaved({name: partial(_speed, each, task) for name, each in contenders.items()}, rounds)
    result = Result("train-step: 4 layers, 128 wide, 12 x 64 tokens", "tokens/s", rows, baseline="nanoGPT")
    share = rows[0].median * flops_per_token(task.config) / (gemm_gflops() * 1e9)
    result.notes.append(f"groundup's arithmetic in fp32 runs at {share:.0%} of the speed of a large matrix product")
    if not options.nanogpt:
        result.notes.append(HINT)
        return result
    difference = max_difference(losses["groundup"], losses["nanoGPT"])
    steps = f"fp32 losses of the first {task.compared} steps"
    sentence = f"{steps} differ by {difference:.1e} nats per token at most (bound {BOUND})"
    (result.notes if difference < BOUND else result.failures).append(sentence)  # a NaN fails
    return result


def max_difference(ours: list[float], theirs: list[float]) -> float:
    """Largest difference between two runs' losses, step by step; NaN if either has one."""
    return float(np.abs(np.subtract(ours, theirs)).max())


def _speed(contender: Trainee, task: Task) -> float:
    return task.steps * task.step_tokens / seconds(lambda: contender.train(task.steps))


def _task(text: Path | None) -> tuple[Task, NDArray[np.int64] | None]:
    """Task over the characters of a text, or over synthetic ones."""
    if not text:
        return NANO, None
    characters, ids = np.unique(list(text.read_text(encoding="utf-8")), return_inverse=True)
    return replace(NANO, config=NANO.config.model_copy(update={"vocab_size": len(characters)})), ids
