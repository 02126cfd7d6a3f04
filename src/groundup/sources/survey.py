"""Survey of a text: its size and its characters, from which a tokenizer and a model can be chosen."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from groundup.sources.text import Document
from groundup.utils.plural import human_plural

MAX_SURVEY_BYTES = 64_000_000  # read at most; the rest of a long text would change no decision


@dataclass(frozen=True)
class Survey:
    """Size and characters of a text."""

    bytes: int  # of UTF-8 text
    characters: int
    distinct: int  # different characters
    documents: int
    complete: bool  # False: only the beginning was read, and all counts are lower bounds

    @property
    def bytes_per_character(self) -> float:
        """About 1 in Latin script, 2 in Greek or Cyrillic, 3 in Chinese, 4 for emoji."""
        return self.bytes / max(1, self.characters)

    @property
    def size(self) -> str:
        """Bytes, documents and characters, as text."""
        more = "" if self.complete else "more than "
        kinds = f"{self.distinct:,} different characters" if self.distinct != 1 else "all the same character"
        return f"{more}{human_plural(self.bytes, 'byte')} in {human_plural(self.documents, 'document')}, {kinds}"


def survey(documents: Iterable[Document], max_bytes: int = MAX_SURVEY_BYTES) -> Survey:
    """Read `documents` up to `max_bytes`. Raises DataError if they cannot be read."""
    present = np.zeros(sys.maxunicode + 1, dtype=np.bool_)
    n_bytes = characters = n_documents = 0
    for document in documents:
        n_documents += 1
        for chunk in document.chunks():
            codes = np.frombuffer(chunk.encode("utf-32-le", "surrogatepass"), dtype="<u4")
            present[codes] = True
            characters += len(codes)
            n_bytes += len(chunk.encode("utf-8", "surrogatepass"))
            if n_bytes >= max_bytes:
                return Survey(n_bytes, characters, int(present.sum()), n_documents, complete=False)
    return Survey(n_bytes, characters, int(present.sum()), n_documents, complete=True)
