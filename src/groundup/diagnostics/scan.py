"""One pass over a split's tokens, whatever its size: checksums, ids, and a digest of each document."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundup.data.documents import LARGEST_OFFSET, Documents
from groundup.data.shards import Manifest, SplitName
from groundup.utils.progress import ProgressReporter

CHUNK = 8 << 20  # bytes read at a time
DIGEST = 8  # bytes; among ten million documents, two different ones share one with a chance of 3 in a million


@dataclass
class Scan:
    """What a split holds. Memory: 16 bytes a document, and one chunk."""

    digests: NDArray[np.uint64]  # of each document's ids
    lengths: NDArray[np.int64]  # tokens of each document, its end included
    damaged: list[str] = field(default_factory=list)  # files whose checksum is not the manifest's
    outside: int = 0  # ids that the tokenizer does not have
    first_outside: tuple[int, int] | None = None  # the first of them, and where it stands in the split


def scan(
    folder: Path, manifest: Manifest, name: SplitName, documents: Documents, watch: ProgressReporter, done: int
) -> Scan:
    """Read a split once, its files known to be as long as they should; `done` bytes were read before."""
    digester, at, n_vocab = _Digester(documents), 0, manifest.tokenizer.n_vocab
    found = Scan(digester.digests, digester.lengths)
    dtype = np.dtype(manifest.dtype).newbyteorder("<")
    for shard in manifest.splits[name].shards:
        checksum = sha256()
        with (folder / shard.file).open("rb") as file:
            while block := file.read(CHUNK):
                checksum.update(block)
                ids = np.frombuffer(block, dtype)
                if int(ids.max()) >= n_vocab:
                    places = np.flatnonzero(ids >= n_vocab)
                    found.first_outside = found.first_outside or (int(ids[places[0]]), at + int(places[0]))
                    found.outside += len(places)
                digester.feed(block, at, len(ids))
                at += len(ids)
                watch(done := done + len(block))
        if checksum.hexdigest() != shard.sha256:
            found.damaged.append(shard.file)
    digester.end()
    return found


class _Digester:
    """Hashes documents from blocks of tokens that begin and end anywhere."""

    def __init__(self, documents: Documents) -> None:
        self.digests = np.empty(len(documents), np.uint64)
        self.lengths = np.zeros(len(documents), np.int64)
        self._documents, self._now = documents, -1  # which document is being read
        self._hash = blake2b(digest_size=DIGEST)

    def feed(self, block: bytes, at: int, n: int) -> None:
        """The `n` tokens from `at` on."""
        width, display = len(block) // n, memoryview(block)
        behind = bisect_left(range(len(self._documents)), at + n, lo=self._now + 1, key=self._documents.begin)
        cuts = [*(self._documents.begins(self._now + 1, behind) - at).tolist(), n]
        self._take(display[: cuts[0] * width], width)
        if starts := cuts[:-1]:  # all but the last of these documents end in this block too
            self.end()
            whole = [blake2b(display[i * width : j * width], digest_size=DIGEST).digest() for i, j in pairwise(starts)]
            first, self._now = self._now + 1, self._now + len(starts)
            self.digests[first : self._now] = np.frombuffer(b"".join(whole), "<u8")
            self.lengths[first : self._now] = np.diff(starts)
            self._take(display[starts[-1] * width :], width)

    def _take(self, piece: memoryview, width: int) -> None:
        if self._now >= 0:  # else it belongs to no document
            self._hash.update(piece)
            self.lengths[self._now] += len(piece) // width

    def end(self) -> None:
        """The document being read is over."""
        if self._now >= 0:
            self.digests[self._now] = int.from_bytes(self._hash.digest(), "little")
            self._hash = blake2b(digest_size=DIGEST)


def index_fault(documents: Documents, n_tokens: int, n_sources: int) -> str | None:
    """What is wrong with the places of documents, in words; None where nothing is. In constant memory."""
    before, step = 0, 1 << 20
    for i in range(0, len(documents), step):
        begins, sources = documents.begins(i, i + step), documents.sources(i, i + step)
        if i == 0 and begins[0] != 0:
            return "the first does not begin with the first token"
        if int(begins[0]) < before or (np.diff(begins) < 0).any():
            return "they are not in order"
        if int(sources.max()) >= n_sources:
            return "one is of a source that the manifest does not have"
        if int(documents.offsets(i, i + step).max()) > LARGEST_OFFSET:
            return "one begins farther into its source than any file is long"
        before = int(begins[-1])
    return "one begins behind the last token" if before > max(0, n_tokens - 1) else None
