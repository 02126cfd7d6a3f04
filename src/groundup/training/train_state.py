"""Training state: everything that changes during training and is saved in a checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from groundup.distributed.dtensor import distribute_like
from groundup.distributed.gather import StateTensors, state_tensors
from groundup.optim.ema import EMA
from groundup.optim.optimizer import OptimizerContainer
from groundup.optim.run_length import Progress as Progress
from groundup.training.early_stopping import BestLoss
from groundup.training.guard import LossGuard
from groundup.utils.device import reseed
from groundup.utils.hashing import mix64


@dataclass
class TrainState:
    """Weights, optimizer state, EMA, guard and progress of a run."""

    model: nn.Module
    optimizer: OptimizerContainer
    ema: EMA
    scaler: torch.amp.GradScaler
    guard: LossGuard
    micro_batch_size: int  # sequences per forward pass; halved when memory runs out
    seed: int = 0  # of dropout
    rank: int = 0
    validation_text: str | None = None  # its name; the best loss on another one is not the best on this
    progress: Progress = field(default_factory=Progress)
    best: BestLoss = field(init=False)

    def __post_init__(self) -> None:
        self._initial_scale = self.scaler.state_dict()
        self._configured_size = self.micro_batch_size
        self._device = next(self.model.parameters()).device
        self.best = BestLoss(text=self.validation_text)

    def seed_dropout(self) -> None:
        """Seed the coming step's dropout from (seed, step, rank): neither evaluations nor interruptions shift it."""
        ranks = (self.rank,) if self.rank else ()
        reseed(int(mix64(self.seed, self.progress.step, *ranks)[0]), self._device)

    def metadata(self) -> dict[str, Any]:
        """Everything but the tensors, for JSON."""
        return {
            **asdict(self.progress),
            "dt": self.progress.usual_dt,  # all that a resumed run knows of the time of a step
            "best": asdict(self.best),
            "guard": self.guard.state_dict(),
            "scaler": self.scaler.state_dict(),
            "averaged": self.ema.updates,
            "micro_batch_size": {"configured": self._configured_size, "used": self.micro_batch_size},
        }

    def load_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Take everything but the tensors, and but the EMA's count, from what `metadata()` once gave."""
        self.progress = Progress.of(metadata)
        best = BestLoss(**metadata.get("best", {}))
        self.best = best if best.text == self.validation_text else BestLoss(text=self.validation_text)
        self.guard.load_state_dict(metadata.get("guard", {}))
        if metadata.get("scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(metadata["scaler"])
        # A run that ran out of memory tries a larger micro-batch again only if its config asks for another size.
        size = metadata.get("micro_batch_size", {})
        if size.get("configured") == self._configured_size:
            self.micro_batch_size = min(self.micro_batch_size, size["used"])

    def tensors(self) -> StateTensors:
        """Weights, EMA and optimizer state by name, not copied."""
        return state_tensors(self.model, self.optimizer, self.ema.tensors())

    def discard_gradients(self) -> None:
        """Drop the gradients of a step that was broken off."""
        self.optimizer.zero_grad(set_to_none=True)

    def reset(self, initial: nn.Module) -> None:
        """Reset to the weights of `initial`; elapsed time and skipped data are kept."""
        with torch.no_grad():
            for weight, parameter in zip(initial.parameters(), self.model.parameters(), strict=True):
                parameter.copy_(distribute_like(weight, parameter))
        for values in self.optimizer.state.values():
            values.clear()
        self.ema.load(dict(initial.named_parameters()), 0)
        self.guard.load_state_dict({})
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(self._initial_scale)
        self.progress = Progress(elapsed=self.progress.elapsed, skips=self.progress.skips)
        self.best = BestLoss(text=self.validation_text)

    def skip(self, skips: list[tuple[int, int]], elapsed: float) -> None:
        """After a rollback: leave out these ranges of sequences; `elapsed` seconds have passed."""
        self.progress.skips, self.progress.elapsed = skips, elapsed
        self.progress.advance(0)
