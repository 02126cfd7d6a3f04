"""The one clock of a training run."""

from __future__ import annotations

import time


class Meter:
    """Seconds of a run, over all its interruptions, and of its last step."""

    def __init__(self, elapsed: float) -> None:
        self._origin = time.perf_counter() - elapsed
        self._step_began = self._origin
        self.dt = 0.0
        """seconds the last step took, hooks left out; 0 before the first"""

    @property
    def elapsed(self) -> float:
        """Seconds trained so far, hooks included."""
        return time.perf_counter() - self._origin

    def start_step(self) -> None:
        """Begin timing a step."""
        self._step_began = time.perf_counter()

    def end_step(self) -> float:
        """Finish timing a step; returns the seconds trained so far."""
        now = time.perf_counter()
        self.dt = now - self._step_began
        return now - self._origin
