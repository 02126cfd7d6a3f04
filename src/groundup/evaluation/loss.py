"""Loss over a split, the same number whatever the batch size, and without any effect on training."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from groundup.data.windows import TokenSource
from groundup.kernels.cross_entropy import linear_cross_entropy_rows
from groundup.model.gpt import GPT, IGNORED


@dataclass(frozen=True)
class Loss:
    """What a model loses on a text."""

    nats_per_token: float
    scored: int  # tokens
    stderr: float = math.nan  # of nats_per_token; of fewer than two windows it cannot be told

    @property
    def perplexity(self) -> float:
        """exp of the loss a token."""
        return math.exp(min(self.nats_per_token, 700.0))

    def bits_per_byte(self, tokens: int, text_bytes: int) -> float:
        """Bits a byte of text, comparable across tokenizers: loss x tokens / bytes / ln 2.

        `tokens` counts all tokens of the text, those that end documents included; `text_bytes` its UTF-8 bytes.
        """
        return self.nats_per_token * tokens / text_bytes / math.log(2)


class EachWindow(nn.Module):
    """Summed cross-entropy of each window by itself, in nats: what `split_loss` needs for a standard error."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """(B, T) and (B, T) -> (B,); targets equal to `IGNORED` are not scored."""
        gpt, x = self.gpt, self.gpt.features(ids, targets=targets).flatten(0, 1)  # (B·T, C)
        vocab, softcap = gpt.config.vocab, gpt.config.logit_softcap
        nats = linear_cross_entropy_rows(
            x, gpt.reading, targets.flatten(), vocab=vocab, softcap=softcap, ignore_index=IGNORED
        )
        return nats.view_as(targets).sum(1)


class Interrupted(Exception):  # noqa: N818 - no error: it was asked for
    """An evaluation was asked to stop before its end."""


@torch.inference_mode()
def split_loss(
    loss_sum: nn.Module,
    tokens: TokenSource,
    block_size: int,
    *,
    device: torch.device,
    stride: int | None = None,
    limit: int | None = None,
    rows: int = 16,
    autocast: Callable[[], AbstractContextManager[object]],
    stop: Callable[[], bool] = lambda: False,
    rank: int = 0,
    size: int = 1,
    total: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
) -> Loss:
    """Mean loss over windows of `block_size` tokens, each token scored once.

    Windows do not overlap, so a window's first tokens have little before them; with a `stride` they do: each begins
    `stride` tokens after the last and scores only what that one did not, so that every token but those of the first
    window has at least `block_size - stride` before it. The ragged end of the split is included; or, with `limit`,
    windows that score about that many tokens in all are spread evenly over the split, none of them ragged. The first
    token of the split has nothing before it and is not scored. Interrupted as soon as `stop()` says so.

    `loss_sum` gives the nats of a batch, or (B,) those of each window. The standard error takes what it tells apart
    for independent draws, and the mean for a ratio of two sums (Cochran, Sampling Techniques, section 2.11).

    Of `size` processes, `rank` takes every size-th batch, and `total` adds up everyone's sums. All make equally many
    passes, where need be over nothing.
    """
    stride = stride or block_size
    targets = len(tokens) - 1
    starts = np.arange(-(-max(0, targets - block_size) // stride) + 1) * stride
    if limit is not None and limit < targets and len(starts) > 1:
        # Never the ragged window; nor, where they overlap, the first, which has less before its tokens.
        whole = starts[1:-1] if stride < block_size and len(starts) > 2 else starts[:-1]
        n = min(len(whole), max(1, limit // stride))
        starts = whole[np.arange(n) * len(whole) // n]
    was_training = loss_sum.training
    loss_sum.eval()
    try:
        sums = torch.zeros(6, dtype=torch.float64)
        for first in range(0, len(starts), rows * size):
            if stop():
                raise Interrupted
            here = starts[first + rank * rows :][:rows]
            windows = [_window(tokens, int(start), block_size, block_size - stride) for start in here]
            ids, targets = np.stack(windows or [_nothing(block_size)], axis=1)  # (B, W) each
            with autocast():
                nats = loss_sum(torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device))
            sums += _moments(nats.cpu().double(), torch.from_numpy((targets != IGNORED).sum(1)))
    finally:
        loss_sum.train(was_training)
    return _loss(total(sums))


def _moments(nats: Tensor, scored: Tensor) -> Tensor:
    """What the standard error needs of a batch: sums over its windows, or over it as a whole."""
    n = scored.double() if nats.dim() else scored.double().sum()
    return torch.stack([nats.sum(), n.sum(), (nats**2).sum(), (nats * n).sum(), (n**2).sum(), (n > 0).sum()])


def _loss(sums: Tensor) -> Loss:
    nats, scored, squares, products, counts, windows = sums.tolist()
    mean = nats / scored
    spread = squares - 2 * mean * products + mean**2 * counts  # of each sum around what its length predicts
    spread = 0.0 if spread < 0 else spread  # by rounding
    stderr = math.sqrt(spread * windows / (windows - 1)) / scored if windows > 1 else math.nan
    return Loss(mean, int(scored), stderr)


def _nothing(block_size: int) -> NDArray[np.int64]:
    return np.stack([np.zeros(block_size, np.int64), np.full(block_size, IGNORED)])


def _window(tokens: TokenSource, start: int, block_size: int, seen: int) -> NDArray[np.int64]:
    """(2, block_size): the ids from `start` on, and what each is to predict, IGNORED past the end of the split.

    Of all windows but the first, the one before has scored the first `seen` targets.
    """
    ids = tokens.read(start, min(block_size + 1, len(tokens) - start))
    targets = np.pad(ids[1:], (0, block_size + 1 - len(ids)), constant_values=IGNORED)
    if start:
        targets[:seen] = IGNORED
    return np.stack([np.pad(ids, (0, block_size + 1 - len(ids)))[:-1], targets])
