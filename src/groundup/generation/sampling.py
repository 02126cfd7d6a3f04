"""How the next token is chosen: options and their valid values. No torch here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from groundup.errors import UsageError

MIN_TEMPERATURE = 1e-4  # below it, decoding is greedy: logits divided by less overflow
MAX_COUNT_PENALTY = 2.0  # as in OpenAI's API
BANNED, FORCED = -100.0, 100.0  # values of a logit bias that exclude a token, and all others


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. UsageError, which names the option, when a value is out of range.

    Filters are applied in the order of the fields: penalties and bias, temperature, then top-k, top-p, min-p.
    """

    temperature: float = 1.0
    """0: always the most likely token (greedy); 1: the model's distribution"""
    top_k: int | None = None
    """keep the k most likely tokens"""
    top_p: float | None = None
    """keep the most likely tokens whose total probability reaches this"""
    min_p: float | None = None
    """keep tokens at least this many times as likely as the most likely one"""
    repetition_penalty: float = 1.0
    """divide the logits of tokens in the prompt and the text so far; 1: off"""
    presence_penalty: float = 0.0
    """subtract from the logits of tokens generated before"""
    frequency_penalty: float = 0.0
    """subtract from the logit of a token for each time it was generated"""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """token id -> number added to its logit; -100 excludes the token, 100 all others"""
    seed: int = 0
    """samples of the same seed are the same"""

    def __post_init__(self) -> None:
        _require("temperature", self.temperature, self.temperature >= 0, "must be 0 (greedy) or more")
        if self.top_k is not None:
            _require("top_k", self.top_k, self.top_k >= 1, "must be 1 or more")
        if self.top_p is not None:
            _require("top_p", self.top_p, 0 < self.top_p <= 1, "must be more than 0 and at most 1")
        if self.min_p is not None:
            _require("min_p", self.min_p, 0 <= self.min_p <= 1, "must be from 0 to 1")
        penalty = self.repetition_penalty
        _require("repetition_penalty", penalty, penalty > 0, "must be more than 0; 1 is off")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _require(name, value, abs(value) <= MAX_COUNT_PENALTY, "must be from -2 to 2; 0 is off")
        for token, bias in self.logit_bias.items():
            _require(f"logit_bias of id {token}:", bias, BANNED <= bias <= FORCED, "must be from -100 to 100")
        _require("seed", self.seed, 0 <= self.seed < 2**63, "must be 0 or more and below 2^63")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.temperature < MIN_TEMPERATURE

    def bans_all(self, vocab: int) -> bool:
        """Whether the bias excludes every token."""
        return sum(bias <= BANNED for bias in self.logit_bias.values()) == vocab

    @property
    def counts_tokens(self) -> bool:
        """Whether there are penalties, which depend on the tokens so far."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as keyword arguments."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int


def _require(name: str, value: float, condition: bool, remedy: str) -> None:
    if not (condition and abs(value) < math.inf):
        raise UsageError(f"{name} {value}: {remedy}")
