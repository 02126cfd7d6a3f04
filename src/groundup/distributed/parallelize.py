"""Parallelism for a finished model, which knows nothing of it: activation checkpointing, threads, DDP, FSDP2.

Gradients are summed over processes, not averaged, as losses are: `fit` divides by the scored targets of the whole
global step. Between the micro-batches of a step nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from groundup.distributed.activation_checkpointing import apply_activation_checkpointing
from groundup.distributed.dtensor import full_tensor
from groundup.distributed.process_group import ProcessGroup
from groundup.distributed.thread_parallel import thread_parallel


def parallelize(
    model: nn.Module,
    loss_sum: nn.Module,
    *,
    checkpointing: str,
    mode: Literal["none", "ddp", "fsdp"],
    microbatch_threads: int,
    process_group: ProcessGroup,
    device: torch.device,
) -> tuple[nn.Module, NoParallel]:
    """Prepare `model`, and the `loss_sum` around it, to be trained by all processes; build the optimizer afterwards.

    Returns the loss to train and evaluate with, and the parallelism that `fit` is given. The order is always this one:
    """
    # 1. The backward pass recomputes parts of each block.
    apply_activation_checkpointing(model, checkpointing)
    # 2. All ranks start with rank 0's weights; FSDP2 shards them in place.
    parallel = NoParallel()
    if process_group.size > 1:
        broadcast_parameters(process_group, loss_sum)
        parallel = FSDP(process_group, loss_sum, device) if mode == "fsdp" else DDP(process_group, device)
    # 3. On a CPU, threads share a micro-batch.
    loss = thread_parallel(loss_sum, microbatch_threads)
    # 4. When training starts, since it runs the model: torch.compile (compile.py), of the whole or, under FSDP2, of
    #    each block. 5. Around what was compiled: DDP (`parallel.wrap`).
    return loss, parallel


class NoParallel:
    """Training in one process; the base of DDP and FSDP."""

    sharded = False  # whether each process holds only its part of every tensor
    blocks: Sequence[nn.Module] = ()  # to be compiled one by one, where the model cannot be compiled as a whole

    def wrap(self, loss_sum: nn.Module, pass_once: Callable[[nn.Module], None]) -> nn.Module:
        """The outermost wrapper, around what may have been compiled. No-op for one process.

        `pass_once` runs a forward and backward pass in which nothing is scored.
        """
        return loss_sum

    def grad_sync(self, last: bool) -> AbstractContextManager[None]:
        """Context of a micro-batch's forward and backward pass: only after the `last` are gradients reduced."""
        return nullcontext()

    def reduce_metrics(self, loss: Tensor, norm: Tensor) -> tuple[float, float]:
        """All-reduced loss and the global gradient norm; identical on all ranks."""
        values = torch.stack([loss.float(), norm.float()]).tolist()  # one synchronisation with the device, not two
        return values[0], values[1]

    def unsharded(self) -> AbstractContextManager[None]:
        """While entered, the model can be called by its parts, not only as `loss_sum`; all processes must enter."""
        return nullcontext()


class MultiProcess(NoParallel):
    """Reduction of metrics that DDP and FSDP share."""

    def __init__(self, process_group: ProcessGroup) -> None:
        self.process_group = process_group

    @override
    def reduce_metrics(self, loss: Tensor, norm: Tensor) -> tuple[float, float]:
        # Rank 0's norm for all: others may round otherwise, but all guards must decide alike.
        if loss.device.type != "cpu":
            self.process_group.any(False)  # gloo notices a lost process at once, where NCCL would wait
        norm = full_tensor(norm)
        mine = torch.zeros_like(norm) if self.process_group.rank else norm
        both = self.process_group.all_reduce(torch.stack([loss.double(), mine.double()]))
        return both[0].item(), both[1].item()


class DDP(MultiProcess):
    """DistributedDataParallel (arXiv:2006.15704): every process has the complete model, and gradients are summed."""

    def __init__(self, process_group: ProcessGroup, device: torch.device) -> None:
        super().__init__(process_group)
        self._device = device
        self._net: nn.parallel.DistributedDataParallel | None = None

    @override
    def wrap(self, loss_sum: nn.Module, pass_once: Callable[[nn.Module], None]) -> nn.Module:
        # Gradients are reduced while the backward pass runs; those of a compiled whole, at its end. After its first
        # pass DDP reorders the gradient buckets, and sums of three and more change in the last bit. So that a resumed
        # run adds as an uninterrupted one does, that pass is not a training step.
        devices = [self._device] if self._device.type == "cuda" else None
        # The weights are equal already (`broadcast_parameters`), and there are no buffers.
        self._net = nn.parallel.DistributedDataParallel(
            loss_sum, device_ids=devices, init_sync=False, gradient_as_bucket_view=True
        )
        self._net.register_comm_hook(None, lambda _, bucket: _sum_bucket(bucket))
        pass_once(self._net)
        return self._net

    @override
    def grad_sync(self, last: bool) -> AbstractContextManager[None]:
        assert self._net is not None, "wrapped before training"
        return nullcontext() if last else self._net.no_sync()


class FSDP(MultiProcess):
    """FSDP2 (ZeRO-3, arXiv:1910.02054; arXiv:2304.11277): weights, gradients and optimizer state are sharded.

    A block's weights are gathered for its forward and backward pass, and freed afterwards.
    """

    sharded = True

    def __init__(self, process_group: ProcessGroup, loss_sum: nn.Module, device: torch.device) -> None:
        """Shards the parameters of `loss_sum` in place: build the optimizer afterwards."""
        from torch.distributed.device_mesh import init_device_mesh  # takes half a second, seldom needed
        from torch.distributed.fsdp import FSDPModule, fully_shard

        super().__init__(process_group)
        mesh = init_device_mesh(device.type, (process_group.size,))
        stacks = [part for part in loss_sum.modules() if isinstance(part, nn.ModuleList)]
        self.blocks = [block for stack in stacks for block in stack]
        for block in self.blocks:
            fully_shard(block, mesh=mesh)
        # Embeddings, norms and head belong to the root, so that tied ones stay one. It too reshards after a forward
        # pass: one without a backward pass would leave gathered weights that do not follow changes of the shards.
        self._root = fully_shard(loss_sum, mesh=mesh, reshard_after_forward=True)
        for part in loss_sum.modules():
            if isinstance(part, FSDPModule):
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)
        for wrapped in (self._root, *self.blocks):  # gathered first without gradients, weights could never train
            assert isinstance(wrapped, FSDPModule), "sharded"
            wrapped.unshard()
            wrapped.reshard()

    @override
    def grad_sync(self, last: bool) -> AbstractContextManager[None]:
        self._root.set_requires_gradient_sync(last)
        return nullcontext()

    @override
    @contextmanager
    def unsharded(self) -> Iterator[None]:
        # The root's own parameters are gathered; blocks gather theirs themselves.
        self._root.unshard()
        try:
            yield
        finally:
            self._root.reshard()


@torch.no_grad()
def broadcast_parameters(process_group: ProcessGroup, model: nn.Module) -> None:
    """Copy rank 0's weights to all ranks: other processors may have drawn others, in the last bit."""
    for parameter in model.parameters():
        process_group.broadcast(parameter)


def _sum_bucket(bucket: dist.GradBucket) -> torch.futures.Future[Any]:  # type: ignore[name-defined]
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None, "asynchronous"
    return work.get_future().then(lambda future: future.value()[0])
