"""What a run says about data that it had to leave out."""

from __future__ import annotations

from pathlib import Path

from groundup.data.documents import Documents
from groundup.data.shards import Manifest
from groundup.data.windows import ShuffledWindows
from groundup.errors import DataError

NAMED = 3  # documents in a message; the log has more
LOGGED = 100  # documents in a record


def documents_of(folder: Path, windows: ShuffledWindows, start: int, stop: int) -> list[str]:
    """`source:offset` of the documents that the windows from place `start` up to `stop` lie in, each once."""
    found: dict[str, None] = {}
    try:
        documents = Documents.open(folder, Manifest.load(folder), "train")
        for first in windows.window_starts(start, stop - start).tolist():
            for part in documents.at(first, windows.block_size):
                found[f"{part.source}:{part.offset}"] = None
                if len(found) == LOGGED:
                    return list(found)
    except DataError:  # moved, while the tokens are still mapped, or damaged: the windows are known by their place
        return []
    return list(found)


def named(documents: list[str]) -> str:
    """The first few, and how many more."""
    if not documents:
        return "the windows that they saw"
    more = f" and {len(documents) - NAMED} more (see log.jsonl)" if len(documents) > NAMED else ""
    return ", ".join(documents[:NAMED]) + more
