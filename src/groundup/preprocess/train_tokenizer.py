"""Training of a tokenizer on the corpus, in bounded time and memory."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from groundup.data.shards import SplitRule
from groundup.preprocess.split import split_document
from groundup.sources.corpus import Corpus
from groundup.sources.text import chunk_text
from groundup.tokenizers.base import Tokenizer, TokenizerTrainer
from groundup.utils.progress import ProgressReporter

# Characters to train on, at most: taken evenly from the corpus, by position in its files, or from its beginning where
# its size is unknown or only a part of it is wanted. Twenty times as many would hardly change the frequent words, while
# the counts of rare ones fill the memory.
MAX_TRAIN_CHARS = 100_000_000

# Bytes of distinct words, at most: the library takes about 80 bytes of memory for each (measured). English has a few
# millions of them in this much text; without spaces, hardly any two runs between punctuation marks are the same.
MAX_WORD_BYTES = 8_000_000

MAX_CHARS_PER_TOKEN = 8  # of natural text, with any tokenizer: enough text where the number of tokens is limited
COMPRESSION_RATIO = 4  # text bytes per byte of a compressed file, about

CHUNK_CHARS = 1 << 14  # passed to the library at a time; it holds some hundreds of such chunks

_WORD = re.compile(r"\w+|[^\w\s]+")


def train_tokenizer(
    trainer: TokenizerTrainer,
    corpus: Corpus,
    rule: SplitRule,
    progress: ProgressReporter,
    max_tokens: int | None = None,
) -> Tokenizer:
    """Train a tokenizer on the training text, or on all text if the trainer needs that.

    If at most `max_tokens` tokens will be written, only the beginning of the text is used.
    """
    text = _TrainingText(corpus, rule, trainer.needs_all_text, progress, max_tokens)
    tokenizer = trainer.train(text.chunks())
    if text.is_full:
        progress.message(f"tokenizer trained on the first {text.used:,} characters")
    elif text.skipped:
        total = text.used + text.skipped
        progress.message(f"tokenizer trained on {text.used:,} of {total:,} characters, taken evenly from the text")
    return tokenizer


@dataclass
class _TrainingText:
    """The part of the corpus that a tokenizer is trained on."""

    corpus: Corpus
    rule: SplitRule
    use_all: bool
    progress: ProgressReporter
    max_tokens: int | None = None
    used: int = 0  # characters
    skipped: int = 0

    def __post_init__(self) -> None:
        wanted = math.inf if self.max_tokens is None else MAX_CHARS_PER_TOKEN * self.max_tokens
        self._limit = min(MAX_TRAIN_CHARS, wanted)
        self._size = self.corpus.size if self.corpus.is_complete else None
        # Where all of the text can be used, none is skipped for the sake of later text.
        enough = self._size and COMPRESSION_RATIO * self._size > min(MAX_TRAIN_CHARS, MAX_WORD_BYTES)
        self._spread = self._size if enough and self.max_tokens is None else None
        self._words, self._word_bytes = set[str](), 0

    @property
    def is_full(self) -> bool:
        """Whether nothing further will be used; known in advance only if the text is taken from the beginning."""
        return not self.use_all and self._spread is None and not self._has_room()

    def chunks(self) -> Iterator[str]:
        for document in self.corpus:
            for split, chunks in split_document(document, self.rule):
                if split != "train" and not self.use_all:
                    continue
                for chunk in chunks:
                    self.progress(self.corpus.bytes_read if self._size else self.used)
                    for piece in chunk_text(chunk, CHUNK_CHARS):
                        if self.is_full:
                            return
                        if self.use_all or self._has_room():
                            self._take(piece)
                            yield piece
                        else:
                            self.skipped += len(piece)

    def _take(self, piece: str) -> None:
        self.used += len(piece)
        if not self.use_all:
            new = set(_WORD.findall(piece)) - self._words
            self._words |= new
            self._word_bytes += sum(len(word.encode()) for word in new)

    def _has_room(self) -> bool:
        """Whether more may be used up to this position, so that text from the end of the corpus is used as well.

        The number of distinct words grows about as the square root of the text.
        """
        fraction = self.corpus.bytes_read / self._spread if self._spread else 1
        return self.used <= self._limit * fraction and self._word_bytes <= MAX_WORD_BYTES * fraction**0.5
