"""Log-likelihoods of endings after prompts, each prompt computed once.

Endings that share a prompt follow it in one row, and attention keeps them apart (`model.context.SharedPrefix`). Rows of
similar length go through the model together, and the output head, a third of GPT-2's arithmetic, is computed only at
positions that predict a token of an ending.

Letters: B rows, T tokens of the longest row, C width, P padded vocabulary, N endings, M positions with logits.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from groundup.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from groundup.errors import DataError
from groundup.evaluation.loss import Interrupted
from groundup.evaluation.multiple_choice import Ids
from groundup.model.context import Causal, SharedPrefix
from groundup.model.gpt import GPT

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2048, 32_768  # padding included
FULL_BATCH_TOKENS = 256  # tokens in a batch from which on padding costs more than a smaller batch would
MIN_FILL = 0.85  # length of a full batch's shortest row divided by that of its longest
LOGITS_SPLIT = 8  # logits are computed for an eighth of the batch's tokens at a time: GPT-2's are then 100 MB


def default_batch_tokens(device: torch.device) -> int:
    """Tokens per forward pass on `device` unless configured."""
    return CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS


class Row(NamedTuple):
    """A prompt, and the endings that share it."""

    prompt: Ids
    endings: list[tuple[int, Ids]]  # index among all endings, ids

    @property
    def length(self) -> int:
        """Tokens that go through the model; the last one of an ending is predicted and never read."""
        return len(self.prompt) + sum(len(ending) - 1 for _, ending in self.endings)


class LogLikelihoods(NamedTuple):
    """Results for N endings."""

    nats: npt.NDArray[np.float64]  # (N,) log-likelihood of each ending
    greedy: npt.NDArray[np.bool_]  # (N,) whether every token of the ending was the most likely one
    truncated: int  # prompts that lost their beginning


@torch.inference_mode()
def log_likelihoods(
    gpt: GPT,
    pairs: Sequence[tuple[Ids, Ids]],
    *,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]],
    process_group: ProcessGroup = SINGLE_PROCESS,
    tokens: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LogLikelihoods:
    """log p(ending | prompt) for each pair of prompt and ending, neither of them empty.

    Adjacent pairs with the same prompt share its computation. A prompt too long to fit with its ending loses its
    beginning; DataError if an ending alone does not fit. About `tokens` go through the model at a time. `progress`
    receives the numbers of endings done and in all; Interrupted is raised once `stop()` is true.

    Each rank of `process_group` takes every size-th batch, and the results are all-reduced. All ranks make equally many
    forward passes, if need be over padding alone.
    """
    rank, size = process_group.rank, process_group.size
    rows, truncated = pack_rows(pairs, gpt.config.block_size)
    tokens = tokens or default_batch_tokens(device)
    batches = list(_batches(rows, tokens))
    endings, found = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(2, 0, device=device)]
    was_training = gpt.training
    gpt.eval()
    try:
        done = 0
        for first in range(0, len(batches), size):
            if stop():
                raise Interrupted
            mine = batches[first + rank] if first + rank < len(batches) else [Row(np.zeros(1, dtype=np.int64), [])]
            with autocast():
                batch = _collate(mine)
                endings.append(batch.endings)
                found += _score(gpt, batch, device, max(1, tokens // LOGITS_SPLIT))
            done += sum(len(row.endings) for batch in batches[first : first + size] for row in batch)
            progress(done, len(pairs))
    finally:
        gpt.train(was_training)
    sums = torch.zeros(2, len(pairs), dtype=torch.float64)  # log-likelihoods; tokens that were not the most likely
    sums.index_add_(1, torch.cat(endings), torch.cat(found, 1).cpu().double())
    nats, missed = process_group.all_reduce(sums).numpy()
    return LogLikelihoods(nats, missed == 0, truncated)


def pack_rows(pairs: Sequence[tuple[Ids, Ids]], block_size: int) -> tuple[list[Row], int]:
    """Rows of at most `block_size` tokens, and how many prompts lost their beginning."""
    rows: list[Row] = []
    truncated = 0
    for number, (prompt, ending) in enumerate(pairs):
        if len(ending) > block_size:
            raise DataError(f"an ending of {len(ending)} tokens does not fit the model's context of {block_size}")
        room = block_size - len(ending) + 1
        last = rows[-1] if rows else None
        fits = last and last.length + len(ending) - 1 <= block_size
        if last and fits and np.array_equal(last.prompt, prompt):
            last.endings.append((number, ending))
        else:
            truncated += len(prompt) > room
            rows.append(Row(prompt[-room:], [(number, ending)]))
    return rows, truncated


def _batches(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Batches of about `tokens`, the longest rows first: lack of memory shows at once."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: -row.length):
        size = batch[0].length if batch else 0
        much_padding = len(batch) * size >= FULL_BATCH_TOKENS and row.length < MIN_FILL * size
        if batch and ((len(batch) + 1) * size > tokens or much_padding):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class _Batch(NamedTuple):
    """Rows as tensors, and the positions that predict the scored tokens."""

    ids: Tensor  # (B, T)
    positions: Tensor  # (B, T)
    branch: Tensor  # (B, T): 0 prompt, from 1 on endings, -1 padding
    branches: bool  # whether any row has several endings
    predictors: Tensor  # (M,) positions in the flattened batch that need logits
    which: Tensor  # per scored token, in rising order: the index of its predictor
    targets: Tensor  # per scored token: its id
    endings: Tensor  # per scored token: the index of its ending


def _collate(rows: Sequence[Row]) -> _Batch:
    T = max(row.length for row in rows)
    ids, positions = np.zeros((len(rows), T), np.int64), np.zeros((len(rows), T), np.int64)
    branch = np.full((len(rows), T), -1)
    predictors: list[int] = []
    scored: list[tuple[int, int, int]] = []
    for b, (prompt, endings) in enumerate(rows):
        n = at = len(prompt)
        ids[b, :n], positions[b, :n], branch[b, :n] = prompt, np.arange(n), 0
        after_prompt = len(predictors)  # predicts the first token of every ending
        predictors += [b * T + n - 1] if endings else []
        scored += [(after_prompt, int(ending[0]), number) for number, ending in endings]
        for i, (number, ending) in enumerate(endings, 1):
            read = len(ending) - 1
            here = slice(at, at + read)
            ids[b, here], positions[b, here], branch[b, here] = ending[:-1], n + np.arange(read), i
            scored += [(len(predictors) + j, int(ending[j + 1]), number) for j in range(read)]
            predictors += range(b * T + at, b * T + at + read)
            at += read
    which, targets, owners = torch.tensor(scored, dtype=torch.int64).reshape(-1, 3).T.contiguous()
    branches = any(len(endings) > 1 for _, endings in rows)  # otherwise causal attention will do: padding comes last
    inputs = (torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(branch))
    return _Batch(*inputs, branches, torch.tensor(predictors, dtype=torch.int64), which, targets, owners)


def _score(gpt: GPT, batch: _Batch, device: torch.device, chunk: int) -> Iterator[Tensor]:
    """(2, …): log-likelihood of each scored token, and whether another was more likely; `chunk` positions at a time."""
    ids, positions, branch = (part.to(device) for part in (batch.ids, batch.positions, batch.branch))
    x = gpt.features(ids, SharedPrefix(positions, branch) if batch.branches else Causal())  # (B, T, C)
    x = x.flatten(0, 1)[batch.predictors.to(device)]  # (M, C)
    starts = torch.arange(0, len(batch.predictors) + chunk, chunk)
    for start, (a, b) in zip(starts, pairwise(torch.searchsorted(batch.which, starts).tolist()), strict=False):
        logits = gpt.head(x[start : start + chunk]).float()  # (m, P)
        here, wanted = (batch.which[a:b] - start).to(device), batch.targets[a:b].to(device)
        chosen, (best, first) = logits[here, wanted], logits.max(1, keepdim=True)  # best and its index: (m, 1) each
        missed = first[here, 0] != wanted
        norm = best[:, 0] + logits.sub_(best).exp_().sum(1).log()  # log-sum-exp, without a copy of the logits
        yield torch.stack([chosen - norm[here], missed.float()])
