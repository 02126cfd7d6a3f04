"""Which text is held out for validation."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import TypeAlias

from groundup.data.shards import SplitName, SplitRule
from groundup.sources.corpus import Corpus, Document

ENOUGH_DOCUMENTS = 100  # from here on whole documents are held out; with fewer, a draw could miss the fraction widely

Part: TypeAlias = tuple[SplitName, Iterator[str]]  # a split, and the text that goes there, in chunks


@dataclass(frozen=True)
class ByHash:
    """A document's own text decides where it goes, so that adding data never moves one across the split."""

    val_fraction: float

    def parts(self, document: Document) -> Iterator[Part]:
        """The document whole, on one side."""
        if not self.val_fraction:
            yield "train", document.chunks()
            return
        digest = blake2b(digest_size=8)
        for chunk in document.chunks():
            digest.update(chunk.encode())
        drawn = int.from_bytes(digest.digest(), "big") / 2**64  # as good as uniform in [0, 1)
        yield "val" if drawn < self.val_fraction else "train", document.chunks()

    def describe(self) -> SplitRule:
        """The manifest's entry."""
        return SplitRule(rule="documents by hash", val_fraction=self.val_fraction)


@dataclass(frozen=True)
class TailSplit:
    """The end of every document is held out, counted in characters, as nanoGPT does with Shakespeare."""

    val_fraction: float

    def parts(self, document: Document) -> Iterator[Part]:
        """The document's beginning for training, the rest for validation."""
        length = sum(map(len, document.chunks()))
        cut = int(length * (1 - self.val_fraction))
        yield "train", _between(document.chunks(), 0, cut)
        yield "val", _between(document.chunks(), cut, length)

    def describe(self) -> SplitRule:
        """The manifest's entry."""
        return SplitRule(rule="last part of each document", val_fraction=self.val_fraction)


def choose_rule(corpus: Corpus, val_fraction: float) -> ByHash | TailSplit:
    """The rule for a corpus of this many documents."""
    documents = sum(1 for _ in islice(corpus, ENOUGH_DOCUMENTS))
    return ByHash(val_fraction) if documents == ENOUGH_DOCUMENTS else TailSplit(val_fraction)


def _between(chunks: Iterator[str], start: int, stop: int) -> Iterator[str]:
    """The characters from `start` to `stop` of a text in chunks."""
    at = 0
    for chunk in chunks:
        if piece := chunk[max(start - at, 0) : max(stop - at, 0)]:
            yield piece
        at += len(chunk)
        if at >= stop:
            return
