"""How likely a model finds endings after contexts, each context computed once.

Endings that share a context stand behind it in one row, and attention keeps them apart (`model.context.Branching`).
Rows of like length go through the model together, and the head, a third of GPT-2's arithmetic, runs only where an
ending is scored.

Letters: B rows, T tokens of the longest, C width, P padded vocabulary, N endings, M places where the head looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from groundup.errors import DataError
from groundup.evaluation.loss import Interrupted
from groundup.model.context import Causal, SharedPrefix
from groundup.model.gpt import GPT

Ids = npt.NDArray[Any]
TOKENS, GPU_TOKENS = 2048, 32_768  # a batch, padding included
ENOUGH = 256  # tokens in a batch from which on padding costs more than a smaller batch would
HEADS = 8  # of the tokens of a batch, the head looks at every eighth's worth at a time: GPT-2's logits are then 100 MB


def batch_tokens(device: torch.device) -> int:
    """How many go through a model at a time where nobody says."""
    return TOKENS if device.type == "cpu" else GPU_TOKENS


class Row(NamedTuple):
    """A context, and the endings that share it."""

    context: Ids
    endings: list[tuple[int, Ids]]  # number among all, ids

    @property
    def length(self) -> int:
        """Tokens that go through the model; an ending's last one is predicted and never read."""
        return len(self.context) + sum(len(ending) - 1 for _, ending in self.endings)


class LogLikelihoods(NamedTuple):
    """Of each ending, (N,): its log-likelihood in nats, whether every token of it was the likeliest; how many contexts
    were cut."""

    nats: npt.NDArray[np.float64]
    greedy: npt.NDArray[np.bool_]
    cut: int


