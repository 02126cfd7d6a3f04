"""Questions that are answered by likelihood: of several endings, a model takes the one it finds likeliest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from groundup.errors import DataError, TokenizerError
from groundup.tokenizers.registry import Tokenizer

Ids = npt.NDArray[Any]


@dataclass(frozen=True)
class MultipleChoice:
    """Choices, each of them an ending after a context; most questions have one context for all.

    An ending is what follows the context letter by letter, the space between them included.
    """

    contexts: tuple[str, ...]
    endings: tuple[str, ...]
    answer: int  # the index of the right choice
    lengths: tuple[int, ...]  # characters of each choice, the space before it left out
    where: str = ""  # file and line, for whoever has to mend it

    def check(self) -> MultipleChoice:
        """Itself; DataError where it has no right answer, or a choice says nothing."""
        if not all(isinstance(text, str) for text in (*self.contexts, *self.endings)):
            raise DataError(f"{self.where}: holds something else where a text is due; give texts")
        if not 0 <= self.answer < len(self.endings):
            raise DataError(f"{self.where}: answer {self.answer} is none of its {len(self.endings)} choices, from 0 on")
        for i, ending in enumerate(self.endings):
            if not ending.strip():
                raise DataError(f"{self.where}: choice {i} is empty; every choice needs text")
        return self


@dataclass(frozen=True)
class Encoded:
    """A question as token ids."""

    pairs: tuple[tuple[Ids, Ids], ...]  # context and ending of each choice
    lengths: tuple[int, ...]  # characters of each choice
    answer: int

    @property
    def tokens(self) -> int:
        """Of all choices, their contexts included."""
        return sum(len(context) + len(ending) for context, ending in self.pairs)


def encode(question: MultipleChoice, tokenizer: Tokenizer, *, apart: bool, block_size: int | None = None) -> Encoded:
    """The ids of contexts and endings; DataError where the tokenizer cannot express them, or an ending alone does not
    fit a model's context of `block_size`.

    `apart`: context and ending are encoded one by one. Otherwise the ending is what is left of the encoded whole after
    as many ids as the context has, and spaces at the context's end go with the ending, as lm-evaluation-harness does.
    Where there is no context, the end of a text before stands for it.
    """
    pairs = []
    try:
        for context, ending in zip(question.contexts, question.endings, strict=True):
            if apart:
                before, after = tokenizer.encode(context), tokenizer.encode(ending)
            else:
                before = tokenizer.encode(context.rstrip())
                after = tokenizer.encode(context + ending)[len(before) :]
            if not len(after):
                raise DataError(f"{question.where}: {ending!r} adds no token to its context; give it more text")
            if block_size and len(after) > block_size:
                raise DataError(
                    f"{question.where}: an ending of {len(after)} tokens does not fit the model's context of "
                    f"{block_size}; leave it out, or take a model with a longer one"
                )
            pairs.append((before if len(before) else np.array([tokenizer.end_of_text]), after))
    except TokenizerError as error:
        raise DataError(f"{question.where}: {error}") from error
    return Encoded(tuple(pairs), question.lengths, question.answer)


@dataclass(frozen=True)
class Scored:
    """What a model thinks of a question: of each ending its log-likelihood, and its length."""

    nats: npt.NDArray[np.float64]  # log-likelihoods, summed over the ending's tokens
    tokens: npt.NDArray[np.float64]
    characters: npt.NDArray[np.float64]
    greedy: npt.NDArray[np.bool_]  # whether the model would write this ending itself, always taking the likeliest token
    answer: int


@dataclass(frozen=True)
class Metric:
    """A number for each question, and what is made of their mean."""

    of: Callable[[Scored], float]
    of_mean: Callable[[float], float] = float
    slope: Callable[[float], float] = lambda mean: 1.0  # the derivative of `of_mean`: how far an error is stretched
    by_chance: bool = True  # whether guessing has a chance

    def value(self, scored: Sequence[Scored]) -> tuple[float, float]:
        """The metric over all questions, and its standard error: that of a mean, by the delta method."""
        found = np.array([self.of(one) for one in scored])
        mean = float(found.mean())
        stderr = float(found.std(ddof=1)) / math.sqrt(len(found)) if len(found) > 1 else math.nan
        return self.of_mean(mean), abs(self.slope(mean)) * stderr


def _right(nats: npt.NDArray[np.float64], answer: int) -> float:
    return math.nan if np.isnan(nats).any() else float(int(nats.argmax()) == answer)


def _greedy(scored: Scored) -> float:
    return math.nan if np.isnan(scored.nats).any() else float(scored.greedy[scored.answer])


def _perplexity(mean: float) -> float:
    return math.exp(min(-mean, LARGEST))


LARGEST = 700.0  # whose exponential is still a number


ACC = Metric(lambda s: _right(s.nats, s.answer))
"""The likeliest ending is the right one."""

ACC_TOKENS = Metric(lambda s: _right(s.nats / s.tokens, s.answer))
"""The same by the mean over an ending's tokens: `acc_norm` of llm.c and build-nanogpt."""

ACC_CHARACTERS = Metric(lambda s: _right(s.nats / s.characters, s.answer))
"""The same by the mean over an ending's characters: `acc_norm` of lm-evaluation-harness."""

ACC_GREEDY = Metric(_greedy, by_chance=False)
"""The model would have written the ending itself."""

PERPLEXITY = Metric(lambda s: float(s.nats[s.answer]), _perplexity, _perplexity, by_chance=False)
"""exp of the mean negative log-likelihood of an ending, as lm-evaluation-harness has it for LAMBADA."""
