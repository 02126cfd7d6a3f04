"""Decoder that calls the model.

Letters: B sequences, C width of the model, T tokens, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from groundup.model.gpt import GPT

STEP_OVERHEAD = 4  # on CPUs, of the fastest decoder; more where weights do not fit the caches (docs/lab-notes.md)


class ModelDecoder:
    """Decoder that calls the model as it is, over its own cache."""

    def __init__(self, model: GPT, device: torch.device, slots: int, reason: str = "") -> None:
        """`reason`: why nothing faster than the model's own modules can be used."""
        self.vocab, self.context = model.config.vocab, model.config.block_size
        self.step_overhead = STEP_OVERHEAD if device.type == "cpu" else 0
        self.slots = model.new_cache(slots)
        self._model, self._device, self._reason = model, device, reason

    def extend(self, slot: int, ids: Sequence[int], logits: int) -> Tensor:
        """See `Decoder`."""
        self.slots.select(slot, 1)
        features = self._model.features(torch.tensor([ids], device=self._device), self.slots)  # (1, T, C)
        return self._logits(features[0, len(ids) - logits :])

    def step(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """See `Decoder`."""
        starts, longest = self.slots.lengths[: len(ids)], max(map(len, ids))
        if max(starts) + longest > self.context:  # no room to pad all to the same length
            return torch.cat([self.extend(slot, own, len(own)) for slot, own in enumerate(ids)])
        padded = [[*own, *[0] * (longest - len(own))] for own in ids]
        self.slots.select(0, len(ids))
        features = self._model.features(torch.tensor(padded, device=self._device), self.slots)  # (B, longest, C)
        for slot, (start, own) in enumerate(zip(starts, ids, strict=True)):
            self.slots.truncate(slot, start + len(own))
        return self._logits(torch.cat([row[: len(own)] for row, own in zip(features, ids, strict=True)]))

    def describe(self) -> str:
        """See `Decoder`."""
        return f"PyTorch; no C++: {self._reason}" if self._reason else "PyTorch"

    def _logits(self, features: Tensor) -> Tensor:
        return self._model.head(features)[:, : self.vocab].float()
