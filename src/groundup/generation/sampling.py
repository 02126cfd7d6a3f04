"""Sampling of the next token from its logits: filters, then one draw per row.

Letters: B rows, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from groundup.errors import UsageError
from groundup.utils.hashing import mix64

Filter = Callable[[Tensor], Tensor]  # (B, V) logits -> (B, V) logits

MIN_TEMPERATURE = 1e-4  # below it, decoding is greedy: logits divided by less overflow


def top_k(k: int) -> Filter:
    """Keep only the k most likely tokens."""

    def keep(logits: Tensor) -> Tensor:
        least = logits.topk(min(k, logits.size(-1))).values[:, -1:]  # (B, 1)
        return logits.masked_fill(logits < least, -torch.inf)

    return keep


def top_p(p: float) -> Filter:
    """Keep only the most likely tokens whose total probability reaches p: nucleus sampling (arXiv:1904.09751)."""

    def keep(logits: Tensor) -> Tensor:
        ranked, order = logits.sort(descending=True)
        before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)  # total probability of all more likely tokens
        return logits.masked_fill((before >= p).gather(-1, order.argsort(-1)), -torch.inf)

    return keep


class Sampler:
    """Sampler of one token per row.

    Each row has its own random generator, on the CPU: sample i of a seed is the same on every device and for any number
    of samples.
    """

    def __init__(self, t: float = 1.0, k: int | None = None, p: float | None = None, seed: int = 0) -> None:
        """`t`: temperature, 0 for greedy; `k`: top-k; `p`: top-p. UsageError when out of range."""
        if not t >= 0:
            raise UsageError(f"temperature {t}: must be 0 (greedy) or more")
        if k is not None and k < 1:
            raise UsageError(f"top_k {k}: must be 1 or more")
        if p is not None and not 0 < p <= 1:
            raise UsageError(f"top_p {p}: must be more than 0 and at most 1")
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed {seed}: must be 0 or more and below 2^63")
        self.greedy, self.seed = t < MIN_TEMPERATURE, seed
        self.filters: list[Filter] = [] if self.greedy else [lambda logits: logits / t]
        self.filters += [top_k(k)] if k else []
        self.filters += [top_p(p)] if p else []
        self._generators: list[torch.Generator] = []

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, V) logits -> (B,) token ids on the same device."""
        if self.greedy:
            return logits.argmax(-1)
        device, logits = logits.device, logits.cpu()  # Apple GPUs have no float64
        for keep in self.filters:
            logits = keep(logits)
        mass = logits.double().softmax(-1).cumsum(-1)  # (B, V)
        drawn = self._uniform(logits.size(0)) * mass[:, -1]
        # The first token whose cumulative mass exceeds the draw: filtered tokens add no mass and cannot be drawn.
        return torch.searchsorted(mass, drawn[:, None], right=True)[:, 0].clamp(max=logits.size(-1) - 1).to(device)

    def _uniform(self, rows: int) -> Tensor:
        while len(self._generators) < rows:
            # Hashed, so that adjacent seeds share no row; torch's CPU generator uses only the low 32 bits.
            seed = int(mix64(self.seed, len(self._generators))[0]) & 0xFFFFFFFF
            self._generators.append(torch.Generator().manual_seed(seed))
        return torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in self._generators[:rows]])
