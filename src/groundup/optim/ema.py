"""Exponential moving average of the weights: smoother than the weights themselves, and often better."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from typing_extensions import override

from groundup.distributed.dtensor import distribute_like
from groundup.errors import CheckpointError


class EMA:
    """Exponential moving average of a model's parameters, in fp32; a tied weight is kept once.

    Update n (from 1) moves it by 1 - min(decay, (1 + n) / (10 + n)) towards the weights, so that the initial weights
    fade soon: the `num_updates` rule of TensorFlow's `tf.train.ExponentialMovingAverage`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._weights = dict(model.named_parameters())
        self._averages = {name: _fp32(p).clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the weights of the step just made."""
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, weights = list(self._averages.values()), [_fp32(p) for p in self._weights.values()]
        torch._foreach_lerp_(averages, weights, 1.0 - keep)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """While entered, the model computes with the averages; afterwards its weights are restored, bit for bit.

        Changes to the weights in between are lost.
        """
        weights = {name: p.detach().clone() for name, p in self._weights.items()}
        try:
            self._put(self._averages)
            yield
        finally:
            self._put(weights)

    def tensors(self) -> dict[str, Tensor]:
        """The averages by the names of their parameters, not copied."""
        return dict(self._averages)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Continue from averages that `tensors` returned, after `updates`; CheckpointError for another model's."""
        for name in sorted(tensors.keys() ^ self._averages.keys()):
            where = "the checkpoint's averages" if name in self._averages else "the model"
            raise CheckpointError(f"{name}: missing from {where}; averages and config do not belong together")
        for name, average in self._averages.items():
            tensor = tensors[name]
            if tensor.shape != average.shape:
                raise CheckpointError(
                    f"{name}: its average is {list(tensor.shape)}, the model's weight {list(average.shape)}; "
                    "averages and config do not belong together"
                )
            average.copy_(distribute_like(tensor, average))
        self.updates = updates

    @torch.no_grad()
    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        for name, p in self._weights.items():
            p.copy_(tensors[name])


class NoEMA(EMA):
    """No-op: an average of no weights."""

    def __init__(self) -> None:
        super().__init__(nn.Module(), decay=0.0)

    @override
    def update(self) -> None:
        pass

    @override
    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        pass


def _fp32(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().float()
