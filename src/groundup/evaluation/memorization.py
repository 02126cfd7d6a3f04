"""Does a model write, or recite? The longest stretch of its samples that stands in the training text word for word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WORD = 8  # bytes
TABLE_BITS = 20
CHUNK = 1 << 20  # words looked at together
EMPTY = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Memorization:
    """The longest verbatim overlap of samples with a text, beside what unseen text of the same lengths has."""

    text: str  # the stretch itself
    length: int  # its bytes
    usual: int  # bytes of the longest overlap of held-out text: common phrases are common

    @property
    def is_memorized(self) -> bool:
        """Whether the samples repeat clearly more than chance would: twice the usual length, and at least 30 bytes."""
        return self.length >= max(30, 2 * self.usual)


def overlap(samples: Sequence[bytes], train: bytes, val: bytes) -> Memorization:
    """Compare `samples` with the training text, and pieces of `val` as long as they with it too."""
    found = longest_overlap(samples, train)
    step = max(1, len(val) // max(1, len(samples)))
    held_out = [val[i * step : i * step + min(step, len(sample))] for i, sample in enumerate(samples)]
    return Memorization(found.decode("utf-8", "replace"), len(found), len(longest_overlap(held_out, train)))


def longest_overlap(samples: Sequence[bytes], text: bytes) -> bytes:
    """The longest stretch of any of the samples that occurs in `text`.

    Every 8 bytes of the text are compared, as one number, with every 8 bytes of the samples. A stretch that both share
    is a run of such places without a gap, so only the longest runs need to be looked at byte by byte.
    """
    places = _matching_places(samples, text)
    best = b""
    for start, length in _runs(places):
        if length + WORD - 1 <= len(best):
            break
        best = max(best, _shared(text[start : start + length + WORD - 1], samples, len(best)), key=len)
    # Shorter than a word: the text is likely to hold most of these, and soon.
    return best or max((_shared(sample, [text], 0) for sample in samples), key=len, default=b"")


def _matching_places(samples: Sequence[bytes], text: bytes) -> npt.NDArray[np.int64]:
    """Where in the text the next 8 bytes are also 8 bytes of the samples, in order."""
    pieces = [_words(sample, shift) for sample in samples for shift in range(WORD)]
    wanted = np.unique(np.concatenate([EMPTY.astype(np.uint64), *pieces]))
    table = np.zeros(1 << TABLE_BITS, dtype=np.bool_)  # a quick no for almost all words
    table[_slots(wanted)] = True
    found = []
    for shift in range(WORD):
        words = _words(text, shift)
        likely = np.concatenate(
            [EMPTY, *(i + np.flatnonzero(table[_slots(words[i : i + CHUNK])]) for i in range(0, len(words), CHUNK))]
        )
        found.append(likely[np.isin(words[likely], wanted)] * WORD + shift)
    return np.sort(np.concatenate(found))


def _words(text: bytes, shift: int) -> npt.NDArray[np.uint64]:
    """Bytes shift … shift + 7, then the next 8 and so on, each as one number."""
    return np.frombuffer(text, dtype="<u8", offset=min(shift, len(text)), count=max(0, len(text) - shift) // WORD)


def _slots(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):  # Fibonacci hashing, modulo 2^64
        return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - TABLE_BITS)


def _runs(places: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """First places and lengths of the runs of consecutive numbers, longest first."""
    if not len(places):
        return []
    begins = np.flatnonzero(np.diff(places, prepend=places[0] - 2) != 1)
    lengths = np.diff(begins, append=len(places))
    order = np.argsort(-lengths, kind="stable")
    return list(zip(places[begins[order]].tolist(), lengths[order].tolist(), strict=True))


def _shared(stretch: bytes, others: Sequence[bytes], least: int) -> bytes:
    """The longest part of `stretch`, longer than `least`, that stands in one of the others; or nothing."""
    best, length, longest = b"", least, max(map(len, others), default=0)
    for start in range(len(stretch)):
        if length >= longest:  # as in text that only repeats itself
            break
        while start + length < len(stretch) and any(stretch[start : start + length + 1] in other for other in others):
            length += 1
            best = stretch[start : start + length]
    return best
