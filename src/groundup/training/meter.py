"""The one clock of a training run."""

from __future__ import annotations

import time


class StepTimer:
    """Seconds of a run, over all its interruptions, and of its last step."""

    def __init__(self, elapsed: float) -> None:
        self._origin = time.perf_counter() - elapsed
        self._step_began = self._origin

    @property
    def elapsed(self) -> float:
        """Seconds trained so far, hooks included."""
        return time.perf_counter() - self._origin

    def start_step(self) -> None:
        """Begin timing a step."""
        self._step_began = time.perf_counter()

    def end_step(self) -> tuple[float, float]:
        """Seconds trained so far, and seconds that this step took."""
        now = time.perf_counter()
        return now - self._origin, now - self._step_began
