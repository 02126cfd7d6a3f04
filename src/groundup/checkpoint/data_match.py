"""Whether a folder of prepared tokens is the one that a run was trained on. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from groundup.data.shards import Manifest


class Origin(NamedTuple):
    """An answer, and what there is to say about it: place, value; remedy."""

    answer: Literal["same", "other", "missing", "unknown"]
    sentence: str = ""


def origin(place: Path, books: Mapping[str, Any]) -> Origin:
    """Compare the prepared folder at `place` with the one in a checkpoint's `books`, which may be empty.

    DataError when there is a folder, and it holds no tokens that can be read.
    """
    if not place.is_dir():
        seen = "" if place.is_absolute() else f" below {Path.cwd()}, the folder that you are in"
        return Origin("missing", f"{place}: there is no such folder{seen}; say where the run's data is with --data DIR")
    fingerprint = Manifest.load(place).fingerprint
    if "data" not in books:
        return Origin("unknown", "no checkpoint of the run tells whether its data has changed since")
    if books["data"] != fingerprint:
        return Origin("other", f"{place}: not the data that this run was trained on; give its folder with --data DIR")
    return Origin("same")
