"""Lowest validation loss of a run, and early stopping by it or by a time limit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from groundup.config.sections import TrainConfig
from groundup.optim.run_length import Progress, RunLength, TimeLength, build_run_length


@dataclass
class BestLoss:
    """Lowest validation loss so far; kept in every checkpoint."""

    loss: float | None = None  # nats per token; None before the first evaluation
    step: int = 0  # of that evaluation
    since: int = 0  # evaluations after it, none of them lower
    seen: int = 0  # step of the last evaluation
    text: str | None = None  # name of the text that all these losses are of

    def update(self, step: int, loss: float) -> None:
        """Include an evaluation; one that is not a number is never the best."""
        self.seen = step
        if loss < (float("inf") if self.loss is None else self.loss):
            self.loss, self.step, self.since = loss, step, 0
        else:
            self.since += 1


@dataclass(frozen=True)
class EarlyStopping:
    """A run length that may be cut short: by `patience` evaluations in a row without a lower loss, or by `time_limit`.

    None: never. The last of these evaluations is the end of the run.
    """

    run_length: RunLength
    best: BestLoss
    patience: int | None
    time_limit: float | None  # seconds of training

    def fraction(self, progress: Progress) -> float:
        """That of the run length: no schedule can know that a run will end early."""
        return self.run_length.fraction(progress)

    def reached(self, progress: Progress) -> bool:
        return self.limit_reached(progress) is not None

    def limit_reached(self, progress: Progress) -> str | None:
        """The key of the section `train` that continues the run if it is raised; None before the end of the run."""
        if self.run_length.reached(progress):
            return "max_time" if isinstance(self.run_length, TimeLength) else "max_steps"
        if self.patience is not None and self.best.since >= self.patience:
            return "early_stopping_patience"
        late = self.time_limit is not None and TimeLength(self.time_limit).reached(progress)
        return "time_limit" if late else None


def ended_by(train: TrainConfig, batch_size: int, epoch_sequences: int, metadata: Mapping[str, Any]) -> str | None:
    """`EarlyStopping.limit_reached` at a checkpoint, by its metadata. ConfigError where `train` has no run length."""
    run_length, best = build_run_length(train, batch_size, epoch_sequences), BestLoss(**metadata.get("best", {}))
    rule = EarlyStopping(run_length, best, train.early_stopping_patience, train.time_limit)
    return rule.limit_reached(Progress.of(metadata))


@dataclass(frozen=True)
class SyncedRunLength:
    """A run length in time for several processes, whose clocks differ: all follow rank 0."""

    run_length: RunLength
    broadcast: Callable[[Any], Any]

    def fraction(self, progress: Progress) -> float:
        return float(self.broadcast(self.run_length.fraction(progress)))

    def reached(self, progress: Progress) -> bool:
        return bool(self.broadcast(self.run_length.reached(progress)))
