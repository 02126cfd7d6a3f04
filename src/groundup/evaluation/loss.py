"""Loss over a split: independent of the batch size, and without any effect on training."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from groundup.data.shards import Tokens
from groundup.data.windows import scored_windows
from groundup.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from groundup.evaluation.multiple_choice import MAX_EXPONENT
from groundup.model.gpt import IGNORED


@dataclass(frozen=True)
class Loss:
    """Mean loss of a model on a text."""

    nats_per_token: float
    scored: int  # tokens
    stderr: float = math.nan  # of nats_per_token; NaN for fewer than two windows

    @property
    def perplexity(self) -> float:
        """exp of the loss per token."""
        return math.exp(min(self.nats_per_token, MAX_EXPONENT))

    def bits_per_byte(self, tokens: int, text_bytes: int) -> float:
        """Bits per byte of text, comparable across tokenizers: loss x tokens / bytes / ln 2.

        `tokens` counts all tokens of the text, including those that end documents; `text_bytes` its UTF-8 bytes.
        """
        return self.nats_per_token * tokens / text_bytes / math.log(2)


class Interrupted(Exception):  # noqa: N818 - not an error: it was requested
    """An evaluation was stopped before its end, as requested."""


@torch.inference_mode()
def split_loss(
    loss_sum: nn.Module,
    tokens: Tokens,
    block_size: int,
    *,
    device: torch.device,
    stride: int | None = None,
    limit: int | None = None,
    rows: int = 16,
    autocast: Callable[[], AbstractContextManager[object]],
    stop: Callable[[], bool] = lambda: False,
    process_group: ProcessGroup = SINGLE_PROCESS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Loss:
    """Mean loss over windows of `block_size` tokens, each token scored once.

    Windows do not overlap, so the first tokens of each have little context. With a `stride` they overlap: each begins
    `stride` tokens after the previous one and scores only the tokens that one did not, so that every token outside the
    first window has at least `block_size - stride` tokens of context. The incomplete window at the end of the split is
    included; or, with `limit`, windows that score about that many tokens in all are spread evenly over the split, all
    of them complete. The first token of the split has no context and is not scored. Interrupted is raised once `stop()`
    is true.

    `loss_sum` returns the nats of a batch, or (B,) those of each window. The standard error treats what it returns as
    independent draws, and the mean as a ratio of two sums (Cochran, Sampling Techniques, section 2.11).

    Each rank of `process_group` takes every size-th batch, and the sums are all-reduced. All ranks make equally many
    forward passes, if need be over padding alone. `progress` is called with the windows done and all windows.
    """
    stride = stride or block_size
    starts = scored_windows(len(tokens), block_size, stride, limit)
    padding = np.stack([np.zeros(block_size, np.int64), np.full(block_size, IGNORED)])
    was_training = loss_sum.training
    loss_sum.eval()
    try:
        sums = torch.zeros(6, dtype=torch.float64)
        for first in range(0, len(starts), rows * process_group.size):
            if stop():
                raise Interrupted
            here = starts[first + process_group.rank * rows :][:rows]
            windows = [_window(tokens, int(start), block_size, block_size - stride) for start in here]
            ids, targets = np.stack(windows or [padding], axis=1)  # (B, W) each
            with autocast():
                nats = loss_sum(torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device))
            x, n = nats.cpu().double(), torch.from_numpy((targets != IGNORED).sum(1)).double()
            n = n if x.dim() else n.sum()  # of each window, or of the batch as one draw
            sums += torch.stack([x.sum(), n.sum(), (x**2).sum(), (x * n).sum(), (n**2).sum(), (n > 0).sum()])
            progress(min(first + rows * process_group.size, len(starts)), len(starts))
    finally:
        loss_sum.train(was_training)
    return _loss(process_group.all_reduce(sums))


def _loss(sums: Tensor) -> Loss:
    nats, scored, squares, products, counts, windows = sums.tolist()
    mean = nats / scored
    spread = squares - 2 * mean * products + mean**2 * counts  # of each sum around its expectation, by length
    spread = 0.0 if spread < 0 else spread  # by rounding
    stderr = math.sqrt(spread * windows / (windows - 1)) / scored if windows > 1 else math.nan
    return Loss(mean, int(scored), stderr)


def _window(tokens: Tokens, start: int, block_size: int, seen: int) -> NDArray[np.int64]:
    """(2, block_size): the ids from `start` on, and their targets, IGNORED past the end of the split.

    In all windows but the first, the previous one has scored the first `seen` targets.
    """
    ids = tokens.read(start, min(block_size + 1, len(tokens) - start))
    targets = np.pad(ids[1:], (0, block_size + 1 - len(ids)), constant_values=IGNORED)
    if start:
        targets[:seen] = IGNORED
    return np.stack([np.pad(ids, (0, block_size + 1 - len(ids)))[:-1], targets])
