"""Rules that hold out text for validation."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import TypeAlias

from groundup.data.shards import SplitName, SplitRule
from groundup.sources.corpus import Corpus, Document

MIN_DOCUMENTS_BY_HASH = 100  # with fewer, the fraction that hashes select may be far from the wanted one

SplitText: TypeAlias = tuple[SplitName, Iterator[str]]  # a split and its text, in chunks


@dataclass(frozen=True)
class ByHash:
    """Split by the hash of each document's text, so that adding data never moves a document to the other split."""

    val_fraction: float

    def parts(self, document: Document) -> Iterator[SplitText]:
        """The complete document, in one split."""
        if not self.val_fraction:
            yield "train", document.chunks()
            return
        digest = blake2b(digest_size=8)
        for chunk in document.chunks():
            digest.update(chunk.encode())
        uniform = int.from_bytes(digest.digest(), "big") / 2**64  # in [0, 1)
        yield "val" if uniform < self.val_fraction else "train", document.chunks()

    def describe(self) -> SplitRule:
        """The manifest's entry."""
        return SplitRule(rule="documents by hash", val_fraction=self.val_fraction)


@dataclass(frozen=True)
class TailSplit:
    """Hold out the end of every document, counted in characters, as nanoGPT does with Shakespeare."""

    val_fraction: float

    def parts(self, document: Document) -> Iterator[SplitText]:
        """The beginning of the document for training, the rest for validation."""
        length = sum(map(len, document.chunks()))
        cut = int(length * (1 - self.val_fraction))
        yield "train", _between(document.chunks(), 0, cut)
        yield "val", _between(document.chunks(), cut, length)

    def describe(self) -> SplitRule:
        """The manifest's entry."""
        return SplitRule(rule="last part of each document", val_fraction=self.val_fraction)


def choose_rule(corpus: Corpus, val_fraction: float) -> ByHash | TailSplit:
    """The rule for `corpus`: by hash if it has enough documents."""
    documents = sum(1 for _ in islice(corpus, MIN_DOCUMENTS_BY_HASH))
    return ByHash(val_fraction) if documents == MIN_DOCUMENTS_BY_HASH else TailSplit(val_fraction)


def _between(chunks: Iterator[str], start: int, stop: int) -> Iterator[str]:
    """The characters from `start` to `stop` of a text in chunks."""
    at = 0
    for chunk in chunks:
        if piece := chunk[max(start - at, 0) : max(stop - at, 0)]:
            yield piece
        at += len(chunk)
        if at >= stop:
            return
