"""Forward passes for generation: logits of the next token of several sequences, each in a slot of a cache.

Letters: B sequences, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from groundup.generation.compiled_decoder import CompiledDecoder, unsupported
from groundup.generation.graph_decoder import GraphDecoder
from groundup.generation.model_decoder import ModelDecoder
from groundup.model.gpt import GPT


class Slots(Protocol):
    """Room for several sequences, in slots that are counted from 0; `model.context.SlotCache` is one."""

    def clear(self, slot: int) -> None:
        """Empty a slot."""

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens of a slot after its first `length`."""

    def move(self, source: int, target: int) -> None:
        """Replace the sequence in slot `target` by that in `source`, which is then empty."""

    def save(self, slot: int) -> list[Tensor]:
        """A copy of a sequence, for `load`."""

    def load(self, slot: int, saved: list[Tensor]) -> None:
        """Replace the sequence in a slot by a saved one."""


class Decoder(Protocol):
    """A model that reads tokens one after another, for several sequences of up to `context` tokens."""

    vocab: int
    context: int
    step_overhead: int
    """cost of a step as the number of tokens that take as long, their own time not counted; 0: drafts never pay"""

    @property
    def slots(self) -> Slots:
        """Where the sequences are kept."""

    def extend(self, slot: int, ids: Sequence[int], logits: int) -> Tensor:
        """Append tokens to one sequence; logits after the last `logits` of them, fp32: (logits, V)."""

    def step(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens, at least one, to each of the first B sequences: logits after each token, fp32.

        Those of the first sequence come first: (number of tokens, V).
        """

    def describe(self) -> str:
        """How it computes, in a few words for a user."""


def new_decoder(model: GPT, device: torch.device, slots: int) -> Decoder:
    """The fastest decoder for a model in evaluation mode, with room for `slots` sequences."""
    if device.type == "cuda":
        return GraphDecoder(model, device, slots)
    if device.type != "cpu":
        return ModelDecoder(model, device, slots)
    reason = unsupported(model)
    return ModelDecoder(model, device, slots, reason) if reason else CompiledDecoder(model, device, slots)


def window_start(start: int, tokens: int, context: int) -> int:
    """Index of the first token that is read to predict the one after `tokens`, where it was `start` until now.

    A model sees at most `context` tokens. When they are full, the last half of them is kept and read again.
    """
    return start if tokens - start <= context else tokens - max(1, context // 2)
