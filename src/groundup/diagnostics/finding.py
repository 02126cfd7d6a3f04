"""What a check found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from groundup.errors import GroundupError

Status: TypeAlias = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One sentence on one thing; a remedy unless it is ok."""

    about: str  # `machine`, or the folder that was looked at
    name: str
    status: Status
    sentence: str
    remedy: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)  # what was counted or measured, for other programs


def problem(about: str, name: str, error: GroundupError) -> Finding:
    """An error as a finding: its messages end in the remedy."""
    sentence, _, remedy = str(error).rpartition("; ")
    return Finding(about, name, "problem", sentence or remedy, remedy if sentence else "")
