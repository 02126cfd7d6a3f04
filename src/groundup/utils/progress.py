"""What a preparation tells whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


class ProgressReporter:
    """Told of every step; passes the bytes done to `tell`, if there is one, and does nothing else."""

    def __init__(self, tell: Callable[[int], None] | None = None) -> None:
        self._tell = tell or (lambda done: None)

    def __call__(self, done: int) -> None:
        """`done` bytes of this phase's total are done; where that is unknown, so many bytes of text."""
        self._tell(done)

    def phase(self, name: str, total: int | None, done: int = 0) -> None:
        """What comes now is `name`, and takes `total` bytes of input as they lie on disk, of which `done` are done."""

    def say(self, line: str) -> None:
        """Something that the user should know."""


@dataclass(frozen=True)
class StepInfo:
    """Read-only facts about the training step just finished."""

    step: int
    tokens: int  # trained on so far
    cursor: int  # index of the step's first sequence
    elapsed: float  # seconds
    loss: float  # nats per token, mean over the step
    grad_norm: float  # before clipping
    lr: float
    dt: float  # seconds
    tokens_per_s: float
    fraction: float  # of the run length
    applied: bool  # False: the guard kept this step from the weights
    finished: bool  # the run length is reached
    stopping: bool  # a stop was requested
    context: int  # tokens of each sequence

    @property
    def progress(self) -> float:
        """Fraction of the run that is completed; 1 when it is finished."""
        return 1.0 if self.finished else self.fraction
