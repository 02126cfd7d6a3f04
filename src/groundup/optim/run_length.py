"""Length of a run: a number of optimizer steps, or a time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from statistics import median_low
from typing import Any, Protocol, Self

from groundup.config.sections import TrainConfig
from groundup.errors import ConfigError

RECENT_STEPS = 5  # whose median is what a step usually takes: two of them may stall


@dataclass
class Progress:
    """Position of a run in its data and its time."""

    step: int = 0  # optimizer steps finished
    tokens: int = 0  # tokens trained on
    cursor: int = 0  # position in the data order: sequences drawn or skipped
    elapsed: float = 0.0  # seconds of training, interruptions not counted
    dt: float = 0.0  # seconds of the last step, hooks not counted
    skips: list[tuple[int, int]] = field(default_factory=list)  # ranges of sequences left out after a rollback

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Self:
        """The position that a checkpoint's metadata has."""
        known = {field.name: metadata[field.name] for field in fields(cls) if field.name in metadata}
        return cls(**known | {"skips": [(start, stop) for start, stop in metadata.get("skips", ())]})

    def __post_init__(self) -> None:
        self._recent = [self.dt] if self.dt else []

    @property
    def usual_dt(self) -> float:
        """Seconds that the coming step will take: the median of the last ones, so that one stall does not count."""
        return median_low(self._recent) if self._recent else 0.0

    def time_step(self, seconds: float) -> None:
        """Note how long a step took."""
        self.dt, self._recent = seconds, [*self._recent, seconds][-RECENT_STEPS:]

    def finish_step(self, tokens: int, sequences: int) -> None:
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        self.advance(sequences)

    def advance(self, sequences: int) -> None:
        """Move the cursor past the sequences of a step, and past those to be skipped."""
        self.cursor += sequences
        for start, stop in sorted(self.skips):
            if start <= self.cursor < stop:
                self.cursor = stop


class RunLength(Protocol):
    """When a run ends."""

    def fraction(self, progress: Progress) -> float:
        """Fraction of the run done after the coming step, for the learning-rate schedule."""

    def reached(self, progress: Progress) -> bool:
        """Whether the run ends before another step."""


@dataclass(frozen=True)
class StepLength:
    """A number of optimizer steps."""

    total: int

    def fraction(self, progress: Progress) -> float:
        return (progress.step + 1) / self.total

    def reached(self, progress: Progress) -> bool:
        return progress.step >= self.total


@dataclass(frozen=True)
class TimeLength:
    """Seconds of training, hooks included. The number of steps depends on the machine's load: not reproducible."""

    seconds: float

    def fraction(self, progress: Progress) -> float:
        return min(1.0, (progress.elapsed + progress.usual_dt) / self.seconds)

    def reached(self, progress: Progress) -> bool:
        return progress.step > 0 and progress.elapsed + progress.usual_dt > self.seconds


def build_run_length(train: TrainConfig, batch_size: int, epoch_sequences: int) -> StepLength | TimeLength:
    """The length that `train` asks for; `batch_size` sequences per step. ConfigError when none is given."""
    if train.max_time is not None:
        return TimeLength(train.max_time)
    if train.max_steps is not None:
        return StepLength(train.max_steps)
    if train.max_tokens is not None:
        return StepLength(math.ceil(train.max_tokens / train.batch_tokens))
    if train.epochs is not None:
        return StepLength(max(1, math.ceil(train.epochs * epoch_sequences / batch_size)))  # 5e-324 epochs are a step
    raise ConfigError(
        "train: no run length; give --train.max_steps, --train.max_tokens, --train.epochs or --train.max_time"
    )
