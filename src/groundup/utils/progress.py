"""Progress of long work: bytes done, phases, messages, and facts about each training step."""

from collections.abc import Callable
from dataclasses import dataclass


class ProgressReporter:
    """Receiver of progress: passes the bytes done to `on_bytes`, if given, and ignores phases and messages."""

    def __init__(self, on_bytes: Callable[[int], None] | None = None) -> None:
        self._on_bytes = on_bytes or (lambda done: None)

    def __call__(self, done: int) -> None:
        """Report `done` bytes of this phase's total; if that is unknown, bytes of text."""
        self._on_bytes(done)

    def phase(self, name: str, total: int | None, done: int = 0) -> None:
        """Start the phase `name`, which reads `total` bytes of input files, of which `done` are done."""

    def message(self, line: str) -> None:
        """Show a line to the user."""


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
