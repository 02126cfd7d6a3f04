"""The best a run has been, and when to stop waiting for better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from groundup.training.loop import Horizon, Progress


@dataclass
class BestLoss:
    """The lowest validation loss so far; kept in every checkpoint."""

    loss: float | None = None  # nats a token; None before the first evaluation
    step: int = 0  # when that was
    since: int = 0  # evaluations after it, none of them lower
    seen: int = 0  # step of the last evaluation

    def update(self, step: int, loss: float) -> None:
        """Take note of an evaluation; one that is not a number is never the best."""
        self.seen = step
        if loss < (float("inf") if self.loss is None else self.loss):
            self.loss, self.step, self.since = loss, step, 0
        else:
            self.since += 1


@dataclass(frozen=True)
class EarlyStopping:
    """A horizon that may be cut short: by `patience` evaluations in a row without a better one, or by `stop_after`.

    None means never. The last of these evaluations is the end of the run.
    """

    horizon: Horizon
    best: BestLoss
    patience: int | None
    stop_after: float | None  # seconds of training

    def fraction(self, progress: Progress) -> float:
        """The horizon's own: no schedule can know that a run will end early."""
        return self.horizon.fraction(progress)

    def reached(self, progress: Progress) -> bool:
        """Whether the horizon is reached, or patience or time is at its end."""
        tired = self.patience is not None and self.best.since >= self.patience
        late = self.stop_after is not None and progress.step > 0 and progress.elapsed + progress.dt > self.stop_after
        return tired or late or self.horizon.reached(progress)


@dataclass(frozen=True)
class SyncedRunLength:
    """A horizon by the clock for several processes, whose clocks differ: `first` gives all what the first one says."""

    horizon: Horizon
    first: Callable[[Any], Any]

    def fraction(self, progress: Progress) -> float:
        """The first process's."""
        return float(self.first(self.horizon.fraction(progress)))

    def reached(self, progress: Progress) -> bool:
        """Whether it is for the first process."""
        return bool(self.first(self.horizon.reached(progress)))
