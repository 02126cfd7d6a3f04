"""A run's losses between its evaluations, along tokens, steps or seconds.

Evaluations lie where each run put them, so what lies between is by straight lines, and marked as such. Nothing is ever
extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from groundup.checkpoint.log import Evaluation

Axis = Literal["tokens", "step", "seconds"]  # attributes of an Evaluation
AXES: tuple[Axis, ...] = ("tokens", "step", "seconds")
Measure = Literal["val_loss", "bits_per_byte"]  # likewise


@dataclass(frozen=True)
class Reading:
    """A value read off a run's curve."""

    value: float
    interpolated: bool  # between two evaluations
    first: bool = False  # of a place: that of the first evaluation, so that it may have been earlier


class Curve:
    """A run's losses as a function of tokens, steps or seconds: straight lines between evaluations."""

    def __init__(self, points: Sequence[Evaluation], measure: Measure) -> None:
        self.points, self.losses = points, [float(getattr(point, measure)) for point in points]

    def places(self, axis: Axis) -> list[float]:
        """Where the evaluations lie."""
        return [float(getattr(point, axis)) for point in self.points]

    def at(self, axis: Axis, place: float) -> Reading:
        """The loss at a place, which must lie between the first evaluation and the last."""
        places = self.places(axis)
        assert places[0] <= place <= places[-1], "nothing is extrapolated"
        return Reading(float(np.interp(place, places, self.losses)), place not in places)

    def lr(self, axis: Axis, place: float) -> float | None:
        """The learning rate at a place; None where the log does not tell."""
        known = [(float(getattr(point, axis)), point.lr) for point in self.points if point.lr is not None]
        return float(np.interp(place, [x for x, _ in known], [lr for _, lr in known])) if known else None

    def place(self, axis: Axis, loss: float) -> Reading:
        """Where the loss was reached first; it must have been."""
        places = self.places(axis)
        i = next(i for i, found in enumerate(self.losses) if found <= loss)
        if i == 0:
            return Reading(places[0], interpolated=False, first=self.losses[0] < loss)
        above, below = self.losses[i - 1], self.losses[i]
        part = (above - loss) / (above - below)
        return Reading(places[i - 1] + part * (places[i] - places[i - 1]), interpolated=below < loss)
