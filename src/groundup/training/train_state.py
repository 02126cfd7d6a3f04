"""All of a run that moves while it trains, and that a checkpoint therefore holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from groundup.checkpoint import state
from groundup.config.schema import Config
from groundup.distributed.dtensor import distribute_like
from groundup.distributed.process_group import BroadcastTensors, ProcessGroup, SingleProcess
from groundup.errors import CheckpointError
from groundup.model.gpt import GPT
from groundup.optim.ema import EMA, NoEMA
from groundup.optim.optimizer import OptimizerContainer, build_optimizer
from groundup.training.early_stopping import BestLoss
from groundup.training.guard import LossGuard
from groundup.training.loop import Progress


@dataclass
class TrainState:
    """Weights, moments, their average, and the books beside them."""

    gpt: GPT
    optimizer: OptimizerContainer
    average: EMA | NoEMA
    scaler: torch.amp.GradScaler
    guard: LossGuard
    process_group: ProcessGroup = field(default_factory=SingleProcess)
    progress: Progress = field(default_factory=Progress)
    best: BestLoss = field(default_factory=BestLoss)

    def __post_init__(self) -> None:
        self._first_scale = self.scaler.state_dict()

    @classmethod
    def of(
        cls,
        config: Config,
        gpt: GPT,
        scaler: torch.amp.GradScaler,
        process_group: ProcessGroup,
        note: Callable[..., None],
    ) -> TrainState:
        """What a run that begins with `gpt` moves; `note` is told of a loss far from the usual."""
        guard = LossGuard(
            config.guard.spike_sigma,
            config.guard.max_bad_steps,
            config.guard.max_rollbacks,
            went_back=lambda: len(moving.progress.skips),
            cursor=lambda: moving.progress.cursor,
            overflows=lambda: scaler.is_enabled() and scaler.get_scale() >= 1,
            note=note,
        )
        optimizer = build_optimizer(gpt.named_parameters(), config.optimizer, config.train.precision)
        average = EMA(gpt, config.optimizer.ema_decay) if config.optimizer.ema_decay else NoEMA()
        moving = cls(gpt, optimizer, average, scaler, guard, process_group)
        return moving

    def books(self) -> dict[str, Any]:
        """All but the tensors, as JSON can hold it."""
        return {
            **asdict(self.progress),
            "best": asdict(self.best),
            "guard": self.guard.books(),
            "scaler": self.scaler.state_dict(),
            "averaged": self.average.updates,
            "processes": self.process_group.size,
        }

    def books_of(self, checkpoint: Path) -> dict[str, Any]:
        """What a checkpoint remembers besides tensors; only the first process reads it, or anything of a run."""
        books: dict[str, Any] = {}
        if self.process_group.rank == 0:
            state.load_config(checkpoint)  # refuses what a newer groundup wrote
            books = state.load_progress(checkpoint)
        return self.process_group.broadcast_object(books)

    def restore(self, checkpoint: Path, books: Mapping[str, Any]) -> None:
        """Be what the checkpoint holds. CheckpointError when it does not fit this model."""
        known = {name: books[name] for name in (f.name for f in fields(Progress)) if name in books}
        self.progress = Progress(**known)
        self.progress.skips = [(start, stop) for start, stop in self.progress.skips]
        self.best = BestLoss(**books.get("best", {}))
        self.guard.restore(books.get("guard", {}))
        if books.get("scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(books["scaler"])
        state.load_model(checkpoint, self.gpt, read=self._read)
        state.load_optimizer(checkpoint, self.gpt, self.optimizer, read=self._read)
        averages = BroadcastTensors(
            self.process_group, state.load_average(checkpoint) if self.process_group.rank == 0 else {}
        )
        if bool(averages) != isinstance(self.average, EMA):
            raise CheckpointError(
                f"{checkpoint}: {'holds' if averages else 'lacks'} an average of the weights, unlike what "
                "optimizer.ema_decay asks for; put back the config.yaml that the run was started with"
            )
        self.average.load(averages, books.get("averaged", 0))

    def _read(self, path: Path) -> Mapping[str, torch.Tensor]:
        return BroadcastTensors(self.process_group, state.read_tensors(path) if self.process_group.rank == 0 else {})

    def begin_again(self, first: GPT) -> None:
        """Be what a run that begins with `first` is then, but for the time gone by and the data to be skipped."""
        with torch.no_grad():
            for weight, parameter in zip(first.parameters(), self.gpt.parameters(), strict=True):
                parameter.copy_(distribute_like(weight, parameter))
        for moments in self.optimizer.state.values():
            moments.clear()
        self.average.load(dict(first.named_parameters()), 0)
        self.guard.restore({})
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(self._first_scale)
        self.progress = Progress(elapsed=self.progress.elapsed, skips=self.progress.skips)
        self.best = BestLoss()
