"""One text of a corpus, wherever it comes from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One text. `chunks()` reads it from its beginning, every time it is called."""

    source: str  # the file it stands in, as a short name
    offset: int  # bytes from the beginning of that source to the document
    chunks: Callable[[], Iterator[str]]
