"""The documents that the tokens of a split belong to, found without reading more than a few records."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundup.data.shards import DOCUMENT, Manifest, SplitName, check_files, documents_file
from groundup.errors import DataError

LARGEST_OFFSET = 2**63 - 1  # bytes: no file is larger


class DocumentSpan(NamedTuple):
    """What of one document lies in a stretch of tokens. A document's tokens count from its first, up to `stop`."""

    source: str
    offset: int  # bytes, of the document in its source
    begin: int  # the document's first token, in the split
    length: int  # tokens of the whole document, its end of text included
    start: int
    stop: int


class Documents:
    """Where each document of a split begins, opened once."""

    def __init__(self, records: NDArray[Any], sources: tuple[str, ...], n_tokens: int, name: str = "documents") -> None:
        """`records` are of `DOCUMENT`, in order of their start; `n_tokens` is where the last of them ends.

        `name` is what they are called where they cannot be true.
        """
        self._records, self._sources, self._end, self._name = records, sources, n_tokens, name

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, name: SplitName) -> Documents:
        """The documents of a prepared folder's split. Raises DataError when files are missing or cut short."""
        check_files(folder, manifest, checksums=False)
        split = manifest.splits[name]
        path = documents_file(folder, name)
        records = np.memmap(path, DOCUMENT, mode="r") if split.documents else np.empty(0, DOCUMENT)
        return cls(records, manifest.sources, split.tokens, str(path))

    def __len__(self) -> int:
        return len(self._records)

    def begin(self, i: int) -> int:
        """The first token of document `i`; of the one behind the last, where the split ends."""
        return int(self._records[i]["start"]) if i < len(self._records) else self._end

    def begins(self, start: int, stop: int) -> NDArray[np.int64]:
        """The first tokens of the documents from `start` to before `stop`."""
        begins: NDArray[np.int64] = self._records["start"][start:stop].astype(np.int64)
        return begins

    def sources(self, start: int, stop: int) -> NDArray[np.int64]:
        """Which of the manifest's sources the documents from `start` to before `stop` are from."""
        sources: NDArray[np.int64] = self._records["source"][start:stop].astype(np.int64)
        return sources

    def offsets(self, start: int, stop: int) -> NDArray[np.uint64]:
        """Where in their sources these documents begin, in bytes."""
        offsets: NDArray[np.uint64] = self._records["offset"][start:stop].astype(np.uint64)
        return offsets

    def place(self, i: int) -> tuple[str, int]:
        """The source of document `i`, and its byte offset there. Raises DataError where that cannot be."""
        source, offset = int(self._records[i]["source"]), int(self._records[i]["offset"])
        if source >= len(self._sources) or offset > LARGEST_OFFSET:
            raise self._damaged(i, f"is byte {offset:,} of source {source:,}, and there are {len(self._sources):,}")
        return self._sources[source], offset

    def at(self, start: int, n: int) -> list[DocumentSpan]:
        """What the `n` tokens from `start` on are made of, in order. Raises DataError where that cannot be."""
        first = max(bisect_right(range(len(self)), start, key=self.begin) - 1, 0)
        last = bisect_left(range(len(self)), start + n, lo=first, key=self.begin)
        parts = []
        for i in range(first, last):
            begin, end = self.begin(i), self.begin(i + 1)
            if not begin <= end <= self._end or (i == first and begin > start):
                raise self._damaged(i, f"is tokens {begin:,} to {end:,} of {self._end:,}, which cannot be")
            inside = (max(start, begin) - begin, min(start + n, end) - begin)
            if inside[0] < inside[1]:
                parts.append(DocumentSpan(*self.place(i), begin, end - begin, *inside))
        return parts

    def _damaged(self, i: int, what: str) -> DataError:
        return DataError(
            f"{self._name}: document {i:,} {what}; the file is damaged: see `groundup doctor`, then copy it again, "
            "or prepare again"
        )
