"""Filters of a sampler: small objects that change or exclude the logits of a row before the next token is chosen.

Letters: B rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from groundup.generation.sampling import BANNED, FORCED, Sampling

MAX_PENALTY = 1e30  # times a logit, divided by the lowest temperature, it does not overflow


class Counts:
    """Tokens of one sequence: how often each was generated, and which occur in the prompt."""

    def __init__(self, prompt: Sequence[int], vocab: int) -> None:
        self.generated = torch.zeros(vocab)  # (V,)
        self.seen = torch.zeros(vocab, dtype=torch.bool)  # (V,), in the prompt or generated
        self.seen[list(prompt)] = True

    def copy(self) -> "Counts":
        """The same counts, which change on their own."""
        other = Counts((), 0)
        other.generated, other.seen = self.generated.clone(), self.seen.clone()
        return other

    def add(self, token: int) -> None:
        """Count a generated token."""
        self.generated[token] += 1
        self.seen[token] = True


class Filter(Protocol):
    """One rule; equal rules of several rows are applied to all of them at once."""

    def __call__(self, logits: Tensor, counts: Sequence[Counts]) -> Tensor:
        """(B, V) -> (B, V) for rows with these counts, which only penalties read."""


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divide positive logits of tokens in prompt or text by `penalty`, multiply negative ones (arXiv:1909.05858)."""

    penalty: float

    def __call__(self, logits: Tensor, counts: Sequence[Counts]) -> Tensor:
        """See `Filter`."""
        seen = torch.stack([row.seen for row in counts])
        penalty = min(max(self.penalty, 1 / MAX_PENALTY), MAX_PENALTY)
        return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


@dataclass(frozen=True)
class CountPenalty:
    """Subtract `presence` from the logits of generated tokens, and `frequency` each time: penalties of OpenAI's API."""

    presence: float
    frequency: float

    def __call__(self, logits: Tensor, counts: Sequence[Counts]) -> Tensor:
        """See `Filter`."""
        generated = torch.stack([row.generated for row in counts])
        return logits - self.frequency * generated - self.presence * (generated > 0)


@dataclass(frozen=True)
class LogitBias:
    """Add to the logits of some tokens; -100 and less excludes a token, 100 and more excludes all others."""

    bias: tuple[tuple[int, float], ...]  # ids and what is added

    def __call__(self, logits: Tensor, counts: Sequence[Counts]) -> Tensor:
        """See `Filter`."""
        if forced := [token for token, value in self.bias if value >= FORCED]:
            return torch.full_like(logits, -torch.inf).index_copy_(1, torch.tensor(forced), logits[:, forced])
        values = torch.tensor([float(value) if value > BANNED else -torch.inf for _, value in self.bias])
        ids = torch.tensor([token for token, _ in self.bias])
        return logits + torch.zeros(logits.size(1)).index_copy_(0, ids, values)


@dataclass(frozen=True)
class Temperature:
    """Divide logits by the temperature: below 1 the distribution is sharper, above flatter."""

    temperature: float

    def __call__(self, logits: Tensor, counts: Sequence[Counts]) -> Tensor:
        """See `Filter`."""
        return logits / self.temperature


@dataclass(frozen=True)
class TopK:
    """Keep only the k most likely tokens."""

    k: int

    def __call__(self, logits: Tensor, counts: Sequence[Counts]) -> Tensor:
        """See `Filter`."""
        least = logits.topk(min(self.k, logits.size(-1))).values[:, -1:]  # (B, 1)
        return logits.masked_fill(logits < least, -torch.inf)


@dataclass(frozen=True)
class TopP:
    """Keep only the most likely tokens whose total probability reaches p: nucleus sampling (arXiv:1904.09751)."""

    p: float

    def __call__(self, logits: Tensor, counts: Sequence[Counts]) -> Tensor:
        """See `Filter`."""
        ranked, order = logits.sort(descending=True, stable=True)  # of equal ones the same on every device
        before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)  # total probability of all more likely tokens
        excluded = before >= self.p
        excluded[:, 0] = False  # in fp32 a tiny p is 0
        return logits.masked_fill(excluded.gather(-1, order.argsort(-1)), -torch.inf)


@dataclass(frozen=True)
class MinP:
    """Keep only tokens at least p times as likely as the most likely one (arXiv:2407.01082)."""

    p: float

    def __call__(self, logits: Tensor, counts: Sequence[Counts]) -> Tensor:
        """See `Filter`."""
        probabilities = logits.softmax(-1)
        return logits.masked_fill(probabilities < self.p * probabilities.amax(-1, keepdim=True), -torch.inf)


FROM_LOGITS = (Temperature, TopK, TopP, MinP)
"""Filters that read nothing but logits."""


def filters_of(sampling: Sampling) -> tuple[Filter, ...]:
    """Filters in the order they are applied; for greedy decoding, only those that can change what is chosen."""
    found: list[Filter] = []
    if sampling.repetition_penalty != 1:
        found.append(RepetitionPenalty(sampling.repetition_penalty))
    if sampling.presence_penalty or sampling.frequency_penalty:
        found.append(CountPenalty(sampling.presence_penalty, sampling.frequency_penalty))
    if sampling.logit_bias:
        found.append(LogitBias(tuple(sorted(sampling.logit_bias.items()))))
    if sampling.greedy:
        return tuple(found)
    found += [Temperature(sampling.temperature)] if sampling.temperature != 1 else []
    found += [TopK(sampling.top_k)] if sampling.top_k else []
    found += [TopP(sampling.top_p)] if sampling.top_p else []
    found += [MinP(sampling.min_p)] if sampling.min_p else []
    return tuple(found)
