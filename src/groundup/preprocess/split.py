"""Rules that hold out text for validation."""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import chain, islice

from groundup.data.shards import SplitName, SplitRule
from groundup.sources.corpus import Corpus, Document

MIN_DOCUMENTS_BY_HASH = 100  # with fewer, the fraction that hashes select may be far from the wanted one
MAX_KEPT_CHUNKS = 2  # of a document, so that it is read once; a short file has two


def choose_rule(corpus: Corpus, val_fraction: float) -> SplitRule:
    """The rule for `corpus`: by hash if it has enough documents."""
    by_hash = sum(1 for _ in islice(corpus, MIN_DOCUMENTS_BY_HASH)) == MIN_DOCUMENTS_BY_HASH
    return SplitRule(rule="documents by hash" if by_hash else "last part of each document", val_fraction=val_fraction)


def split_document(document: Document, rule: SplitRule) -> Iterator[tuple[SplitName, Iterator[str]]]:
    """Each split that gets text of the document, with that text in chunks.

    By hash, it is the complete document in one split; as its text decides, adding data never moves a document to the
    other split. Else the end of every document, counted in characters, is held out, as nanoGPT does with Shakespeare.
    """
    if rule.rule == "last part of each document":
        length = sum(map(len, document.chunks()))
        cut = int(length * (1 - rule.val_fraction))
        yield "train", _between(document.chunks(), 0, cut)
        yield "val", _between(document.chunks(), cut, length)
    elif not rule.val_fraction:
        yield "train", document.chunks()
    else:
        chunks, digest = document.chunks(), blake2b(digest_size=8)
        first = list(islice(chunks, MAX_KEPT_CHUNKS + 1))
        for chunk in chain(first, chunks):
            digest.update(chunk.encode())
        uniform = int.from_bytes(digest.digest(), "big") / 2**64  # in [0, 1)
        is_short = len(first) <= MAX_KEPT_CHUNKS
        yield "val" if uniform < rule.val_fraction else "train", iter(first) if is_short else document.chunks()


def _between(chunks: Iterator[str], start: int, stop: int) -> Iterator[str]:
    """The characters from `start` to `stop` of a text in chunks."""
    at = 0
    for chunk in chunks:
        if piece := chunk[max(start - at, 0) : max(stop - at, 0)]:
            yield piece
        at += len(chunk)
        if at >= stop:
            return
