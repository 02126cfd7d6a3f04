"""One model on several processes, over a finished model that knows nothing of it.

The order is always the same: activation checkpointing (`recompute.py`) inside, around it the compiler
(`compiling.py`), around that FSDP2 or DDP. Gradients are added up, not averaged, as losses are: `fit` divides by the
scored targets of the whole step. Between the micro-batches of a step nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.distributed.dtensor import full_tensor
from groundup.distributed.process_group import ProcessGroup

Kind = Literal["auto", "ddp", "fsdp"]  # auto: settled before, or of no account


class Parallel(Protocol):
    """How the gradients of several processes meet, and what a process holds of the model."""

    sharded: bool  # whether a process holds only its part of each tensor
    blocks: Sequence[nn.Module]  # what is to be compiled one by one, where the model cannot be as a whole

    def wrap(self, loss_sum: nn.Module, pass_once: Callable[[nn.Module], None]) -> nn.Module:
        """The last wrapping, around what may have been compiled: what the loop trains.

        `pass_once` goes forward and backward over something that is not scored.
        """
        ...

    def grad_sync(self, last: bool) -> AbstractContextManager[None]:
        """Around each micro-batch's forward and backward pass: only those of the `last` let gradients meet."""
        ...

    def reduce_metrics(self, loss: Tensor, norm: Tensor) -> tuple[float, float]:
        """Everyone's losses added up, and the norm of all gradients, the same for all."""
        ...

    def unsharded(self) -> AbstractContextManager[None]:
        """While entered, the model can be called by its parts, not only as `loss_sum`; all processes must enter."""
        ...


class NoParallel:
    """One process: nothing to do."""

    sharded = False
    blocks: Sequence[nn.Module] = ()

    def wrap(self, loss_sum: nn.Module, pass_once: Callable[[nn.Module], None]) -> nn.Module:
        """As it is."""
        return loss_sum

    def grad_sync(self, last: bool) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def reduce_metrics(self, loss: Tensor, norm: Tensor) -> tuple[float, float]:
        """The two numbers."""
        found = torch.stack([loss.float(), norm.float()]).tolist()  # one wait for the device, not two
        return found[0], found[1]

    def unsharded(self) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()


class MultiProcess(NoParallel):
    """What DDP and FSDP2 have in common."""

    def __init__(self, process_group: ProcessGroup) -> None:
        self.process_group = process_group

    def reduce_metrics(self, loss: Tensor, norm: Tensor) -> tuple[float, float]:
        """All losses added up, and the first norm: others may round otherwise, but all must judge alike."""
        if loss.device.type != "cpu":
            self.process_group.any(
                False
            )  # over gloo, which knows at once where another process is gone; NCCL would wait
        norm = full_tensor(norm)
        mine = torch.zeros_like(norm) if self.process_group.rank else norm
        both = self.process_group.all_reduce(torch.stack([loss.double(), mine.double()]))
        return both[0].item(), both[1].item()


class DDP(MultiProcess):
    """DistributedDataParallel (arXiv:2006.15704): everyone has the whole model, and gradients are added up."""

    def __init__(self, process_group: ProcessGroup, device: torch.device) -> None:
        super().__init__(process_group)
        self._device = device
        self._net: nn.parallel.DistributedDataParallel | None = None

    def wrap(self, loss_sum: nn.Module, pass_once: Callable[[nn.Module], None]) -> nn.Module:
        """Wrapped, so that gradients meet while the backward pass goes on; those of a compiled whole, at its end.

        After its first pass DDP sorts the gradients into other buckets, and sums of three and more are then other sums.
        So that a resumed run adds as an untouched one does, that pass is not one that counts.
        """
        devices = [self._device] if self._device.type == "cuda" else None
        # The weights are equal already (`broadcast_parameters`); buffers there are none.
        self._net = nn.parallel.DistributedDataParallel(
            loss_sum, device_ids=devices, init_sync=False, gradient_as_bucket_view=True
        )
        self._net.register_comm_hook(None, lambda _, bucket: _added_up(bucket))
        pass_once(self._net)
        return self._net

    def grad_sync(self, last: bool) -> AbstractContextManager[None]:
        """Gradients stay here until the last micro-batch."""
        assert self._net is not None, "finished"
        return nullcontext() if last else self._net.no_sync()


class FSDP(MultiProcess):
    """FSDP2 (ZeRO-3, arXiv:1910.02054; arXiv:2304.11277): everyone has a part of each weight, gradient and moment.

    A block's weights are gathered when its turn comes, forward and backward, and let go again.
    """

    sharded = True

    def __init__(self, process_group: ProcessGroup, loss_sum: nn.Module, device: torch.device) -> None:
        """Shards the parameters of `loss_sum` in place: build the optimizer afterwards."""
        from torch.distributed.device_mesh import init_device_mesh  # half a second, and seldom needed
        from torch.distributed.fsdp import FSDPModule, fully_shard

        super().__init__(process_group)
        mesh = init_device_mesh(device.type, (process_group.size,))
        stacks = [part for part in loss_sum.modules() if isinstance(part, nn.ModuleList)]
        self.blocks = [block for stack in stacks for block in stack]
        for block in self.blocks:
            fully_shard(block, mesh=mesh)
        # Embeddings, norms and head go with the root, that tied ones stay one. It too lets go after a forward pass:
        # one without a backward pass would leave the root's weights whole, and blind to what is done to their parts.
        self._root = fully_shard(loss_sum, mesh=mesh, reshard_after_forward=True)
        for part in loss_sum.modules():
            if isinstance(part, FSDPModule):
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)
        for wrapped in (self._root, *self.blocks):  # first made whole in an evaluation, weights could never learn
            assert isinstance(wrapped, FSDPModule), "sharded"
            wrapped.unshard()
            wrapped.reshard()

    def grad_sync(self, last: bool) -> AbstractContextManager[None]:
        """Gradients stay here, whole, until the last micro-batch."""
        self._root.set_requires_gradient_sync(last)
        return nullcontext()

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """The root's own parameters are there for whoever calls the model's parts; blocks gather theirs themselves."""
        self._root.unshard()
        try:
            yield
        finally:
            self._root.reshard()


def parallel(kind: Kind, process_group: ProcessGroup, loss_sum: nn.Module, device: torch.device) -> Parallel:
    """`loss_sum` made ready to be trained by all processes of `world`; all begin with the first one's weights."""
    if process_group.size == 1:
        return NoParallel()
    broadcast_parameters(process_group, loss_sum)
    return FSDP(process_group, loss_sum, device) if kind == "fsdp" else DDP(process_group, device)


@torch.no_grad()
def broadcast_parameters(process_group: ProcessGroup, model: nn.Module) -> None:
    """Give everyone the first process's weights: other processors may have drawn others, in the last bit."""
    for parameter in model.parameters():
        process_group.broadcast(parameter)


def _added_up(bucket: dist.GradBucket) -> torch.futures.Future[Any]:  # type: ignore[name-defined]
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None, "asynchronous"
    return work.get_future().then(lambda future: future.value()[0])
