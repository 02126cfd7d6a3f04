"""A step without an update: shows before training starts whether the compiler works and memory suffices."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import product

import torch
from torch import nn

from groundup.distributed.process_group import ProcessGroup
from groundup.model.gpt import IGNORED
from groundup.training.micro_batches import BatchLoader, split_sequences
from groundup.utils.device import is_out_of_memory


class DryRunStep:
    """Forward and backward passes of a step's size; no gradients are left."""

    def __init__(
        self,
        loader: BatchLoader,
        autocast: Callable[[], AbstractContextManager[object]],
        process_group: ProcessGroup,
        *,
        sharded: bool = False,
        lengths: Sequence[int] = (),
    ) -> None:
        """`sharded`: the passes are collectives of all processes. `lengths`: those that sequences have in the run."""
        self._loader, self._autocast = loader, autocast
        self._process_group, self._sharded = process_group, sharded
        self._lengths = lengths or (loader.sequences.block_size,)

    def __call__(self, loss_sum: nn.Module, micro_batch_size: int) -> None:
        """Run the passes; raises what fails.

        Where one process fails, the others raise a RuntimeError with its message; but inside a collective the one that
        fails ends, and the others with it.
        """
        failure: Exception | None = None
        try:
            loss_sum.train()
            for (ids, targets), length in product(self._loader.largest(micro_batch_size), self._lengths):
                with self._autocast():
                    loss = loss_sum(*split_sequences(ids, targets, length)) / self._loader.scored
                torch.autograd.backward(loss)
        except Exception as error:  # the other processes must learn of any
            failure = error
        loss_sum.zero_grad(set_to_none=True)
        if failure and self._sharded:
            raise failure
        no_memory = isinstance(failure, RuntimeError) and is_out_of_memory(failure)
        failures = self._process_group.all_gather_object((no_memory, str(failure)) if failure else None)
        if failure:
            raise failure
        for elsewhere in failures:
            if elsewhere:
                raise (torch.OutOfMemoryError if elsewhere[0] else RuntimeError)(elsewhere[1])

    def unscored_pass(self, loss_sum: nn.Module, sequences: int) -> None:
        """One pass over at most so many sequences in which no target is scored."""
        ids, targets = next(iter(self._loader.largest(sequences)))
        with self._autocast():
            loss = loss_sum(ids, torch.full_like(targets, IGNORED))
        torch.autograd.backward(loss)
        loss_sum.zero_grad(set_to_none=True)
