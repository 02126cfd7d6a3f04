"""A step that moves nothing: whether compiler and memory can do it is known before training begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import product

import torch
from torch import nn

from groundup.distributed.process_group import ProcessGroup
from groundup.model.gpt import IGNORED
from groundup.training.micro_batches import BatchLoader
from groundup.utils.exhausted import is_out_of_memory


class DryRunStep:
    """Forward and backward passes at full size, as a step has them; gradients are none afterwards."""

    def __init__(
        self,
        feed: BatchLoader,
        autocast: Callable[[], AbstractContextManager[object]],
        process_group: ProcessGroup,
        *,
        sharded: bool = False,
        lengths: Sequence[int] = (),
    ) -> None:
        """`sharded`: the passes are meetings of all processes. `lengths`: those of the pieces that windows come in."""
        self._feed, self._autocast, self._process_group, self._sharded = feed, autocast, process_group, sharded
        self._lengths = lengths or (feed.windows.block_size,)

    def __call__(self, loss_sum: nn.Module) -> None:
        """Raises what goes wrong. Where it does in one process, the others raise a RuntimeError that says the same;
        but where they are in the middle of a meeting, the one must end, and thereby the others.
        """
        failed: Exception | None = None
        try:
            loss_sum.train()
            for (ids, targets), length in product(self._feed.trial(), self._lengths):
                with self._autocast():
                    loss = loss_sum(ids.reshape(-1, length), targets.reshape(-1, length)) / self._feed.scored
                torch.autograd.backward(loss)
        except Exception as error:  # whatever it is, the others must hear of it
            failed = error
        loss_sum.zero_grad(set_to_none=True)
        if failed and self._sharded:
            raise failed
        no_memory = isinstance(failed, RuntimeError) and is_out_of_memory(failed)
        everyone = self._process_group.all_gather_object((no_memory, str(failed)) if failed else None)
        if failed:
            raise failed
        for elsewhere in everyone:
            if elsewhere:
                raise (torch.OutOfMemoryError if elsewhere[0] else RuntimeError)(elsewhere[1])

    def once(self, loss_sum: nn.Module, *, rows: int | None = None) -> None:
        """One pass over a few `rows`, or over as many as a step has, in which nothing is scored."""
        ids, targets = next(iter(self._feed.trial()))
        with self._autocast():
            loss = loss_sum(ids[:rows], torch.full_like(targets[:rows], IGNORED))
        torch.autograd.backward(loss)
        loss_sum.zero_grad(set_to_none=True)