@torch.inference_mode()
def log_likelihoods(
    gpt: GPT,
    pairs: Sequence[tuple[Ids, Ids]],
    *,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]],
    tokens: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda done: None,
    rank: int = 0,
    size: int = 1,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> LogLikelihoods:
    """log p(ending | context) for every pair of contexts and endings, neither of them empty.

    Neighbours with the same context share its computation. A context that does not fit beside its ending loses its
    beginning; DataError where an ending alone does not fit. About `tokens` go through the model at a time. `progress`
    is told how many endings are done; Interrupted as soon as `stop()` says so.

    Of `size` processes, `rank` takes every size-th batch, and `total` adds up everyone's results. All make equally
    many passes, where need be over nothing.
    """
    rows, cut = lay_out(pairs, gpt.config.block_size)
    tokens = tokens or batch_tokens(device)
    batches = list(_batches(rows, tokens))
    owners, found = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(2, 0, device=device)]
    was_training = gpt.training
    gpt.eval()
    try:
        done = 0
        for first in range(0, len(batches), size):
            if stop():
                raise Interrupted
            mine = batches[first + rank] if first + rank < len(batches) else [Row(np.zeros(1, dtype=np.int64), [])]
            with autocast():
                laid = _laid(mine)
                owners.append(laid.owners)
                found += _looked_up(gpt, laid, device, max(1, tokens // HEADS))
            done += sum(len(row.endings) for batch in batches[first : first + size] for row in batch)
            progress(done)
    finally:
        gpt.train(was_training)
    sums = torch.zeros(2, len(pairs), dtype=torch.float64)  # log-likelihoods; tokens that were not the likeliest
    sums.index_add_(1, torch.cat(owners), torch.cat(found, 1).cpu().double())
    nats, missed = total(sums).numpy()
    return LogLikelihoods(nats, missed == 0, cut)


def lay_out(pairs: Sequence[tuple[Ids, Ids]], block_size: int) -> tuple[list[Row], int]:
    """Rows of at most `block_size` tokens, and how many contexts lost their beginning."""
    rows: list[Row] = []
    cut = 0
    for number, (context, ending) in enumerate(pairs):
        if len(ending) > block_size:
            raise DataError(f"an ending of {len(ending)} tokens does not fit the model's context of {block_size}")
        room = block_size - len(ending) + 1
        last = rows[-1] if rows else None
        fits = last and last.length + len(ending) - 1 <= block_size
        if last and fits and np.array_equal(last.context, context):
            last.endings.append((number, ending))
        else:
            cut += len(context) > room
            rows.append(Row(context[-room:], [(number, ending)]))
    return rows, cut


def _batches(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """The longest first: what does not fit the memory shows at once."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: -row.length):
        size = batch[0].length if batch else 0
        much_padding = len(batch) * size >= ENOUGH and row.length < 0.85 * size
        if batch and ((len(batch) + 1) * size > tokens or much_padding):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class _Laid(NamedTuple):
    """A batch as tensors, and where to look for what."""

    ids: Tensor  # (B, T)
    positions: Tensor  # (B, T)
    branch: Tensor  # (B, T): 0 the context, from 1 on the endings, -1 padding
    alone: bool  # whether no row has several endings
    heads: Tensor  # (M,) places in the flattened batch where something is predicted
    which: Tensor  # for each token that is scored, in rising order, the one of them that predicts it
    targets: Tensor  # that token
    owners: Tensor  # the ending it belongs to


def _laid(rows: Sequence[Row]) -> _Laid:
    T = max(row.length for row in rows)
    ids, positions = np.zeros((len(rows), T), np.int64), np.zeros((len(rows), T), np.int64)
    branch = np.full((len(rows), T), -1)
    heads: list[int] = []
    scored: list[tuple[int, int, int]] = []
    for b, (context, endings) in enumerate(rows):
        n = at = len(context)
        ids[b, :n], positions[b, :n], branch[b, :n] = context, np.arange(n), 0
        after_context = len(heads)  # the place that predicts the first token of every ending
        heads += [b * T + n - 1] if endings else []
        scored += [(after_context, int(ending[0]), number) for number, ending in endings]
        for i, (number, ending) in enumerate(endings, 1):
            read = len(ending) - 1
            here = slice(at, at + read)
            ids[b, here], positions[b, here], branch[b, here] = ending[:-1], n + np.arange(read), i
            scored += [(len(heads) + j, int(ending[j + 1]), number) for j in range(read)]
            heads += range(b * T + at, b * T + at + read)
            at += read
    which, targets, owners = torch.tensor(scored, dtype=torch.int64).reshape(-1, 3).T.contiguous()
    alone = all(len(endings) <= 1 for _, endings in rows)  # and padding comes last, where nobody looks
    places = (torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(branch))
    return _Laid(*places, alone, torch.tensor(heads, dtype=torch.int64), which, targets, owners)


def _looked_up(gpt: GPT, laid: _Laid, device: torch.device, heads: int) -> Iterator[Tensor]:
    """Of each scored token (2, …): its log-likelihood, and whether another was likelier; `heads` places at a time."""
    ids, positions, branch = (part.to(device) for part in (laid.ids, laid.positions, laid.branch))
    x = gpt.features(ids, Causal() if laid.alone else SharedPrefix(positions, branch))  # (B, T, C)
    x = x.flatten(0, 1)[laid.heads.to(device)]  # (M, C)
    starts = torch.arange(0, len(laid.heads) + heads, heads)
    for start, (a, b) in zip(starts, pairwise(torch.searchsorted(laid.which, starts).tolist()), strict=False):
        logits = gpt.head(x[start : start + heads]).float()  # (m, P)
        here, wanted = (laid.which[a:b] - start).to(device), laid.targets[a:b].to(device)
        chosen, (best, first) = logits[here, wanted], logits.max(1, keepdim=True)  # best and its place: (m, 1) each
        missed = first[here, 0] != wanted
        norm = best[:, 0] + logits.sub_(best).exp_().sum(1).log()  # log-sum-exp, without a copy of the logits
        yield torch.stack([chosen - norm[here], missed.float()])
