"""The small JSON files of a checkpoint, readable without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundup.errors import CheckpointError, NewerFormatError

FORMAT = 1  # of a checkpoint
CONFIG, PROGRESS = "config.json", "progress.json"
MODEL, AVERAGE, TOKENIZER = "model.safetensors", "average.safetensors", "tokenizer"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Readable JSON with a final newline."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError when there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; give the folder of a run or of a whole checkpoint") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); use another checkpoint") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: damaged (no JSON object); use another checkpoint")
    return values


def read_field(path: Path, key: str) -> str | None:
    """A value of a JSON object in a file, as text; None if it is missing or cannot be read."""
    try:
        value = read_json(path).get(key)
    except CheckpointError:
        return None
    return None if value is None else str(value)


def read_config(folder: Path) -> dict[str, Any]:
    """What a checkpoint's config.json says, without its format.

    CheckpointError when it is missing or damaged, NewerFormatError when it is of a newer groundup.
    """
    path = folder / CONFIG
    values = read_json(path)
    found = values.pop("format", None)
    if isinstance(found, int) and found > FORMAT:
        raise NewerFormatError(
            f"{path}: of format {found}, which a newer groundup wrote (this one reads format {FORMAT}); update groundup"
        )
    if found != FORMAT:
        raise CheckpointError(f"{path}: damaged (its format is {found!r}, not {FORMAT}); use another checkpoint")
    return values
