"""Sharded tensors: torch's DTensor, which FSDP2 makes of parameters, gradients and optimizer state."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:  # takes a second to import, and a single process does not need it
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether each rank holds a shard of it; there are none before DTensor is imported."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """The complete tensor; if it is sharded, all ranks must call this together."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor; any other as it is."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def distribute_like(tensor: Tensor, model: Tensor) -> Tensor:
    """`tensor` on the device of `model` and sharded like it; every rank must have the complete tensor."""
    tensor = tensor.to(model.device)
    if not is_sharded(model):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)


def to_matrix_shards(stack: Tensor) -> Tensor:
    """Redistribute a stack of k sharded tensors, (k, …), so that each rank holds some of them complete."""
    if not is_sharded(stack):
        return stack
    from torch.distributed.tensor import Replicate, Shard

    if stack.device.type == "cpu":  # gloo has no all-to-all, about which torch would warn
        stack = stack.redistribute(placements=[Replicate()])
    return stack.redistribute(placements=[Shard(0)])


def to_layout_of(stack: Tensor, like: Tensor) -> Tensor:
    """Redistribute a stack of tensors to the layout of `like`."""
    if not is_sharded(like):
        return stack
    from torch.distributed.tensor import Replicate

    assert is_sharded(stack), "computed from the same stack"
    if stack.device.type == "cpu":
        stack = stack.redistribute(placements=[Replicate()])
    return stack.redistribute(placements=like.placements)
