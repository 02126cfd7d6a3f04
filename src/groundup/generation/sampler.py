"""Sampler of the next token from its logits: filters, then one draw per row.

Letters: B rows, V vocabulary.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from groundup.generation.filters import FROM_LOGITS, Counts, Filter, filters_of
from groundup.generation.sampling import Sampling
from groundup.utils.device import upload
from groundup.utils.hashing import mix64

UNUSED = torch.zeros(1, dtype=torch.float64)  # in place of a random number, where none is needed


class Position(NamedTuple):
    """One token to be chosen."""

    greedy: bool
    filters: tuple[Filter, ...]
    counts: Counts
    number: Tensor  # random, from [0, 1): (1,), float64


class RowSampler:
    """Sampler of one sequence: its own random generator, on the CPU, and its counts of tokens.

    Sample i of a seed is the same on every device, for any number of samples, whatever else is generated.
    """

    def __init__(self, sampling: Sampling, sample: int, prompt: Sequence[int] = (), vocab: int = 0) -> None:
        self._sampling, self._filters = sampling, filters_of(sampling)
        # Hashed, so that adjacent seeds share no row; torch's CPU generator uses only the low 32 bits.
        seed = int(mix64(sampling.seed, sample)[0]) & 0xFFFFFFFF
        self._generator = torch.Generator().manual_seed(seed)
        self._numbers: list[Tensor] = []  # random, of the next tokens
        self._prompt, self._vocab = (prompt, vocab) if sampling.counts_tokens else ((), 0)

    @cached_property
    def _counts(self) -> Counts:
        """Counts of its tokens. Made when first needed: thousands of sequences may wait."""
        return Counts(self._prompt, self._vocab)

    def positions(self, draft: Sequence[int] = ()) -> list[Position]:
        """The next token, and those after each token of a draft.

        That after `draft[i]` is right if `draft[: i + 1]` are the tokens that are chosen: each token has its own random
        number, whatever was drafted.
        """
        counts = [self._counts]
        for token in draft:
            counts.append(counts[-1].copy() if self._sampling.counts_tokens else self._counts)
            if self._sampling.counts_tokens:
                counts[-1].add(token)
        if self._sampling.greedy:
            return [Position(True, self._filters, each, UNUSED) for each in counts]
        while len(self._numbers) < len(counts):
            self._numbers.append(torch.rand(1, generator=self._generator, dtype=torch.float64))
        return [Position(False, self._filters, *each) for each in zip(counts, self._numbers, strict=False)]

    def add(self, token: int) -> None:
        """Take note of a token that was chosen."""
        del self._numbers[:1]
        if self._sampling.counts_tokens:
            self._counts.add(token)


def choose(logits: Tensor, positions: Sequence[Position]) -> list[int]:
    """One token id for each position: (B, V) -> B ids. Those with the same filters are computed together.

    A GPU gets all of its work before the ids are waited for.
    """
    groups: dict[tuple[bool, tuple[Filter, ...]], list[int]] = {}
    for index, position in enumerate(positions):
        groups.setdefault((position.greedy, position.filters), []).append(index)
    found = []
    for group in groups.values():
        own = logits if len(groups) == 1 else logits[upload(torch.tensor(group), logits.device)]
        found.append((group, _choose_alike(own, [positions[index] for index in group])))
    chosen = [0] * len(positions)
    for group, tokens in found:
        for index, token in zip(group, tokens.tolist(), strict=True):
            chosen[index] = token
    return chosen


def _choose_alike(logits: Tensor, positions: Sequence[Position]) -> Tensor:
    """Tokens of positions with the same filters: (B, V) -> (B,)."""
    filters, greedy = positions[0].filters, positions[0].greedy
    if not filters and greedy:
        return logits.argmax(-1)
    logits = logits.float().to(_device(logits.device, filters))
    counts = [position.counts for position in positions]
    for keep in filters:
        logits = keep(logits, counts)
    if greedy:
        return logits.argmax(-1)
    mass = logits.double().softmax(-1).cumsum(-1)  # (B, V)
    drawn = upload(torch.cat([position.number for position in positions]), logits.device) * mass[:, -1]
    # The first token whose cumulative mass exceeds the draw: filtered tokens add no mass and cannot be drawn.
    return torch.searchsorted(mass, drawn[:, None], right=True)[:, 0].clamp(max=logits.size(-1) - 1)


def _device(device: torch.device, filters: Sequence[Filter]) -> torch.device:
    """Where positions with these filters are computed: on the logits' device, if it can.

    Apple GPUs have no float64, counts and biases are on the CPU, and the cumulative sum of a GPU is not deterministic.
    """
    able = device.type != "mps" and not torch.are_deterministic_algorithms_enabled()
    return device if able and all(isinstance(keep, FROM_LOGITS) for keep in filters) else torch.device("cpu")


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
        chosen = choose(logits, [position for row in self._rows[:B] for position in row.positions()])
        for row, token in zip(self._rows, chosen, strict=False):
            row.add(token)
        return torch.tensor(chosen, device=logits.device)
