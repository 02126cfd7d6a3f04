"""A tokenizer learnt from the corpus, in a bounded time and memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

from groundup.preprocess.split import ByHash, TailSplit
from groundup.sources.corpus import Corpus
from groundup.sources.text import chunk_text
from groundup.tokenizers.base import Tokenizer, TokenizerTrainer
from groundup.utils.progress import ProgressReporter

# Characters that merges are learnt from, at most: taken evenly from the whole corpus, by the place in its files, or
# from its beginning where its size is not known or only a part of it is wanted. Twenty times as many characters would
# hardly change the frequent words, while the counts of rare ones fill the memory.
LEARN_CHARS = 100_000_000

# Bytes of different words, at most: the learner's library takes about 80 bytes of memory for each (measured). English
# has a few millions of them in so much text; where no spaces are, hardly any two stretches between marks are the same.
LEARN_WORD_BYTES = 8_000_000

CHARS_A_TOKEN = 8  # no tokenizer packs a natural text tighter; so many are enough where the number of tokens is given
PACKED = 4  # times a packed file's size is about the text in it

STRETCH = 1 << 14  # characters handed over at a time; the learner's library holds some hundreds of such stretches

_WORD = re.compile(r"\w+|[^\w\s]+")


def train_tokenizer(
    learner: TokenizerTrainer,
    corpus: Corpus,
    rule: ByHash | TailSplit,
    watch: ProgressReporter,
    max_tokens: int | None = None,
) -> Tokenizer:
    """The tokenizer of the training text, or of all text where the learner needs that.

    Only the beginning of the text is looked at where no more than `max_tokens` of it will be wanted.
    """
    seen = _Seen(corpus, rule, learner.needs_all_text, watch, max_tokens)
    tokenizer = learner.train(seen.stretches())
    if seen.enough:
        watch.say(f"learnt from the first {seen.taken:,} characters")
    elif seen.passed_over:
        watch.say(f"learnt from {seen.taken:,} of {seen.taken + seen.passed_over:,} characters, evenly from all of it")
    return tokenizer


class _Seen:
    """What a learner gets to see, and how much it does not."""

    def __init__(
        self,
        corpus: Corpus,
        rule: ByHash | TailSplit,
        everything: bool,
        watch: ProgressReporter,
        max_tokens: int | None = None,
    ) -> None:
        self._corpus, self._rule, self._everything, self._watch = corpus, rule, everything, watch
        self._limit = LEARN_CHARS if max_tokens is None else min(LEARN_CHARS, CHARS_A_TOKEN * max_tokens)
        self._size = corpus.size if corpus.is_complete else None
        # Where all of the text may be taken, none is kept back for the sake of what comes later.
        spread = self._size and max_tokens is None and PACKED * self._size > min(LEARN_CHARS, LEARN_WORD_BYTES)
        self._spread = self._size if spread else None
        self._words: set[str] = set()
        self._word_bytes = 0
        self.taken = self.passed_over = 0  # characters

    @property
    def enough(self) -> bool:
        """Whether nothing further will be taken: known beforehand only where it is taken from the beginning."""
        return not self._everything and self._spread is None and not self._has_room()

    def stretches(self) -> Iterator[str]:
        for document in self._corpus:
            for split, chunks in self._rule.parts(document):
                if split != "train" and not self._everything:
                    continue
                for chunk in chunks:
                    self._watch(self._corpus.bytes_read if self._size else self.taken)
                    for stretch in chunk_text(chunk, STRETCH):
                        if self.enough:
                            return
                        if self._everything or self._has_room():
                            self._take(stretch)
                            yield stretch
                        else:
                            self.passed_over += len(stretch)

    def _take(self, stretch: str) -> None:
        self.taken += len(stretch)
        if not self._everything:
            new = set(_WORD.findall(stretch)) - self._words
            self._words |= new
            self._word_bytes += sum(len(word.encode()) for word in new)

    def _has_room(self) -> bool:
        """Whether more may be taken up to here, so that the end of the corpus gets its share as well.

        Different words become rarer as a text goes on: their number grows about as its square root.
        """
        share = self._corpus.bytes_read / self._spread if self._spread else 1
        return self.taken <= self._limit * share and self._word_bytes <= LEARN_WORD_BYTES * share**0.5
