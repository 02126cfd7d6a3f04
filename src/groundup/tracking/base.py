"""What a tracker is to the rest of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from groundup.tracking.points import Point


@dataclass(frozen=True)
class RunInfo:
    """Where a run is filed, and what is known of it before the first record."""

    project: str
    name: str  # for people; no slash in it
    id: str  # the same for every part of a resumed run
    folder: Path  # the run's own
    offline: bool  # contact nobody
    facts: Mapping[str, Any]  # `config` and `environment`, as nested mappings


class Tracker(Protocol):
    """One that is open. Its calls come from one thread, and may raise, or hang."""

    def log(self, point: Point) -> None:
        """Show one point; steps may go back."""
        ...

    def close(self) -> None:
        """Write out what is left."""
        ...


@dataclass(frozen=True)
class TrackerType:
    """One that can be opened."""

    name: str  # also of its Python package
    open: Callable[[RunInfo], Tracker]
    remedy: str  # what a person can do when it fails
    abandon: Callable[[], None] = lambda: None  # after a failure: let nothing of it hold up the end of the process


class TrackerError(Exception):
    """A tracker cannot go on; says why in words for a person."""


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str | bool | int | float]:
    """Nested mappings as dotted keys, each value a number or a text; what is None is left out."""
    found: dict[str, str | bool | int | float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = value if isinstance(value, str | bool | int | float) else str(value)
    return found
