"""One model on several processes, over a finished model that knows nothing of it.

The order is always the same: activation checkpointing (`recompute.py`) inside, around it the compiler
(`compiling.py`), around that FSDP2 or DDP. Gradients are added up, not averaged, as losses are: `fit` divides by the
scored targets of the whole step. Between the micro-batches of a step nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.optim.sharded import whole
from groundup.training.world import World

Kind = Literal["auto", "ddp", "fsdp"]  # auto: settled before, or of no account


class Parallel(Protocol):
    """How the gradients of several processes meet, and what a process holds of the model."""

    sharded: bool  # whether a process holds only its part of each tensor
    blocks: Sequence[nn.Module]  # what is to be compiled one by one, where the model cannot be as a whole

    def finish(self, loss_sum: nn.Module) -> nn.Module:
        """The last wrapping, around what may have been compiled: what the loop trains."""
        ...

    def reducing(self, last: bool) -> AbstractContextManager[None]:
        """Around each micro-batch's forward and backward pass: only those of the `last` let gradients meet."""
        ...

    def total(self, value: Tensor) -> float:
        """Everyone's numbers added up."""
        ...

    def norm(self, value: Tensor) -> float:
        """A norm over all gradients, of which a process may hold only a part."""
        ...

    def gathered(self) -> AbstractContextManager[None]:
        """While entered, the model can be called by its parts, not only as `loss_sum`; all processes must enter."""
        ...


class Single:
    """One process: nothing to do."""

    sharded = False
    blocks: Sequence[nn.Module] = ()

    def finish(self, loss_sum: nn.Module) -> nn.Module:
        """As it is."""
        return loss_sum

    def reducing(self, last: bool) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def total(self, value: Tensor) -> float:
        """The number."""
        return value.item()

    def norm(self, value: Tensor) -> float:
        """The number."""
        return value.item()

    def gathered(self) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()


class Replicated(Single):
    """DistributedDataParallel (arXiv:2006.15704): everyone has the whole model, and gradients are added up."""

    def __init__(self, world: World, device: torch.device) -> None:
        self._world, self._device = world, device
        self._net: nn.parallel.DistributedDataParallel | None = None

    def finish(self, loss_sum: nn.Module) -> nn.Module:
        """Wrapped, so that gradients meet while the backward pass goes on."""
        devices = [self._device] if self._device.type == "cuda" else None
        # The weights are equal already (`equalise`); buffers there are none.
        self._net = nn.parallel.DistributedDataParallel(
            loss_sum, device_ids=devices, init_sync=False, gradient_as_bucket_view=True
        )
        self._net.register_comm_hook(None, lambda _, bucket: _added_up(bucket))
        return self._net

    def reducing(self, last: bool) -> AbstractContextManager[None]:
        """Gradients stay here until the last micro-batch."""
        assert self._net is not None, "finished"
        return nullcontext() if last else self._net.no_sync()

    def total(self, value: Tensor) -> float:
        """Everyone's numbers added up."""
        return self._world.sum(value).item()


class Sharded(Single):
    """FSDP2 (ZeRO-3, arXiv:1910.02054; arXiv:2304.11277): everyone has a part of each weight, gradient and moment.

    A block's weights are gathered when its turn comes, forward and backward, and let go again.
    """

    sharded = True

    def __init__(self, world: World, loss_sum: nn.Module, device: torch.device) -> None:
        """Shards the parameters of `loss_sum` in place: build the optimizer afterwards."""
        from torch.distributed.device_mesh import init_device_mesh  # half a second, and seldom needed
        from torch.distributed.fsdp import FSDPModule, fully_shard

        self._world, mesh = world, init_device_mesh(device.type, (world.size,))
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

    def reducing(self, last: bool) -> AbstractContextManager[None]:
        """Gradients stay here, whole, until the last micro-batch."""
        self._root.set_requires_gradient_sync(last)
        return nullcontext()

    def total(self, value: Tensor) -> float:
        """Everyone's numbers added up."""
        return self._world.sum(value).item()

    def norm(self, value: Tensor) -> float:
        """Over the parts of all."""
        return whole(value).item()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """The root's own parameters are there for whoever calls the model's parts; blocks gather theirs themselves."""
        self._root.unshard()
        try:
            yield
        finally:
            self._root.reshard()


def parallel(kind: Kind, world: World, loss_sum: nn.Module, device: torch.device) -> Parallel:
    """`loss_sum` made ready to be trained by all processes of `world`; all begin with the first one's weights."""
    if world.size == 1:
        return Single()
    equalise(world, loss_sum)
    return Sharded(world, loss_sum, device) if kind == "fsdp" else Replicated(world, device)


@torch.no_grad()
def equalise(world: World, model: nn.Module) -> None:
    """Give everyone the first process's weights: other processors may have drawn others, in the last bit."""
    for parameter in model.parameters():
        world.broadcast(parameter)


def _added_up(bucket: dist.GradBucket) -> torch.futures.Future[Any]:  # type: ignore[name-defined]
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None, "asynchronous"
    return work.get_future().then(lambda future: future.value()[0])
