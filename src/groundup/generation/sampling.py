"""Sampling of the next token from its logits: filters, then one draw per row.

Letters: B rows, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from groundup.errors import UsageError
from groundup.generation.filters import (
    BANNED,
    FORCED,
    CountPenalty,
    Counts,
    Filter,
    LogitBias,
    MinP,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
)
from groundup.utils.hashing import mix64

MIN_TEMPERATURE = 1e-4  # below it, decoding is greedy: logits divided by less overflow
MAX_COUNT_PENALTY = 2.0  # as in OpenAI's API


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

    @cached_property
    def filters(self) -> tuple[Filter, ...]:
        """What is applied to the logits, in order; of greedy decoding, only what can change the most likely token."""
        found: list[Filter] = []
        if self.counts_tokens:
            found += [RepetitionPenalty(self.repetition_penalty)] if self.repetition_penalty != 1 else []
            found += [CountPenalty(self.presence_penalty, self.frequency_penalty)]
        found += [LogitBias(tuple(sorted(self.logit_bias.items())))] if self.logit_bias else []
        if self.greedy:
            return tuple(found)
        found += [Temperature(self.temperature)]
        found += [TopK(self.top_k)] if self.top_k else []
        found += [TopP(self.top_p)] if self.top_p else []
        found += [MinP(self.min_p)] if self.min_p else []
        return tuple(found)

    @property
    def counts_tokens(self) -> bool:
        """Whether there are penalties, which depend on the tokens so far."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)


def _require(name: str, value: float, condition: bool, remedy: str) -> None:
    if not (condition and abs(value) < math.inf):
        raise UsageError(f"{name} {value}: {remedy}")


class RowSampler:
    """Sampler of one sequence: its own random generator, on the CPU, and its counts of tokens.

    Sample i of a seed is the same on every device, for any number of samples, whatever else is generated.
    """

    def __init__(self, sampling: Sampling, sample: int, prompt: Sequence[int] = (), vocab: int = 0) -> None:
        self.sampling = sampling
        # Hashed, so that adjacent seeds share no row; torch's CPU generator uses only the low 32 bits.
        seed = int(mix64(sampling.seed, sample)[0]) & 0xFFFFFFFF
        self._generator = torch.Generator().manual_seed(seed)
        self.counts = Counts(prompt, vocab) if sampling.counts_tokens else Counts((), 0)

    def uniform(self) -> Tensor:
        """The next random number from [0, 1): (1,), float64."""
        return torch.rand(1, generator=self._generator, dtype=torch.float64)

    def add(self, token: int) -> None:
        """Count a token that was chosen."""
        if self.sampling.counts_tokens:
            self.counts.add(token)


def choose(logits: Tensor, rows: Sequence[RowSampler]) -> list[int]:
    """One token id for each row: (B, V) -> B ids. Rows with the same filters are computed together."""
    groups: dict[tuple[bool, tuple[Filter, ...]], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row.sampling.greedy, row.sampling.filters), []).append(index)
    chosen = [0] * len(rows)
    for (greedy, filters), group in groups.items():
        if greedy and not filters:
            found = (logits if len(groups) == 1 else logits[group]).argmax(-1).tolist()
        else:
            # On the CPU: Apple GPUs have no float64.
            found = _draw(logits[group].float().cpu(), [rows[index] for index in group], filters, greedy=greedy)
        for index, token in zip(group, found, strict=True):
            chosen[index] = token
    return chosen


def _draw(logits: Tensor, rows: Sequence[RowSampler], filters: Sequence[Filter], *, greedy: bool) -> list[int]:
    counts = [row.counts for row in rows]
    for keep in filters:
        logits = keep(logits, counts)
    if greedy:
        return list(logits.argmax(-1).tolist())
    mass = logits.double().softmax(-1).cumsum(-1)  # (B, V)
    drawn = torch.cat([row.uniform() for row in rows]) * mass[:, -1]
    # The first token whose cumulative mass exceeds the draw: filtered tokens add no mass and cannot be drawn.
    found = torch.searchsorted(mass, drawn[:, None], right=True)[:, 0].clamp(max=logits.size(-1) - 1)
    return list(found.tolist())


class Sampler:
    """Sampler of one token per row, for any number of rows; a shorthand for the most used options of `Sampling`."""

    def __init__(self, t: float = 1.0, k: int | None = None, p: float | None = None, seed: int = 0) -> None:
        """`t`: temperature, 0 for greedy; `k`: top-k; `p`: top-p. UsageError when out of range."""
        self.sampling = Sampling(temperature=t, top_k=k, top_p=p, seed=seed)
        self._rows: list[RowSampler] = []

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, V) logits -> (B,) token ids on the same device."""
        B = logits.size(0)
        self._rows += [RowSampler(self.sampling, sample) for sample in range(len(self._rows), B)]
        return torch.tensor(choose(logits, self._rows[:B]), device=logits.device)
