"""Gathering of a training state's tensors from all ranks, for a checkpoint."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from groundup.distributed.dtensor import full_tensor


class StateTensors(NamedTuple):
    """Tensors of a training state by name; with FSDP2, each rank's shards of them."""

    model: dict[str, Tensor]
    ema: dict[str, Tensor]  # empty where none is kept
    optimizer: dict[str, Tensor]  # `parameter|key`


class Stateful(Protocol):
    """An optimizer, as far as its state goes."""

    @property
    def state(self) -> Mapping[Tensor, dict[str, Any]]:
        """Each parameter's state, to be read and written in place."""


def state_tensors(model: nn.Module, optimizer: Stateful, ema: Mapping[str, Tensor] | None = None) -> StateTensors:
    """Weights, EMA and optimizer state by name, not copied; a tied weight once."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    values = {
        f"{names[parameter]}|{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    return StateTensors({name: parameter.detach() for parameter, name in names.items()}, dict(ema or {}), values)


@torch.no_grad()
def gather(tensors: StateTensors, *, keep: bool, copy: bool, reuse: StateTensors | None = None) -> StateTensors:
    """The complete tensors of a state. All ranks must call it; those without `keep` get none.

    With `copy` they are copied to main memory, so that training may continue while they are written. The memory of an
    earlier copy can be given as `reuse`: touching a gigabyte for the first time takes about a second.
    """
    gathered = StateTensors({}, {}, {})
    for part, targets, result in zip(tensors, reuse or gathered, gathered, strict=True):
        for name, shard in part.items():
            tensor = full_tensor(shard)
            if keep:
                result[name] = _copied(tensor, targets.get(name)) if copy else tensor
    return gathered


def _copied(tensor: Tensor, target: Tensor | None) -> Tensor:
    fits = target is not None and target.shape == tensor.shape and target.dtype == tensor.dtype
    return target.copy_(tensor) if target is not None and fits else tensor.to("cpu", copy=True)
