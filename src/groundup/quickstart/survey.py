"""A look at a text before anything is decided about it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from groundup.sources.text import Document

ENOUGH = 64_000_000  # bytes; what more would tell, the size of the files tells as well


@dataclass(frozen=True)
class Survey:
    """What there is to learn from."""

    bytes: int  # of UTF-8 text
    characters: int
    distinct: int  # different characters
    documents: int
    whole: bool  # False: only the beginning was looked at, and there is more of everything

    @property
    def bytes_a_character(self) -> float:
        """About 1 in Latin script, 2 in Greek or Cyrillic, 3 in Chinese, 4 for emoji."""
        return self.bytes / max(1, self.characters)

    @property
    def size(self) -> str:
        """Bytes, documents and characters in words."""
        more = "" if self.whole else "more than "
        documents = f"in {self.documents:,} documents" if self.documents != 1 else "in 1 document"
        kinds = f"{self.distinct:,} different characters" if self.distinct != 1 else "all the same character"
        return f"{more}{self.bytes:,} bytes {documents}, {kinds}"


def survey(documents: Iterable[Document], enough: int = ENOUGH) -> Survey:
    """Read `documents` until `enough` bytes are seen. Raises DataError where they cannot be read."""
    seen = np.zeros(sys.maxunicode + 1, dtype=np.bool_)
    n_bytes = characters = n_documents = 0
    for document in documents:
        n_documents += 1
        for chunk in document.chunks():
            codes = np.frombuffer(chunk.encode("utf-32-le", "surrogatepass"), dtype="<u4")
            seen[codes] = True
            characters += len(codes)
            n_bytes += len(chunk.encode("utf-8", "surrogatepass"))
            if n_bytes >= enough:
                return Survey(n_bytes, characters, int(seen.sum()), n_documents, whole=False)
    return Survey(n_bytes, characters, int(seen.sum()), n_documents, whole=True)
