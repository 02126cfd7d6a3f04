"""The whole training loop. Everything it uses is handed in; everything periodic is a hook."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from groundup.training.meter import StepTimer
from groundup.utils.progress import StepInfo as StepInfo


@dataclass
class Progress:
    """Where a run stands; all that resuming needs besides weights and moments."""

    step: int = 0  # optimizer steps finished
    tokens: int = 0  # tokens trained on
    cursor: int = 0  # windows drawn, or skipped
    elapsed: float = 0.0  # seconds of training, interruptions left out
    dt: float = 0.0  # seconds the last step took, hooks left out
    skips: list[tuple[int, int]] = field(default_factory=list)  # windows, from and to, that spoilt the training

    def finish_step(self, tokens: int, rows: int) -> None:
        """Count a step of so many tokens and windows."""
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        self.advance(rows)

    def advance(self, rows: int) -> None:
        """Move the cursor over the windows of a step, and over those to be skipped."""
        self.cursor += rows
        for start, stop in sorted(self.skips):
            if start <= self.cursor < stop:
                self.cursor = stop


Hook = Callable[[StepInfo], None]
MicroBatch = tuple[Tensor, Tensor, bool]  # ids and targets, each (rows, block_size); whether it is the step's last


class Optimizer(Protocol):
    """What moves the parameters: any of torch's optimizers, or several as one."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters, each with its learning rate `lr`."""
        ...

    def step(self) -> object:
        """Move every parameter that has a gradient."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        ...


class Horizon(Protocol):
    """How far a run goes."""

    def fraction(self, progress: Progress) -> float:
        """Part of the horizon that will be done after the coming step."""
        ...

    def reached(self, progress: Progress) -> bool:
        """Whether there is no room for another step."""
        ...


class Scaler(Protocol):
    """What keeps small fp16 gradients from vanishing: `torch.amp.GradScaler`, which does nothing when disabled."""

    def scale(self, outputs: Tensor) -> Tensor:
        """The loss, enlarged."""
        ...

    def unscale_(self, optimizer: Any) -> None:
        """Bring the gradients back to their size."""
        ...

    def step(self, optimizer: Any) -> object:
        """Let the optimizer step, unless a gradient overflowed."""
        ...

    def update(self) -> None:
        """Choose the scale of the next step."""
        ...


class Judge(Protocol):
    """Who decides whether a step may touch the weights."""

    def allows_step(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether it may; raises where the run must go back, or cannot go on."""
        ...


class BatchStream(Protocol):
    """The global batch of each step, as a pure function of the cursor."""

    rows: int  # windows a step, over all processes
    scored: int  # targets a step, over all processes

    def micro_batches(self, cursor: int) -> Iterable[MicroBatch]:
        """This process's share of the batch at `cursor`, in pieces that fit the device."""
        ...


class Peers(Protocol):
    """The processes that train the same model, this one with them: `parallel.py`."""

    def grad_sync(self, last: bool) -> AbstractContextManager[None]:
        """Around each micro-batch's forward and backward pass: only those of the `last` let gradients meet."""
        ...

    def reduce_metrics(self, loss: Tensor, norm: Tensor) -> tuple[float, float]:
        """Everyone's losses added up, and the norm of all gradients, the same for all."""
        ...


def fit(
    loss_sum: nn.Module,
    optimizer: Optimizer,
    batches: BatchStream,
    schedule: Callable[[int, float], float],
    horizon: Horizon,
    progress: Progress,
    *,
    clip: float,
    autocast: Callable[[], AbstractContextManager[object]],
    scaler: Scaler,
    peers: Peers,
    reseed: Callable[[int], None],
    guard: Judge,
    average: Callable[[], None],  # after each step that moved the weights
    stop: Callable[[], bool],
    hooks: Iterable[Hook],
    context: Callable[[float], int | None] = lambda _: None,  # tokens a piece of a window; None: windows stay whole
) -> None:
    """Train at least one step, until the horizon is reached or `stop` says so; `progress` changes in place.

    `loss_sum(ids, targets)` gives summed nats; dividing by the step's scored targets makes accumulation exact.
    `reseed(step)` sets the generators that dropout draws from, so that nothing between steps can disturb training.
    """
    parameters = [p for p in loss_sum.parameters() if p.requires_grad]
    hooks, meter = list(hooks), StepTimer(progress.elapsed)
    while True:
        meter.start_step()
        fraction = horizon.fraction(progress)
        lr = set_learning_rate(optimizer, schedule(progress.step, fraction))
        reseed(progress.step)
        loss_sum.train()
        total = torch.zeros((), device=parameters[0].device)
        for ids, targets, last in split_sequences(batches.micro_batches(cursor := progress.cursor), context(fraction)):
            with peers.grad_sync(last):
                with autocast():
                    loss = loss_sum(ids, targets) / batches.scored
                torch.autograd.backward(scaler.scale(loss))
            total += loss.detach()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, clip or torch.inf)
        loss_value, norm_value = peers.reduce_metrics(total, norm)
        applied = guard.allows_step(progress.step + 1, loss_value, norm_value)
        if applied:
            scaler.step(optimizer)
            average()
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        progress.finish_step(batches.scored, batches.rows)
        progress.elapsed, progress.dt = meter.end_step()
        info = StepInfo(
            progress.step, progress.tokens, cursor, progress.elapsed, loss_value, norm_value, lr, progress.dt,
            batches.scored / progress.dt, fraction, applied, horizon.reached(progress), stop(), ids.size(1),
        )  # fmt: skip
        for hook in hooks:
            hook(info)
        if info.finished or stop() or horizon.reached(progress):  # asked again: an evaluation may have decided it
            return
        progress.elapsed = meter.elapsed  # evaluations count against a budget too


def split_sequences(micro_batches: Iterable[MicroBatch], length: int | None) -> Iterator[MicroBatch]:
    """Windows in pieces of `length` tokens, each a sequence by itself."""
    for ids, targets, last in micro_batches:
        yield (ids.reshape(-1, length), targets.reshape(-1, length), last) if length else (ids, targets, last)


def set_learning_rate(optimizer: Optimizer, lr: float) -> float:
    """Give every group the learning rate, times the group's own `scale` where it has one; returns it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)
    return lr
