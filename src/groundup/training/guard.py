"""Nothing non-finite reaches the weights, and a run that goes wrong goes back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from groundup.errors import TrainingError

DECAY = 0.98  # of the running mean and variance: they remember about 50 steps
SETTLED = 50  # steps before a deviation means anything


class RollbackRequested(Exception):  # noqa: N818 - no error, but a way to go on
    """Too many bad steps in a row: the run must return to a checkpoint from before the first of them."""

    def __init__(self, first: int, cursor: int, last: int, reason: str) -> None:
        super().__init__(reason)
        self.first, self.cursor, self.last = first, cursor, last  # step and first window, and the last step


@dataclass
class RunningStats:
    """Running mean and variance of a number, newer values weighing more (Finch 2009, eqs. 124 and 143)."""

    n: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def deviation(self, x: float) -> float:
        """How many standard deviations x lies above the mean; 0 while too little is known."""
        return (x - self.mean) / math.sqrt(self.variance) if self.n >= SETTLED and self.variance > 0 else 0.0

    def update(self, x: float) -> None:
        """Take note of a value."""
        weight = max(1 / (self.n + 1), 1 - DECAY)
        delta = x - self.mean
        self.n += 1
        self.mean += weight * delta
        self.variance = (1 - weight) * (self.variance + weight * delta**2)


class LossGuard:
    """Turns away steps whose loss or gradient is not finite, notes spikes, and after `bad_steps` in a row gives up.

    Giving up means GoBack, while the run went back fewer than `rollbacks` times (`went_back()`); then TrainingError
    where numbers are not finite, while a loss that stays high is taken for the new usual one. A `spike` of None looks
    for none. `cursor()` is the first window of the step under way. `overflows()` says whether a gradient that is not
    finite is just fp16's scale being found: such a step is left out, and no harm.
    """

    def __init__(
        self,
        spike: float | None = 8.0,
        bad_steps: int = 10,
        rollbacks: int = 0,
        *,
        went_back: Callable[[], int] = lambda: 0,
        cursor: Callable[[], int] = lambda: 0,
        overflows: Callable[[], bool] = lambda: False,
        note: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        self.spike, self.bad_steps, self.rollbacks = spike, bad_steps, rollbacks
        self._went_back, self._cursor, self._overflows, self._note = went_back, cursor, overflows, note
        self.loss, self.grad_norm = RunningStats(), RunningStats()
        self.bad = 0  # steps in a row
        self.first: tuple[int, int] | None = None  # the first of them, and its first window

    def allows_step(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether a step may change the weights; GoBack or TrainingError when it is past saving."""
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if not finite and math.isfinite(loss) and self._overflows():
            return False
        if finite and not self._spikes(step, loss, grad_norm):
            self.bad, self.first = 0, None
            self.loss.update(loss)
            return True
        self.bad += 1
        self.first = self.first or (step, self._cursor())
        if self.bad >= self.bad_steps:
            self._give_up(step, loss, grad_norm, finite)
        return finite

    def _spikes(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether the loss is one; a gradient norm is only noted, as clipping deals with it, and may move for good."""
        z_loss, z_norm = self.loss.deviation(loss), self.grad_norm.deviation(grad_norm)
        self.grad_norm.update(grad_norm)
        if self.spike is None or max(z_loss, z_norm) <= self.spike:
            return False
        values = {"loss": loss, "grad_norm": grad_norm}
        self._note("spike", step=step, **values, z_loss=round(z_loss, 2), z_grad_norm=round(z_norm, 2))
        return z_loss > self.spike

    def _give_up(self, step: int, loss: float, grad_norm: float, finite: bool) -> None:
        what = f"loss {loss:.4g} and gradient norm {grad_norm:.4g} were "
        what += "far above the usual" if finite else "not finite"
        many = f"{self.bad} steps in a row"
        first, self.first, self.bad = self.first or (step, self._cursor()), None, 0
        if self._went_back() < self.rollbacks:
            raise RollbackRequested(*first, step, f"step {step}: {what}, {many}")
        if not finite:
            raise TrainingError(f"step {step}: {what}, {many}; start a new run with a lower --optimizer.learning_rate")
        self.loss = RunningStats()

    def books(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"loss": asdict(self.loss), "grad_norm": asdict(self.grad_norm), "bad": self.bad, "first": self.first}

    def restore(self, books: dict[str, Any]) -> None:
        """Be what `books` says."""
        self.loss, self.grad_norm = (RunningStats(**books.get(name, {})) for name in ("loss", "grad_norm"))
        self.bad = books.get("bad", 0)
        self.first = tuple(books["first"]) if books.get("first") else None
