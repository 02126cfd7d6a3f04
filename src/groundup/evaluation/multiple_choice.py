"""Multiple-choice questions answered by likelihood: of several endings, the model picks the most likely one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from groundup.errors import DataError, TokenizerError
from groundup.tokenizers.base import Tokenizer

Ids = npt.NDArray[Any]
TIE = 1e-6  # of a score: by so much fp32 sums of equal probabilities differ with the batch they were computed in
MAX_EXPONENT = 700.0  # exp of more overflows a float


@dataclass(frozen=True)
class MultipleChoice:
    """Choices, each an ending after a prompt; in most questions all choices have the same prompt.

    An ending follows its prompt character by character, including the space between them.
    """

    prompts: tuple[str, ...]
    endings: tuple[str, ...]
    answer: int  # the index of the right choice
    lengths: tuple[int, ...]  # characters of each choice, without the space before it
    origin: str = ""  # file and line, for messages

    def check(self) -> MultipleChoice:
        """Return itself; DataError if it has no right answer or an empty choice."""
        if not all(isinstance(text, str) for text in (*self.prompts, *self.endings)):
            raise DataError(f"{self.origin}: a value is not text; give texts")
        if self.answer not in range(n := len(self.endings)):
            raise DataError(f"{self.origin}: answer {self.answer} is none of its {n} choices, counted from 0")
        for i, ending in enumerate(self.endings):
            if not ending.strip():
                raise DataError(f"{self.origin}: choice {i} is empty; every choice needs text")
        return self


@dataclass(frozen=True)
class EncodedQuestion:
    """A question as token ids."""

    pairs: tuple[tuple[Ids, Ids], ...]  # prompt and ending of each choice
    lengths: tuple[int, ...]  # characters of each choice
    answer: int

    @property
    def tokens(self) -> int:
        """Tokens of all choices, including their prompts."""
        return sum(len(prompt) + len(ending) for prompt, ending in self.pairs)


def encode(
    question: MultipleChoice, tokenizer: Tokenizer, *, separately: bool, block_size: int | None = None
) -> EncodedQuestion:
    """Encode prompts and endings; DataError if the tokenizer cannot, or an ending alone exceeds `block_size`.

    `separately`: prompt and ending are encoded one by one. Otherwise the ending is what remains of both encoded
    together after as many ids as the prompt has, and spaces at the end of the prompt go with the ending, as in
    lm-evaluation-harness. An empty prompt becomes the end-of-text token.
    """
    pairs = []
    try:
        for prompt, ending in zip(question.prompts, question.endings, strict=True):
            if separately:
                before, after = tokenizer.encode(prompt), tokenizer.encode(ending)
            else:
                before = tokenizer.encode(prompt.rstrip())
                after = tokenizer.encode(prompt + ending)[len(before) :]
            if not len(after):
                raise DataError(f"{question.origin}: {ending!r} adds no token to its prompt; give it more text")
            if block_size and len(after) > block_size:
                raise DataError(
                    f"{question.origin}: an ending of {len(after)} tokens does not fit the model's context of "
                    f"{block_size}; leave it out, or use a model with a longer one"
                )
            pairs.append((before if len(before) else np.array([tokenizer.end_of_text]), after))
    except TokenizerError as error:
        raise DataError(f"{question.origin}: {error}") from error
    return EncodedQuestion(tuple(pairs), question.lengths, question.answer)


@dataclass(frozen=True)
class ScoredQuestion:
    """A question with the log-likelihood of each ending, summed over its tokens."""

    question: EncodedQuestion
    nats: npt.NDArray[np.float64]
    greedy: npt.NDArray[np.bool_]  # whether greedy decoding would produce this ending

    def is_right(self, lengths: Sequence[int] | None = None) -> float:
        """1 if the most likely ending, per unit of length, is the right one, else 0; NaN if any likelihood is.

        Of endings that are equally likely up to a fraction `TIE`, one is picked at random: 1 / their number.
        """
        nats = self.nats if lengths is None else self.nats / np.array(lengths, dtype=np.float64)
        if np.isnan(nats).any():
            return math.nan
        best = nats >= nats.max() - TIE * abs(nats.max())
        return float(best[self.question.answer] / best.sum())

    def is_greedy(self) -> float:
        """1 if greedy decoding would produce the right ending, else 0; NaN if any likelihood is."""
        return math.nan if np.isnan(self.nats).any() else float(self.greedy[self.question.answer])


@dataclass(frozen=True)
class Metric:
    """A score per question, and a function of its mean."""

    score: Callable[[ScoredQuestion], float]
    of_mean: Callable[[float], float] = float
    slope: Callable[[float], float] = lambda mean: 1.0  # derivative of `of_mean`, for the standard error
    by_chance: bool = True  # whether random guessing scores above 0

    def value(self, questions: Sequence[ScoredQuestion]) -> tuple[float, float, int]:
        """The metric over all questions, its standard error, and the questions whose right choice ties with another.

        The error is that of a mean, by the delta method.
        """
        scores = np.array([self.score(question) for question in questions])
        mean = float(scores.mean())
        stderr = float(scores.std(ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
        ties = int(((scores > 0) & (scores < 1)).sum()) if self.by_chance else 0
        return self.of_mean(mean), abs(self.slope(mean)) * stderr, ties
