"""Drafts of the next tokens, which a model checks several at a time: speculative decoding with n-grams.

A draft never changes a text (but for the rounding of logits where a model's sums depend on the number of tokens in a
step, as PyTorch's may). The engine chooses every token by the model's logits, as it does without drafts, and keeps
a drafted token only where it is the one chosen. What a draft changes is time: where reading the weights takes most of
a step, a step over five tokens takes hardly longer than over one, and each token guessed right saves a step.

Guesses come from n-grams: what followed the last tokens elsewhere in the prompt and the text so far (prompt lookup, as
in LLMA, arXiv:2304.04487), and what most often followed them in the training text (as in REST, arXiv:2311.08252).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

LENGTHS = (2, 3, 4, 6)  # tokens of the n-grams that are looked up; the longest one known decides
MAX_DRAFT_TOKENS = 16
MAX_TABLE_TOKENS = 2_000_000  # of the training text, from its beginning
MAX_TABLE_BITS = 22  # 2^22 n-grams of 8 bytes: 32 MiB
HASH_FACTOR = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio
MASK = 2**64 - 1
REPEATED_CHANCE = 0.5  # of a guess from the text so far to be right, before any was checked
MAX_CHANCE = 0.99
PRIOR_WEIGHT = 4.0  # checked guesses that the first estimate is worth
DECAY = 0.98  # of earlier checks at each new one: the last 50 decide


class Drafter(Protocol):
    """Guesses at the next tokens of one text."""

    def add(self, token: int) -> None:
        """Take note of the next token of the text."""

    def propose(self, most: int, least_chance: float) -> list[int]:
        """Up to `most` next tokens, each of which will be right with a probability of at least `least_chance`."""


NewDrafter = Callable[[Sequence[int]], Drafter]
"""A drafter for the text that begins with these ids."""


class NoDrafts:
    """No-op drafter."""

    def __init__(self, ids: Sequence[int] = ()) -> None: ...

    def add(self, token: int) -> None:
        """See `Drafter`."""

    def propose(self, most: int, least_chance: float) -> list[int]:
        """See `Drafter`."""
        return []


class NGramTable:
    """The most frequent next token after each n-gram of a text, and how sure that is.

    One entry of 64 bits per n-gram: 16 bits of its hash, 16 of the chance, 32 of the token. Where two n-grams have the
    same place, the shorter one is kept, or the more frequent one: a missing or a wrong entry costs time, nothing else.
    """

    def __init__(self, ids: npt.NDArray[np.integer]) -> None:
        """Of at most `MAX_TABLE_TOKENS` ids, of less than 32 bits. About 0.3 s and 200 MB per million."""
        tokens = ids[:MAX_TABLE_TOKENS].astype(np.uint64)
        self._shift = 64 - min(max(10, (2 * len(tokens)).bit_length()), MAX_TABLE_BITS)
        entries = np.zeros(1 << (64 - self._shift), np.uint64)
        keys = np.zeros(len(tokens), np.uint64)  # of the n-gram that ends in each token
        for length in range(1, min(LENGTHS[-1], len(tokens) - 1) + 1):
            keys[length - 1 :] = (
                keys[length - 1 :] * np.uint64(HASH_FACTOR) + tokens[: len(tokens) - length + 1] + np.uint64(1)
            )
            if length in LENGTHS:
                self._insert(entries, _mixed(keys[length - 1 : -1]), tokens[length:])
        self._entries = entries.data

    def _insert(
        self, entries: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64], after: npt.NDArray[np.uint64]
    ) -> None:
        """Add n-grams of one length, by their keys, where the table is still empty; `after`: the token after each."""
        bits = np.uint64(max(1, int(after.max(initial=0)).bit_length()))
        pairs = (keys >> bits << bits) | after  # a key loses its last bits to the token
        pairs.sort()
        first = np.flatnonzero(np.diff(pairs, prepend=~pairs[:1]))  # of equal pairs
        counts = np.diff(first, append=len(pairs)).astype(np.uint64)
        pairs = pairs[first]
        group = np.flatnonzero(np.diff(pairs >> bits, prepend=~pairs[:1]))  # first pair of each n-gram
        total = np.add.reduceat(counts, group)
        best = np.maximum.reduceat(counts << np.uint64(32) | np.arange(len(pairs), dtype=np.uint64), group)
        token = pairs[best & np.uint64(2**32 - 1)] & (np.uint64(1) << bits) - np.uint64(1)
        # Half an occurrence less: what was seen once is as often wrong as right.
        chance = ((best >> np.uint64(32)) - 0.5) / total
        keys = pairs[group] >> bits << bits
        entry = (
            (keys >> np.uint64(32) << np.uint64(48)) | ((chance * 0xFFFF).astype(np.uint64) << np.uint64(32)) | token
        )
        place = keys >> np.uint64(self._shift)
        order = np.flatnonzero(entries[place] == 0)
        order = order[np.argsort(total[order], kind="stable")]  # of several in one place, the last one stays
        entries[place[order]] = entry[order]

    def look_up(self, key: int) -> tuple[int, float] | None:
        """Token and its chance after the n-gram of a key of `suffix_keys`."""
        entry = self._entries[key >> self._shift]
        if not entry or entry >> 48 != key >> 32 & 0xFFFF:
            return None
        return entry & 0xFFFFFFFF, (entry >> 32 & 0xFFFF) / 0xFFFF


def _mixed(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return (keys ^ keys >> np.uint64(29)) * np.uint64(HASH_FACTOR)


def suffix_keys(ids: Sequence[int]) -> list[int]:
    """Hashes of 64 bits of the last tokens, one for each of `LENGTHS` for which there are enough."""
    keys, key = [], 0
    for token in ids[: -LENGTHS[-1] - 1 : -1]:
        key = (key * HASH_FACTOR + token + 1) & MASK
        keys.append(key)
    found = [keys[n - 1] for n in LENGTHS if n <= len(keys)]
    return [(key ^ key >> 29) * HASH_FACTOR & MASK for key in found]


class _Guess(NamedTuple):
    token: int
    chance: float  # as the source says
    record: "_Record"


class _Record:
    """How often the guesses of one source and length were right, as against the chances that it gave them."""

    def __init__(self) -> None:
        self._right = self._expected = 0.0

    def correct(self, chance: float) -> float:
        """The chance, as far as experience confirms it."""
        return min(MAX_CHANCE, chance * (self._right + PRIOR_WEIGHT) / (self._expected + PRIOR_WEIGHT))

    def add(self, chance: float, *, right: bool) -> None:
        """Take note of a guess that was checked."""
        self._right = DECAY * self._right + right
        self._expected = DECAY * self._expected + chance


class NGramDrafter:
    """Drafter from the n-grams of the text so far and, with a table, from those of the training text.

    It counts how often its guesses are right, and proposes fewer where they seldom are. Nothing depends on wall time.
    """

    def __init__(self, ids: Sequence[int] = (), table: NGramTable | None = None) -> None:
        self._table = table
        self._last: list[int] = []  # tokens, as many as are looked up
        self._keys: list[int] = []  # of these
        self._seen: dict[int, int] = {}  # key of an n-gram of the text -> the token after its last occurrence
        self._records = [(_Record(), _Record()) for _ in LENGTHS]  # of the text so far, and of the table
        self._unchecked: list[_Guess] = []  # guesses at the next tokens, also the first one that was not proposed
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """See `Drafter`."""
        if self._unchecked:
            guess = self._unchecked.pop(0)
            guess.record.add(guess.chance, right=guess.token == token)
            if guess.token != token:
                self._unchecked.clear()
        for key in self._keys:
            self._seen[key] = token
        self._last = [*self._last[1 - LENGTHS[-1] :], token]
        self._keys = suffix_keys(self._last)

    def propose(self, most: int, least_chance: float) -> list[int]:
        """See `Drafter`."""
        last, keys, chance = self._last, self._keys, 1.0
        self._unchecked, proposed = [], 0
        while guess := self._guess(keys):
            self._unchecked.append(guess)
            chance *= guess.record.correct(guess.chance)
            if chance < least_chance or proposed == min(most, MAX_DRAFT_TOKENS):
                break
            proposed += 1
            last = [*last[1 - LENGTHS[-1] :], guess.token]
            keys = suffix_keys(last)
        return [guess.token for guess in self._unchecked[:proposed]]

    def _guess(self, keys: list[int]) -> _Guess | None:
        """The better guess after the longest n-gram that is known."""
        for i in range(len(keys) - 1, -1, -1):
            text, table = self._records[i]
            token = self._seen.get(keys[i])
            entry = self._table.look_up(keys[i]) if self._table else None
            if entry and (token is None or text.correct(REPEATED_CHANCE) < table.correct(entry[1])):
                return _Guess(*entry, table)
            if token is not None:
                return _Guess(token, REPEATED_CHANCE, text)
        return None
