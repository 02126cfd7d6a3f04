"""Result of one check."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from groundup.errors import GroundupError

Status: TypeAlias = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One sentence about one thing; with a remedy unless it is ok."""

    about: str  # `machine`, `job` or the folder that was checked
    name: str
    status: Status
    sentence: str
    remedy: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)  # what was counted or measured, for other programs


def problem(about: str, name: str, error: GroundupError | str, status: Status = "problem") -> Finding:
    """A finding from an error message, which ends in the remedy after its last semicolon."""
    sentence, _, remedy = str(error).rpartition("; ")
    return Finding(about, name, status, sentence or remedy, remedy if sentence else "")
