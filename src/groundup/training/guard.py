"""Loss guard: rejects non-finite steps, logs spikes, and requests a rollback after repeated bad steps."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from groundup.errors import TrainingError
from groundup.utils.plural import human_plural

DECAY = 0.98  # of the running mean and variance: they remember about 50 steps
WARMUP_STEPS = 50  # before a deviation means anything
NOT_FINITE_REMEDY = (
    "if that began with a resume, move the newest checkpoint away and resume again; else start a new run with a lower "
    "--optimizer.learning_rate"
)


class RollbackRequested(Exception):  # noqa: N818 - no error, but a way to continue
    """Too many bad steps in a row: the run must return to a checkpoint from before the first of them."""

    def __init__(self, first: int, cursor: int, last: int, reason: str) -> None:
        super().__init__(reason)
        self.first, self.cursor, self.last = first, cursor, last  # first bad step, its first sequence, last bad step


@dataclass
class RunningStats:
    """Exponentially weighted mean and variance (Finch 2009, eqs. 124 and 143)."""

    n: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def deviation(self, x: float) -> float:
        """Standard deviations by which x exceeds the mean; 0 during the warm-up."""
        known = self.n >= WARMUP_STEPS and self.variance > 0
        return (x - self.mean) / math.sqrt(self.variance) if known else 0.0

    def update(self, x: float) -> None:
        weight = max(1 / (self.n + 1), 1 - DECAY)
        delta = x - self.mean
        self.n += 1
        self.mean += weight * delta
        self.variance = (1 - weight) * (self.variance + weight * delta**2)


class LossGuard:
    """Rejects steps with a non-finite loss or gradient, logs spikes, and gives up after `max_bad_steps` in a row.

    Giving up raises RollbackRequested while fewer than `max_rollbacks` were made (`rollbacks()`); then TrainingError if
    numbers are not finite, while a loss that stays high is accepted as the new level. `spike_sigma` None: no spikes are
    looked for. `cursor()` is the first sequence of the current step. `overflows()` says whether a non-finite gradient
    is only fp16's loss scale being found: such a step is left out without counting as bad.
    """

    def __init__(
        self,
        spike_sigma: float | None = 8.0,
        max_bad_steps: int = 10,
        max_rollbacks: int = 0,
        *,
        rollbacks: Callable[[], int] = lambda: 0,
        cursor: Callable[[], int] = lambda: 0,
        overflows: Callable[[], bool] = lambda: False,
        log: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        self.spike_sigma, self.max_bad_steps, self.max_rollbacks = spike_sigma, max_bad_steps, max_rollbacks
        self._rollbacks, self._cursor, self._overflows, self._log = rollbacks, cursor, overflows, log
        self.loss, self.grad_norm = RunningStats(), RunningStats()
        self.bad_steps = 0  # in a row
        self.first: tuple[int, int] | None = None  # the first of them, and its first sequence
        self._allowed: tuple[int, int] | None = None  # likewise, of the last step that was not bad

    def allows_step(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether a step may change the weights. Raises RollbackRequested or TrainingError after too many bad ones."""
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if not finite and math.isfinite(loss) and self._overflows():
            return False
        if finite and not self._spikes(step, loss, grad_norm):
            self.bad_steps, self.first, self._allowed = 0, None, (step, self._cursor())
            self.loss.update(loss)
            return True
        self.bad_steps += 1
        self.first = self.first or (step, self._cursor())
        if self.bad_steps >= self.max_bad_steps:
            self._give_up(step, loss, grad_norm, finite)
        return finite

    def _spikes(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether the loss spikes; a gradient norm is only logged: clipping handles it, and it may shift for good."""
        z_loss, z_norm = self.loss.deviation(loss), self.grad_norm.deviation(grad_norm)
        self.grad_norm.update(grad_norm)
        if self.spike_sigma is None or max(z_loss, z_norm) <= self.spike_sigma:
            return False
        values = {"loss": loss, "grad_norm": grad_norm}
        self._log("spike", step=step, **values, z_loss=round(z_loss, 2), z_grad_norm=round(z_norm, 2))
        return z_loss > self.spike_sigma

    def _give_up(self, step: int, loss: float, grad_norm: float, finite: bool) -> None:
        what = f"loss {loss:.4g} and gradient norm {grad_norm:.4g} were "
        what += "far above the running mean" if finite else "not finite"
        count = f"{human_plural(self.bad_steps, 'step')} in a row"
        first, self.first, self.bad_steps = self.first or (step, self._cursor()), None, 0
        if self._rollbacks() < self.max_rollbacks:
            raise RollbackRequested(*first, step, f"step {step}: {what}, {count}")
        if not finite:
            raise TrainingError(f"step {step}: {what}, {count}; {NOT_FINITE_REMEDY}")
        self.loss = RunningStats()

    def reject_state(self, step: int, tensor: str) -> NoReturn:
        """A tensor is not finite after finished step `step`: raise RollbackRequested, or TrainingError in the end."""
        reason = f"step {step}: {tensor} is not finite, so no checkpoint was written"
        first, self.first, self.bad_steps = self.first or self._allowed or (step, self._cursor()), None, 0
        if self._rollbacks() < self.max_rollbacks:
            raise RollbackRequested(*first, step, reason)
        raise TrainingError(f"{reason}; {NOT_FINITE_REMEDY}")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of the guard."""
        stats = {"loss": asdict(self.loss), "grad_norm": asdict(self.grad_norm)}
        return {**stats, "bad": self.bad_steps, "first": self.first}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restore from `state_dict()`; an empty one resets."""
        self.loss, self.grad_norm = (RunningStats(**values.get(name, {})) for name in ("loss", "grad_norm"))
        self.bad_steps = values.get("bad", 0)
        self.first = tuple(values["first"]) if values.get("first") else None
        self._allowed = None
