"""Documents of a split, found from token positions without reading more than a few records."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundup.data.shards import DOCUMENT, Manifest, SplitName, check_files, documents_file
from groundup.errors import DataError

MAX_OFFSET_BYTES = 2**63 - 1  # no file is larger


class DocumentSpan(NamedTuple):
    """The part of one document in a range of tokens: its tokens `start` to before `stop`, counted from its first."""

    source: str
    offset: int  # bytes, of the document in its source
    begin: int  # the document's first token, in the split
    length: int  # tokens of the complete document, including its end of text
    start: int
    stop: int


class Documents:
    """Positions of the documents of a split."""

    def __init__(self, records: NDArray[Any], sources: tuple[str, ...], n_tokens: int, name: str = "documents") -> None:
        """`records` are of type `DOCUMENT`, in order of their start; the last ends at token `n_tokens`.

        `name` stands for them in error messages.
        """
        self._records, self._sources, self._end, self._name = records, sources, n_tokens, name

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, name: SplitName) -> Documents:
        """The documents of a split in a prepared folder. Raises DataError if files are missing or cut short."""
        check_files(folder, manifest, checksums=False)
        split = manifest.splits[name]
        path = documents_file(folder, name)
        records = np.memmap(path, DOCUMENT, mode="r") if split.documents else np.empty(0, DOCUMENT)
        return cls(records, manifest.sources, split.tokens, str(path))

    def __len__(self) -> int:
        return len(self._records)

    def begin(self, i: int) -> int:
        """The first token of document `i`; the end of the split after the last document."""
        return int(self._records[i]["start"]) if i < len(self._records) else self._end

    def records(self, start: int, stop: int) -> NDArray[Any]:
        """The `DOCUMENT` records of documents `start` to before `stop`."""
        return self._records[start:stop]

    def origin(self, i: int) -> tuple[str, int]:
        """The source of document `i` and its byte offset there. Raises DataError if the record is impossible."""
        source, offset = int(self._records[i]["source"]), int(self._records[i]["offset"])
        if source >= len(self._sources) or offset > MAX_OFFSET_BYTES:
            raise self._damaged(i, f"is byte {offset:,} of source {source:,}, and there are {len(self._sources):,}")
        return self._sources[source], offset

    def spans(self, start: int, n: int) -> list[DocumentSpan]:
        """The parts of documents in the `n` tokens from `start` on, in order. DataError if a record is impossible."""
        first = max(bisect_right(range(len(self)), start, key=self.begin) - 1, 0)
        last = bisect_left(range(len(self)), start + n, lo=first, key=self.begin)
        parts = []
        for i in range(first, last):
            begin, end = self.begin(i), self.begin(i + 1)
            if not begin <= end <= self._end or (i == first and begin > start):
                raise self._damaged(i, f"is tokens {begin:,} to {end:,} of {self._end:,}, which cannot be")
            inside = (max(start, begin) - begin, min(start + n, end) - begin)
            if inside[0] < inside[1]:
                parts.append(DocumentSpan(*self.origin(i), begin, end - begin, *inside))
        return parts

    def _damaged(self, i: int, what: str) -> DataError:
        return DataError(
            f"{self._name}: document {i:,} {what}; the file is damaged: see `groundup doctor`, then copy it again, "
            "or prepare again"
        )
