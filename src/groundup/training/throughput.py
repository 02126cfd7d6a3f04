"""Throughput of training on this machine, measured on a few tokens, without any effect on the training to come."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from groundup.optim.optimizer import OptimizerContainer
from groundup.utils.device import is_out_of_memory

MEASURE_SECONDS = 0.8  # for the timed passes; warming up takes a second more for a model of 100 million weights
FIRST_TOKENS = 32  # in the first piece, which also warms the machine up
MIN_PIECES = 3  # whatever time they take: two give the cost of a pass and of a token, and the first is often noise
REPEATS = 5  # of a complete micro-batch, of which the median counts


@dataclass(frozen=True)
class Throughput:
    """A measured training speed."""

    tokens_per_s: float  # in complete steps: passes, clipping, optimizer
    tokens: int  # in the largest piece timed; fewer than a micro-batch where that would take too long


def measure_throughput(
    loss_sum: nn.Module,
    optimizer: OptimizerContainer,
    micro_batch: tuple[Tensor, Tensor],
    *,
    step_tokens: int,
    clip: float,
    autocast: Callable[[], AbstractContextManager[object]],
    fewest: int = 1,
    seconds: float = MEASURE_SECONDS,
) -> Throughput | None:
    """Time forward, backward and optimizer of an untrained model; None where memory does not suffice.

    Pieces of `micro_batch` (ids and targets, each (B, T)), from `fewest` sequences on, double until they are all of it,
    or until the next would not end within about `seconds`; the last two then give the cost of a pass and of a token.
    Weights, gradients, learning rates, mode and random generators are left as they were, bit for bit. The optimizer
    must not have stepped yet: its state is cleared.
    """
    ids, targets = micro_batch
    parameters = [p for p in loss_sum.parameters() if p.requires_grad]
    device = parameters[0].device

    def timed(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - began

    def forward_backward(rows: int, length: int) -> float:
        return timed(lambda: torch.autograd.backward(loss_of(rows, length)))

    def loss_of(rows: int, length: int) -> Tensor:
        with autocast():
            loss: Tensor = loss_sum(ids[:rows, :length], targets[:rows, :length]) / step_tokens
        return loss

    def step() -> None:
        # A gradient that is not finite would reach the weights even at a learning rate of 0.
        if math.isfinite(nn.utils.clip_grad_norm_(parameters, clip or torch.inf).item()):
            optimizer.step()

    try:
        with _restored(loss_sum, optimizer, device):
            sizes = _sizes(len(ids), ids.size(1), min(fewest, len(ids)))
            forward_backward(*sizes[0])
            timed(step)  # creates the optimizer state
            step_seconds = timed(step)
            timings = _timings(forward_backward, sizes, seconds)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
    passes = math.ceil(step_tokens / ids.numel())
    return Throughput(step_tokens / (passes * _pass_seconds(timings, ids.numel()) + step_seconds), timings[-1][0])


def _timings(
    forward_backward: Callable[[int, int], float], sizes: list[tuple[int, int]], seconds: float
) -> list[tuple[int, float]]:
    """Tokens and seconds of each piece, smallest first; of the complete micro-batch the median, if time allows."""
    deadline = time.perf_counter() + seconds
    timings: list[tuple[int, float]] = []
    for rows, length in sizes:
        timings.append((rows * length, forward_backward(rows, length)))
        if len(timings) >= MIN_PIECES and time.perf_counter() + 2 * timings[-1][1] > deadline:
            return timings
    tokens, first = timings.pop()
    repeats = [first]
    while len(repeats) < REPEATS and time.perf_counter() + repeats[-1] < deadline:
        repeats.append(forward_backward(*sizes[-1]))
    return [*timings, (tokens, median(repeats))]


def _sizes(rows: int, length: int, fewest: int) -> list[tuple[int, int]]:
    """Doubling pieces of a micro-batch as (sequences, tokens each): first longer, then more; the last is all of it."""
    lengths = [n for n in (FIRST_TOKENS << i for i in range(64)) if n < length] + [length]
    counts = [n for n in (2 * fewest << i for i in range(64)) if n < rows] + ([rows] if rows > fewest else [])
    return [(fewest, n) for n in lengths] + [(n, length) for n in counts]


def _pass_seconds(timings: list[tuple[int, float]], tokens: int) -> float:
    """Seconds for a pass over `tokens`, on the line through the last two timings where it rises."""
    n, t = timings[-1]
    if len(timings) > 1 and n < tokens:
        before, then = timings[-2]
        slope = (t - then) / (n - before)
        if 0 < slope <= t / n:  # otherwise noise
            return t + slope * (tokens - n)
    return t * tokens / n


@contextmanager
def _restored(loss_sum: nn.Module, optimizer: OptimizerContainer, device: torch.device) -> Iterator[None]:
    mode, rates = loss_sum.training, [group["lr"] for group in optimizer.param_groups]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            loss_sum.train()
            for group in optimizer.param_groups:
                group["lr"] = 0.0  # the same work, and no weight moves
            yield
        finally:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            for values in optimizer.state.values():
                values.clear()
            loss_sum.train(mode)
