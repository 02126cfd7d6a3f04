"""Learning rate as a pure function of where a run stands.

A schedule sees the step and the fraction of the horizon that will be done when the step is. That makes one formula
serve horizons in steps, tokens, epochs and wall-clock time, and a resumed run needs no state to go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from groundup.config.sections import ScheduleConfig
from groundup.errors import ConfigError

Schedule = Callable[[int, float], float]
"""(steps finished, fraction of the horizon done after the coming step) -> learning rate"""

COOLDOWN = 0.4  # of the horizon, unless given
RISE = 0.3  # of the horizon, unless given; torch.optim.lr_scheduler.OneCycleLR
UNKNOWN = 0.1  # of a squeezed horizon, where a stretch in steps belongs to a horizon in time
ROUNDING = 1e-9  # two parts that make a whole may add up to so much more


@dataclass(frozen=True)
class Span:
    """A stretch at the beginning or end of a run: so many `steps` (fractions of one too), or a `part` of the horizon.

    `total` is the horizon in steps, None where it is a time.
    """

    steps: float | None
    part: float
    total: int | None

    def passed(self, step: int, fraction: float) -> float:
        """How much of a stretch at the beginning is done after the coming step: 1 at its end, and more beyond."""
        if self.steps is None:
            return fraction / self.part if self.part else math.inf
        return (step + 1) / self.steps if self.steps else math.inf

    def share(self, step: int, fraction: float) -> float:
        """The stretch as a part of the horizon; steps of a horizon in time take as long as those so far took."""
        if self.steps is None:
            return self.part
        return self.steps / self.total if self.total else self.steps * fraction / (step + 1)

    def __str__(self) -> str:
        return f"{self.part:g} of the horizon" if self.steps is None else f"{self.steps:g} steps"


def _span(
    steps: int | None, tokens: int | None, part: float | None, default: float, total: int | None, tokens_a_step: int
) -> Span:
    if tokens is not None:
        return Span(tokens / tokens_a_step, 0.0, total)
    if steps is not None:
        return Span(float(steps), 0.0, total)
    return Span(None, default if part is None else part, total)


def cosine(x: float) -> float:
    """Half a cosine from 1 at x = 0 to 0 at x = 1 (arXiv:1608.03983)."""
    return 0.5 * (1.0 + math.cos(math.pi * x))


def linear(x: float) -> float:
    """A straight line from 1 at x = 0 to 0 at x = 1."""
    return 1.0 - x


def constant(x: float) -> float:
    """1 throughout."""
    return 1.0


SHAPES: dict[str, Callable[[float], float]] = {"cosine": cosine, "linear": linear, "constant": constant}


def shaped(config: ScheduleConfig, warmup: Span) -> Schedule:
    """A straight warm-up to 1, then a shape over the rest of the horizon down to the floor.

    A warm-up in steps of a horizon in time overlaps the shape.
    """
    shape = SHAPES[config.name]
    overlaps = warmup.steps is not None and not warmup.total

    def rate(step: int, fraction: float) -> float:
        part = 0.0 if overlaps else warmup.share(step, fraction)
        x = (fraction - part) / (1.0 - part) if part < 1.0 else 0.0
        low = config.min_lr_ratio
        return min(1.0, warmup.passed(step, fraction)) * (low + (1.0 - low) * shape(min(1.0, max(0.0, x))))

    return rate


def wsd(config: ScheduleConfig, warmup: Span, cooldown: Span) -> Schedule:
    """Warm-up, stable, decay (arXiv:2404.06395): 1, and over the cooldown at the end a straight line to the floor."""
    if warmup.share(0, 0.0) + cooldown.share(0, 0.0) > 1.0 + ROUNDING:
        horizon = f"the horizon of {warmup.total:,} steps" if warmup.total else "the horizon"
        raise ConfigError(
            f"schedule: a warm-up of {warmup} and a cooldown of {cooldown} are more than {horizon}; "
            "give smaller ones, such as --schedule.warmup_fraction 0.02 --schedule.cooldown_fraction 0.4"
        )

    def rate(step: int, fraction: float) -> float:
        share = cooldown.share(step, fraction)  # 0 at the first step by the clock
        fall = min(1.0, max(0.0, 1.0 - fraction) / share) if share else 1.0
        return min(1.0, warmup.passed(step, fraction)) * (config.min_lr_ratio + (1.0 - config.min_lr_ratio) * fall)

    return rate


def inverse_sqrt(config: ScheduleConfig, warmup: Span) -> Schedule:
    """A straight warm-up of w steps to 1, then √(w / steps), never under the floor (arXiv:1706.03762, section 5.3).

    Without a warm-up, w is one step.
    """

    def rate(step: int, fraction: float) -> float:
        passed = min(warmup.passed(step, fraction), step + 1.0)
        return passed if passed < 1.0 else max(config.min_lr_ratio, passed**-0.5)

    return rate


def onecycle(config: ScheduleConfig, rise: Span) -> Schedule:
    """Half a cosine up to 1, half a cosine down (arXiv:1708.07120), as torch.optim.lr_scheduler.OneCycleLR has it.

    There, a phase ends at the last of its steps, counted from 0; the first may therefore end before the first step.
    """
    first = 1.0 / config.div_factor
    last = first / config.final_div_factor

    def rate(step: int, fraction: float) -> float:
        part = min(1.0, rise.share(step, fraction))
        if rise.total:
            here, top, end = float(step), part * rise.total - 1.0, rise.total - 1.0
        else:
            here, top, end = fraction, part, 1.0
        if here <= top:
            return _between(first, 1.0, here / top if top else 1.0)
        return _between(1.0, last, min(1.0, (here - top) / (end - top)) if top < end else 1.0)

    return rate


def _between(start: float, end: float, x: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * x) + 1.0)


def build_schedule(config: ScheduleConfig, peak: float, total_steps: int | None, tokens_a_step: int = 1) -> Schedule:
    """Warm-up to `peak`, then `config.name` down to `config.min_lr_ratio · peak` at the end of the horizon.

    `total_steps` is None where the horizon is a time. `tokens_a_step` turns lengths in tokens into steps. ConfigError
    where a warm-up and a cooldown do not both fit in.
    """
    c = config
    default = RISE if c.name == "onecycle" else 0.0
    warmup = _span(c.warmup_steps, c.warmup_tokens, c.warmup_fraction, default, total_steps, tokens_a_step)
    cooldown = _span(c.cooldown_steps, c.cooldown_tokens, c.cooldown_fraction, COOLDOWN, total_steps, tokens_a_step)
    curves: dict[str, Callable[[], Schedule]] = {
        "wsd": lambda: wsd(config, warmup, cooldown),
        "inverse_sqrt": lambda: inverse_sqrt(config, warmup),
        "onecycle": lambda: onecycle(config, warmup),
    }
    rate = curves.get(c.name, lambda: shaped(config, warmup))()
    return lambda step, fraction: peak * rate(step, fraction)


def squeezed(config: ScheduleConfig, total_steps: int | None, tokens_a_step: int) -> ScheduleConfig:
    """The same schedule with its stretches as parts of its horizon, so that it fits into one of any length."""

    def part(steps: float | None, tokens: int | None, fraction: float | None) -> float | None:
        steps = steps if tokens is None else tokens / tokens_a_step
        if not steps:
            return fraction if steps is None else 0.0
        return min(1.0, steps / total_steps) if total_steps else UNKNOWN

    c = config
    gone = dict.fromkeys(("warmup_steps", "warmup_tokens", "cooldown_steps", "cooldown_tokens"))
    parts = {
        "warmup_fraction": part(c.warmup_steps, c.warmup_tokens, c.warmup_fraction),
        "cooldown_fraction": part(c.cooldown_steps, c.cooldown_tokens, c.cooldown_fraction),
    }
    return c.model_copy(update=gone | parts)
