"""Tensors of which each process of a job holds a part: torch's DTensor, as FSDP2 makes of a model's parameters."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Where it is in parts, every process must ask for it at the same time."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor on the device of `model`, and in parts where that one is; every process must have all of it."""
    tensor = tensor.to(model.device)
    if not isinstance(model, DTensor):
        return tensor
    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)


def dealt(stack: Tensor) -> Tensor:
    """(k, …) tensors, of each of which a process holds a part, dealt out so that it holds some of them whole."""
    if not isinstance(stack, DTensor):
        return stack
    if stack.device.type == "cpu":  # gloo has no all-to-all, and torch would say so in a warning
        stack = stack.redistribute(placements=[Replicate()])
    return stack.redistribute(placements=[Shard(0)])


def split_as(stack: Tensor, before: Tensor) -> Tensor:
    """Tensors that were dealt out, in the parts in which `before` is."""
    if not isinstance(before, DTensor):
        return stack
    assert isinstance(stack, DTensor), "made of it"
    if stack.device.type == "cpu":
        stack = stack.redistribute(placements=[Replicate()])
    return stack.redistribute(placements=before.placements)
