"""Learning-rate schedules: pure functions of a run's progress.

A schedule reads the step and the fraction of the run that will be done after it. So one formula serves runs whose
length is in steps, tokens, epochs or time, and a resumed run needs no state.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from groundup.config.sections import ScheduleConfig
from groundup.errors import ConfigError

Schedule = Callable[[int, float], float]
"""(steps finished, fraction of the run done after the coming step) -> learning rate"""

DEFAULT_COOLDOWN_FRACTION = 0.4  # of the run
DEFAULT_RISE_FRACTION = 0.3  # of the run; torch.optim.lr_scheduler.OneCycleLR
TIMED_SPAN_FRACTION = 0.1  # of the run, for a span in steps whose part of a run of given time is unknown
FIRST_STEP = 0.01  # of a warm-up that is a fraction of a run of given time, done after the first step
SUM_TOLERANCE = 1e-9  # two fractions that fill a run may add up to so much more than 1


@dataclass(frozen=True)
class Span:
    """Warm-up or cooldown: a number of `steps` (not necessarily whole), or a `fraction` of the run.

    `total` is the length of the run in steps, None where it is a time.
    """

    steps: float | None
    fraction: float
    total: int | None

    def progress(self, step: int, done: float) -> float:
        """How much of a warm-up is done after the coming step: 1 at its end, and more beyond.

        `done` is the fraction of the run done after that step.
        """
        if self.steps is None:
            if not self.total and not done:  # how long the first step will take is unknown
                done = FIRST_STEP * self.fraction
            return done / self.fraction if self.fraction else math.inf
        return (step + 1) / self.steps if self.steps else math.inf

    def as_fraction(self, step: int, done: float) -> float:
        """The span as a fraction of the run; in a run of given time, steps take as long as those so far."""
        if self.steps is None:
            return self.fraction
        return self.steps / self.total if self.total else self.steps * done / (step + 1)

    def __str__(self) -> str:
        return f"{self.fraction:g} of the run" if self.steps is None else f"{self.steps:g} steps"


def _span(
    steps: int | None, tokens: int | None, fraction: float | None, default: float, total: int | None, step_tokens: int
) -> Span:
    if tokens is not None:
        return Span(tokens / step_tokens, 0.0, total)
    if steps is not None:
        return Span(float(steps), 0.0, total)
    return Span(None, default if fraction is None else fraction, total)


def cosine(x: float) -> float:
    """Half a cosine from 1 at x = 0 to 0 at x = 1 (arXiv:1608.03983)."""
    return 0.5 * (1.0 + math.cos(math.pi * x))


SHAPES: dict[str, Callable[[float], float]] = {"cosine": cosine, "linear": lambda x: 1.0 - x, "constant": lambda x: 1.0}
"""Curves from 1 at x = 0 to 0 (constant: 1) at x = 1."""


def shaped(config: ScheduleConfig, warmup: Span) -> Schedule:
    """Linear warm-up to 1, then a shape over the rest of the run down to `min_lr_ratio`.

    In a run of given time, a warm-up in steps overlaps the shape.
    """
    shape = SHAPES[config.name]
    overlaps = warmup.steps is not None and not warmup.total

    def rate(step: int, done: float) -> float:
        start = 0.0 if overlaps else warmup.as_fraction(step, done)
        x = (done - start) / (1.0 - start) if start < 1.0 else 0.0
        low = config.min_lr_ratio
        return min(1.0, warmup.progress(step, done)) * (low + (1.0 - low) * shape(min(1.0, max(0.0, x))))

    return rate


def wsd(config: ScheduleConfig, warmup: Span, cooldown: Span) -> Schedule:
    """Warm-up, stable, decay (arXiv:2404.06395): 1, then a linear cooldown to `min_lr_ratio` at the end."""
    if warmup.as_fraction(0, 0.0) + cooldown.as_fraction(0, 0.0) > 1.0 + SUM_TOLERANCE:
        run = f"the run of {warmup.total:,} steps" if warmup.total else "the run"
        raise ConfigError(
            f"schedule: a warm-up of {warmup} and a cooldown of {cooldown} are longer than {run}; "
            "give smaller ones, such as --schedule.warmup_fraction 0.02 --schedule.cooldown_fraction 0.4"
        )

    def rate(step: int, done: float) -> float:
        length = cooldown.as_fraction(step, done)  # 0 at the first step of a run of given time
        fall = min(1.0, max(0.0, 1.0 - done) / length) if length else 1.0
        return min(1.0, warmup.progress(step, done)) * (config.min_lr_ratio + (1.0 - config.min_lr_ratio) * fall)

    return rate


def inverse_sqrt(config: ScheduleConfig, warmup: Span) -> Schedule:
    """Linear warm-up of w steps to 1, then √(w / step), at least `min_lr_ratio` (arXiv:1706.03762, section 5.3).

    Without a warm-up, w is one step.
    """

    def rate(step: int, done: float) -> float:
        progress = min(warmup.progress(step, done), step + 1.0)
        return progress if progress < 1.0 else max(config.min_lr_ratio, progress**-0.5)

    return rate


def onecycle(config: ScheduleConfig, rise: Span) -> Schedule:
    """Half a cosine up to 1, half a cosine down (arXiv:1708.07120), as in torch.optim.lr_scheduler.OneCycleLR.

    There, a phase ends at the last of its steps, counted from 0; so the first may end before the first step.
    """
    first = 1.0 / config.div_factor
    last = first / config.final_div_factor

    def rate(step: int, done: float) -> float:
        length = min(1.0, rise.as_fraction(step, done))
        if rise.total:
            here, top, end = float(step), length * rise.total - 1.0, rise.total - 1.0
        else:
            here, top, end = done, length, 1.0
        if here <= top:
            return _half_cosine(first, 1.0, here / top if top else 1.0)
        return _half_cosine(1.0, last, min(1.0, (here - top) / (end - top)) if top < end else 1.0)

    return rate


def _half_cosine(start: float, end: float, x: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * x) + 1.0)


def build_schedule(config: ScheduleConfig, peak: float, total_steps: int | None, step_tokens: int = 1) -> Schedule:
    """Warm-up to `peak`, then `config.name` down to `config.min_lr_ratio · peak` at the end of the run.

    `total_steps` is None where the length of the run is a time. `step_tokens` turns lengths in tokens into steps.
    ConfigError where warm-up and cooldown are longer than the run.
    """
    c, default = config, DEFAULT_RISE_FRACTION if config.name == "onecycle" else 0.0
    warmup = _span(c.warmup_steps, c.warmup_tokens, c.warmup_fraction, default, total_steps, step_tokens)
    default = DEFAULT_COOLDOWN_FRACTION
    cooldown = _span(c.cooldown_steps, c.cooldown_tokens, c.cooldown_fraction, default, total_steps, step_tokens)
    curves: dict[str, Callable[[], Schedule]] = {
        "wsd": lambda: wsd(config, warmup, cooldown),
        "inverse_sqrt": lambda: inverse_sqrt(config, warmup),
        "onecycle": lambda: onecycle(config, warmup),
    }
    rate = curves.get(c.name, lambda: shaped(config, warmup))()
    return lambda step, done: peak * rate(step, done)


def squeezed(config: ScheduleConfig, total_steps: int | None, step_tokens: int) -> ScheduleConfig:
    """The schedule with warm-up and cooldown as fractions of the run, so that it fits a run of any length."""

    def as_fraction(steps: float | None, tokens: int | None, fraction: float | None) -> float | None:
        steps = steps if tokens is None else tokens / step_tokens
        if not steps:
            return fraction if steps is None else 0.0
        return min(1.0, steps / total_steps) if total_steps else TIMED_SPAN_FRACTION

    c = config
    unset = dict.fromkeys(("warmup_steps", "warmup_tokens", "cooldown_steps", "cooldown_tokens"))
    fractions = {
        "warmup_fraction": as_fraction(c.warmup_steps, c.warmup_tokens, c.warmup_fraction),
        "cooldown_fraction": as_fraction(c.cooldown_steps, c.cooldown_tokens, c.cooldown_fraction),
    }
    return c.model_copy(update=unset | fractions)
