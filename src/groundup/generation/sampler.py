"""Sampler of the next token from its logits: filters, then one draw per row.

Letters: B rows, V vocabulary.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from groundup.generation.filters import Counts, Filter, filters_of
from groundup.generation.sampling import Sampling
from groundup.utils.hashing import mix64


class RowSampler:
    """Sampler of one sequence: its own random generator, on the CPU, and its counts of tokens.

    Sample i of a seed is the same on every device, for any number of samples, whatever else is generated.
    """

    def __init__(self, sampling: Sampling, sample: int, prompt: Sequence[int] = (), vocab: int = 0) -> None:
        self.sampling, self.filters = sampling, filters_of(sampling)
        # Hashed, so that adjacent seeds share no row; torch's CPU generator uses only the low 32 bits.
        seed = int(mix64(sampling.seed, sample)[0]) & 0xFFFFFFFF
        self._generator = torch.Generator().manual_seed(seed)
        self._prompt, self._vocab = (prompt, vocab) if sampling.counts_tokens else ((), 0)

    @cached_property
    def counts(self) -> Counts:
        """Counts of its tokens. Made when first needed: thousands of sequences may wait."""
        return Counts(self._prompt, self._vocab)

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
        groups.setdefault((row.sampling.greedy, row.filters), []).append(index)
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
