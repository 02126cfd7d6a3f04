"""Loss over a split, the same number whatever the batch size, and without any effect on training."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from groundup.data.batches import TokenSource
from groundup.model.gpt import IGNORED


@dataclass(frozen=True)
class Loss:
    """What a model loses on a text."""

    nats_per_token: float
    scored: int  # tokens

    @property
    def perplexity(self) -> float:
        """exp of the loss a token."""
        return math.exp(min(self.nats_per_token, 700.0))

    def bits_per_byte(self, tokens: int, text_bytes: int) -> float:
        """Bits a byte of text, comparable across tokenizers: loss x tokens / bytes / ln 2.

        `tokens` counts all tokens of the text, those that end documents included; `text_bytes` its UTF-8 bytes.
        """
        return self.nats_per_token * tokens / text_bytes / math.log(2)


class Interrupted(Exception):  # noqa: N818 - no error: it was asked for
    """An evaluation was asked to stop before its end."""


@torch.inference_mode()
def split_loss(
    loss_sum: nn.Module,
    tokens: TokenSource,
    block_size: int,
    *,
    device: torch.device,
    limit: int | None = None,
    rows: int = 16,
    autocast: Callable[[], AbstractContextManager[object]],
    stop: Callable[[], bool] = lambda: False,
    rank: int = 0,
    size: int = 1,
    total: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
) -> Loss:
    """Mean loss over non-overlapping windows of `block_size` tokens, each token scored once.

    The whole split, its ragged end included; or, with `limit`, whole windows of about that many tokens in all, spread
    evenly over the split. The first token of the split has nothing before it and is not scored.
    Interrupted as soon as `stop()` says so.

    Of `size` processes, `rank` takes every size-th batch, and `total` adds up everyone's sums. All make equally many
    passes, where need be over nothing.
    """
    targets = len(tokens) - 1
    starts = np.arange(0, targets, block_size)
    if limit is not None and limit < targets:
        n = max(1, limit // block_size)
        starts = np.arange(n) * (len(starts) - 1) // n * block_size  # never the ragged window
    was_training = loss_sum.training
    loss_sum.eval()
    try:
        sums = torch.zeros(2, dtype=torch.float64)  # nats, and tokens scored
        for first in range(0, len(starts), rows * size):
            if stop():
                raise Interrupted
            here = starts[first + rank * rows :][:rows]
            windows = np.stack([_window(tokens, int(s), block_size) for s in here] or [_nothing(block_size)])
            both = torch.from_numpy(windows).to(device)
            with autocast():
                sums[0] += loss_sum(both[:, :-1].clamp(min=0), both[:, 1:].contiguous()).item()
            sums[1] += int((windows[:, 1:] != IGNORED).sum())
    finally:
        loss_sum.train(was_training)
    nats, scored = total(sums).tolist()
    return Loss(nats / scored, int(scored))


def _nothing(block_size: int) -> NDArray[np.int64]:
    return np.full(block_size + 1, IGNORED)


def _window(tokens: TokenSource, start: int, block_size: int) -> NDArray[np.int64]:
    """(block_size + 1,) ids from `start`, filled up with IGNORED past the end."""
    ids = tokens.read(start, min(block_size + 1, len(tokens) - start))
    return np.pad(ids, (0, block_size + 1 - len(ids)), constant_values=IGNORED)
