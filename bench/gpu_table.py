"""Results of `bench.gpu` as rows of one table. Imports the standard library only: torch may be broken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

HEADINGS = ("subject", "ours", "best peer", "ratio", "of ceiling", "goal", "met")
MAX_NAME_WIDTH = 66  # of the first column


@dataclass(frozen=True)
class Row:
    """One measured value."""

    name: str
    ours: float
    unit: str
    peer: float | None = None
    peer_name: str = ""
    ratio: float | None = None  # how many times better than the peer; above 1 is better, whatever the unit
    share: float | None = None  # of the ceiling
    goal: str = ""
    met: bool | None = None  # None: no goal, or nothing to compare

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


def table(subjects: Mapping[str, Mapping[str, Any]]) -> str:
    """All rows of all subjects as text; a subject that failed has a row with its status."""
    lines: list[Sequence[str]] = [HEADINGS]
    for name, found in subjects.items():
        rows = found.get("rows", [])
        lines += [_cells(name, row) for row in rows]
        if found["status"] != "done":
            lines.append((f"{name}: {found['status']}"[:MAX_NAME_WIDTH], *[""] * (len(HEADINGS) - 1)))
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    texts = ["  ".join(_aligned(cell, width, i) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
             for line in lines]  # fmt: skip
    texts.insert(1, "-" * len(texts[0]))
    return "\n".join(text.rstrip() for text in texts)


def _cells(subject: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    peer = "" if row["peer"] is None else f"{number(row['peer'])} {row['peer_name']}"
    ratio = "" if row["ratio"] is None else f"x {row['ratio']:.2f}"
    share = "" if row["share"] is None else f"{row['share']:.0%}"
    met = {None: "", True: "met", False: "NOT MET"}[row["met"]]
    ours = f"{number(row['ours'])} {row['unit']}".strip()
    return (f"{subject}: {row['name']}"[:MAX_NAME_WIDTH], ours, peer, ratio, share, row["goal"], met)


def number(x: float | None) -> str:
    """Four significant digits, or all digits of a large number."""
    if x is None:
        return "-"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column in (1, 3, 4) else cell.ljust(width)
