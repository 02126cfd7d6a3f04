"""Memorization: the longest stretch of a model's samples that occurs verbatim in the training text."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

WORD_BYTES = 8
TABLE_BITS = 20
CHUNK_WORDS = 1 << 20  # compared at a time
MIN_MEMORIZED_BYTES = 30  # shorter repetitions are common phrases
NO_INDICES = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Memorization:
    """The longest verbatim overlap of samples with a text, compared with that of held-out text of the same length."""

    text: str  # the overlap itself
    length: int  # its bytes
    usual: int  # bytes of the longest overlap of held-out text: common phrases are common

    @property
    def is_memorized(self) -> bool:
        """Whether the overlap is clearly longer than chance: twice the usual length, and at least 30 bytes."""
        return self.length >= max(MIN_MEMORIZED_BYTES, 2 * self.usual)

    def as_json(self) -> dict[str, str | int | bool]:
        """Its values for `--json`."""
        return asdict(self) | {"recites": self.is_memorized}

    def describe(self) -> str:
        """Whether the samples are copied, as a sentence."""
        if self.is_memorized:
            return f"It copies: {self.length} bytes in a row of its samples stand in the training text: {self.text!r}."
        return (
            f"It does not copy: the longest passage that its samples share with the training text is {self.length} "
            f"bytes long; that of a text it has never read, {self.usual}."
        )


def overlap(samples: Sequence[bytes], train: bytes, val: bytes) -> Memorization:
    """Compare `samples`, of which there is one or more, with the training text; and pieces of `val` as long."""
    found = longest_overlap(samples, train)
    step = len(val) // len(samples)
    held_out = [val[i * step : i * step + min(step, len(sample))] for i, sample in enumerate(samples)]
    return Memorization(found.decode("utf-8", "replace"), len(found), len(longest_overlap(held_out, train)))


def longest_overlap(samples: Sequence[bytes], text: bytes) -> bytes:
    """The longest stretch of any of the samples that occurs in `text`.

    Every 8 bytes of the text are compared, as one number, with every 8 bytes of the samples. A shared stretch is a run
    of consecutive matches, so only the longest runs need to be compared byte by byte.
    """
    best = b""
    for start, length in _runs(_matches(samples, text)):
        if length + WORD_BYTES - 1 <= len(best):
            break
        best = max(best, _shared(text[start : start + length + WORD_BYTES - 1], samples, len(best)), key=len)
    # Shorter than a word: the text probably holds most of these, near its beginning.
    return best or max((_shared(sample, [text], 0) for sample in samples), key=len, default=b"")


def _matches(samples: Sequence[bytes], text: bytes) -> npt.NDArray[np.int64]:
    """Sorted offsets in the text at which the next 8 bytes also occur in the samples."""
    words = [_words(sample, shift) for sample in samples for shift in range(WORD_BYTES)]
    wanted = np.unique(np.concatenate([NO_INDICES.astype(np.uint64), *words]))
    table = np.zeros(1 << TABLE_BITS, dtype=np.bool_)  # rejects almost all words at once
    table[_slots(wanted)] = True
    found = []
    for shift in range(WORD_BYTES):
        here = _words(text, shift)
        chunks = range(0, len(here), CHUNK_WORDS)
        candidates = [i + np.flatnonzero(table[_slots(here[i : i + CHUNK_WORDS])]) for i in chunks]
        likely = np.concatenate([NO_INDICES, *candidates])
        found.append(likely[np.isin(here[likely], wanted)] * WORD_BYTES + shift)
    return np.sort(np.concatenate(found))


def _words(text: bytes, shift: int) -> npt.NDArray[np.uint64]:
    """Bytes shift … shift + 7, then the next 8 and so on, each as one number."""
    count = max(0, len(text) - shift) // WORD_BYTES
    return np.frombuffer(text, dtype="<u8", offset=min(shift, len(text)), count=count)


def _slots(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):  # Fibonacci hashing, modulo 2^64
        return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - TABLE_BITS)


def _runs(offsets: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Starts and lengths of the runs of consecutive numbers, longest first."""
    if not len(offsets):
        return []
    begins = np.flatnonzero(np.diff(offsets, prepend=offsets[0] - 2) != 1)
    lengths = np.diff(begins, append=len(offsets))
    order = np.argsort(-lengths, kind="stable")
    return list(zip(offsets[begins[order]].tolist(), lengths[order].tolist(), strict=True))


def _shared(stretch: bytes, others: Sequence[bytes], least: int) -> bytes:
    """The longest part of `stretch`, longer than `least`, that occurs in one of the others; or nothing."""
    best, length, longest = b"", least, max(map(len, others), default=0)
    for start in range(len(stretch)):
        if length >= longest:  # as in text that only repeats itself
            break
        while start + length < len(stretch) and any(stretch[start : start + length + 1] in other for other in others):
            length += 1
            best = stretch[start : start + length]
    return best
