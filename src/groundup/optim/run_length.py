"""How far a run goes: a number of steps, or a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from groundup.config.schema import Config
from groundup.errors import ConfigError


class Progress(Protocol):
    """How far a run is."""

    @property
    def step(self) -> int:
        """Optimizer steps finished."""
        ...

    @property
    def elapsed(self) -> float:
        """Seconds of training."""
        ...

    @property
    def dt(self) -> float:
        """Seconds of the last step."""
        ...


@dataclass(frozen=True)
class StepLength:
    """A number of optimizer steps."""

    total: int

    def fraction(self, progress: Progress) -> float:
        """Part done after the coming step."""
        return (progress.step + 1) / self.total

    def reached(self, progress: Progress) -> bool:
        """Whether all steps are done."""
        return progress.step >= self.total


@dataclass(frozen=True)
class TimeLength:
    """Seconds of training, hooks included. What it yields depends on the machine's mood, so it is not reproducible."""

    seconds: float

    def fraction(self, progress: Progress) -> float:
        """Part of the time gone after the coming step."""
        return min(1.0, (progress.elapsed + progress.dt) / self.seconds)

    def reached(self, progress: Progress) -> bool:
        """Whether another step would overrun."""
        return progress.step > 0 and progress.elapsed + progress.dt > self.seconds


def build_run_length(config: Config, windows: int) -> StepLength | TimeLength:
    """The horizon that `config.train` asks for; `windows` is the length of an epoch. ConfigError when there is none."""
    train = config.train
    if train.max_time is not None:
        return TimeLength(train.max_time)
    if train.max_steps is not None:
        return StepLength(train.max_steps)
    if train.max_tokens is not None:
        return StepLength(math.ceil(train.max_tokens / train.batch_tokens))
    if train.epochs is not None:
        return StepLength(max(1, math.ceil(train.epochs * windows / config.rows)))  # even 5e-324 epochs are a step
    raise ConfigError(
        "train: no horizon; give --train.max_steps, --train.max_tokens, --train.epochs or --train.max_time"
    )
