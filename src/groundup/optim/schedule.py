"""Learning rate as a pure function of where a run stands.

A schedule sees the step and the fraction of the horizon that will be done when the step is. That makes one formula
serve horizons in steps, tokens, epochs and wall-clock time, and a resumed run needs no state to go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from groundup.config import ScheduleConfig

Schedule = Callable[[int, float], float]
"""(steps finished, fraction of the horizon done after the coming step) -> learning rate"""


def cosine(x: float) -> float:
    """Half a cosine from 1 at x = 0 to 0 at x = 1 (arXiv:1608.03983)."""
    return 0.5 * (1.0 + math.cos(math.pi * x))


def constant(x: float) -> float:
    """1 throughout."""
    return 1.0


def wsd(x: float, cooldown: float) -> float:
    """1, and over the last `cooldown` a straight line to 0: warm-up, stable, decay (arXiv:2404.06395)."""
    return min(1.0, (1.0 - x) / cooldown)


def shape_of(config: ScheduleConfig) -> Callable[[float], float]:
    """The curve that `config.name` stands for, over the part of the horizon after the warm-up."""
    shapes: dict[str, Callable[[float], float]] = {
        "cosine": cosine,
        "constant": constant,
        "wsd": partial(wsd, cooldown=config.cooldown_fraction),
    }
    return shapes[config.name]


def build_schedule(config: ScheduleConfig, peak: float, total_steps: int | None) -> Schedule:
    """Linear warm-up to `peak`, then `config.name` down to `config.floor · peak` at the end of the horizon.

    Where the horizon is a time, `total_steps` is None, and a warm-up in steps overlaps the decay.
    """
    shape = shape_of(config)
    if config.warmup_steps is not None:
        steps = config.warmup_steps
        part = min(1.0, steps / total_steps) if total_steps else 0.0
    else:
        steps, part = 0, config.warmup_fraction or 0.0

    def learning_rate(step: int, fraction: float) -> float:
        warm = min(1.0, (step + 1) / steps) if steps else min(1.0, fraction / part) if part else 1.0
        x = (fraction - part) / (1.0 - part) if part < 1.0 else 0.0
        decay = config.floor + (1.0 - config.floor) * shape(min(1.0, max(0.0, x)))
        return peak * warm * decay

    return learning_rate
