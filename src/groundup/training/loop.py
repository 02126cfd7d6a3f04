"""The training loop. Its parts are passed in; everything periodic is a hook."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import nn

from groundup.utils.progress import StepInfo as StepInfo

if TYPE_CHECKING:
    from groundup.distributed.parallelize import NoParallel
    from groundup.optim.optimizer import OptimizerContainer
    from groundup.optim.run_length import RunLength
    from groundup.training.micro_batches import BatchLoader
    from groundup.training.train_state import TrainState


Hook = Callable[[StepInfo], None]
Schedule = Callable[[int, float], float]
"""(steps finished, fraction of the run done after the coming step) -> learning rate"""


def fit(
    loss_sum: nn.Module,
    state: TrainState,
    loader: BatchLoader,
    schedule: Schedule,
    run_length: RunLength,
    *,
    grad_clip: float,
    parallel: NoParallel,
    autocast: Callable[[], AbstractContextManager[object]],
    hooks: Iterable[Hook],
    should_stop: Callable[[], bool],
) -> None:
    """Train at least one step, until `run_length` is reached or `should_stop()`; `state` changes in place.

    `loss_sum(ids, targets)` gives summed nats over a micro-batch; dividing by the scored targets of the whole global
    step makes accumulation exact. `grad_clip` is the largest global gradient norm, 0 for no clipping. Raises what the
    guard raises: RollbackRequested, TrainingError.
    """
    progress, optimizer, scaler = state.progress, state.optimizer, state.scaler
    parameters = [p for p in loss_sum.parameters() if p.requires_grad]
    hooks, started = list(hooks), time.perf_counter() - progress.elapsed
    while True:
        step_started = time.perf_counter()
        fraction = run_length.fraction(progress)
        lr = set_learning_rate(optimizer, schedule(progress.step, fraction))
        state.seed_dropout()
        loss_sum.train()
        total = torch.zeros((), device=parameters[0].device)
        cursor = progress.cursor
        for ids, targets, last in loader.micro_batches(cursor, fraction, state.micro_batch_size):  # each (b, t)
            with parallel.grad_sync(last):
                with autocast():
                    loss = loss_sum(ids, targets) / loader.scored
                torch.autograd.backward(scaler.scale(loss))
            total += loss.detach()
        scaler.unscale_(optimizer)  # type: ignore[arg-type]  # a container of optimizers
        norm = nn.utils.clip_grad_norm_(parameters, grad_clip or torch.inf)
        loss_value, norm_value = parallel.reduce_metrics(total, norm)
        applied = state.guard.allows_step(progress.step + 1, loss_value, norm_value)
        if applied:
            scaler.step(optimizer)  # type: ignore[arg-type]
            state.ema.update()
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        progress.finish_step(loader.scored, loader.batch_size)
        now = time.perf_counter()
        progress.elapsed = now - started
        progress.time_step(now - step_started)
        info = StepInfo(
            progress.step, progress.tokens, cursor, progress.elapsed, loss_value, norm_value, lr, progress.dt,
            loader.scored / progress.dt, fraction, applied, run_length.reached(progress), should_stop(), ids.size(1),
        )  # fmt: skip
        for hook in hooks:
            hook(info)
        # Asked again: an evaluation may have decided that the run ends, or may have taken the time that was left.
        if info.finished or should_stop() or run_length.reached(progress):
            return
        progress.elapsed = time.perf_counter() - started  # evaluations count against a run length in time too


def set_learning_rate(optimizer: OptimizerContainer, lr: float) -> float:
    """Give every group the learning rate, times the group's own `scale` if it has one; returns it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)
    return lr
