"""Tensors of which each process of a job holds a part: torch's DTensor, as FSDP2 makes of a model's parameters."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:  # a second to import, which one process alone does without
    from torch.distributed.tensor import DTensor


def in_parts(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether each process holds a part of it; none does before somebody has imported DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor. Where it is in parts, every process must ask for it at the same time."""
    return tensor.full_tensor() if in_parts(tensor) else tensor


def distribute_like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor on the device of `model`, and in parts where that one is; every process must have all of it."""
    tensor = tensor.to(model.device)
    if not in_parts(model):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)


def to_matrix_shards(stack: Tensor) -> Tensor:
    """(k, …) tensors, of each of which a process holds a part, dealt out so that it holds some of them whole."""
    if not in_parts(stack):
        return stack
    from torch.distributed.tensor import Replicate, Shard

    if stack.device.type == "cpu":  # gloo has no all-to-all, and torch would say so in a warning
        stack = stack.redistribute(placements=[Replicate()])
    return stack.redistribute(placements=[Shard(0)])


def to_layout_of(stack: Tensor, before: Tensor) -> Tensor:
    """Tensors that were dealt out, in the parts in which `before` is."""
    if not in_parts(before):
        return stack
    from torch.distributed.tensor import Replicate

    assert in_parts(stack), "made of it"
    if stack.device.type == "cpu":
        stack = stack.redistribute(placements=[Replicate()])
    return stack.redistribute(placements=before.placements)
