"""Checkpointer: when a run's checkpoints are written and restored, and which of them stay."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from groundup.checkpoint import state as files
from groundup.checkpoint.files import load_config, step_of
from groundup.checkpoint.run_folder import RunFolder
from groundup.checkpoint.tensors import Shapes, is_finite, read_tensors
from groundup.config.resolved import ResolvedConfig
from groundup.data.openings import begins_documents
from groundup.distributed.gather import StateTensors, gather
from groundup.distributed.process_group import BroadcastTensors, ProcessGroup
from groundup.errors import CheckpointError
from groundup.optim.ema import NoEMA
from groundup.run.changes import numeric_facts
from groundup.run.dataset import PreparedData, validation_text
from groundup.training.train_state import TrainState
from groundup.utils.files import SUMS, sha256
from groundup.utils.system import free_memory


class Checkpointer:
    """Saves a training state into a run's folder, in the background if the config says so, and restores it.

    Rank 0 writes. The other ranks call the same methods: they may hold shards of the tensors.
    """

    def __init__(
        self,
        config: ResolvedConfig,
        data: PreparedData,
        folder: RunFolder,
        log: Callable[..., None],
        process_group: ProcessGroup,
        *,
        sharded: bool,
        sequence_layout: int,
    ) -> None:
        """`log(event, **values)` records a checkpoint once it is complete; `sharded`: each process holds shards.

        `sequence_layout`: that of the run's training sequences.
        """
        self._config, self._data, self._folder, self._log = config, data, folder, log
        self._process_group, self._sharded, self._sequence_layout = process_group, sharded, sequence_layout
        self.numerics = numeric_facts(torch.device(config.train.device), process_group)
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._copy: StateTensors | None = None  # the last copy, whose memory the next one takes
        self.saved: Path | None = None  # the newest, which may still be being written
        self._parent: dict[str, Any] | None = None  # of that one

    def save(self, state: TrainState, *, wait: bool = False, again: bool = False) -> None:
        """Write a checkpoint of this moment; OSError when this or the previous one could not be written.

        `again`: the one of this step is replaced, as its metadata has changed.
        RollbackRequested or TrainingError, as the guard has it, where a number is not finite: nothing is written.
        """
        folder = self._folder.checkpoint(state.progress.step)
        if again or folder != self.saved:
            self._wait()
            self._reject_not_finite(state)
            background = self._config.checkpoint.async_save and not wait and self._has_memory(state)
            tensors = gather(
                state.tensors(), keep=self._process_group.rank == 0, copy=background or self._sharded, reuse=self._copy
            )
            if self._process_group.rank == 0:
                self._copy = tensors if background else None
                self._submit(folder, tensors, state)
            self.saved = folder
            wait = wait or not background
        if wait:
            self._wait()

    def read_metadata(self, checkpoint: Path) -> dict[str, Any]:
        """Metadata of a checkpoint to resume from, read on rank 0; CheckpointError as of `load_resumable`."""
        metadata: dict[str, Any] = {}
        if self._process_group.rank == 0:
            metadata = files.load_resumable(checkpoint)
            if best := metadata.get("best"):  # earlier versions did not note the text
                text = validation_text(load_config(checkpoint), self._data.manifest)
                metadata["best"] = {"text": text, **best}
        return self._process_group.broadcast_object(metadata)

    def restore(self, state: TrainState, checkpoint: Path, metadata: Mapping[str, Any]) -> None:
        """Load a checkpoint into `state`. CheckpointError when it does not fit this model."""
        state.load_metadata(metadata)
        files.load_model(checkpoint, state.model, read=self._read)
        files.load_optimizer(checkpoint, state.model, state.optimizer, self._config.optimizer, read=self._read)
        held = files.load_ema(checkpoint, state.model) if self._process_group.rank == 0 else {}
        averages = BroadcastTensors(self._process_group, held)
        is_saved, is_wanted = bool(averages), not isinstance(state.ema, NoEMA)
        if is_saved != is_wanted:
            raise CheckpointError(
                f"{checkpoint}: {'holds' if is_saved else 'lacks'} an average of the weights, unlike what "
                "optimizer.ema_decay asks for; put back the config.yaml that the run was started with"
            )
        state.ema.load(averages, metadata.get("averaged", 0))
        self.saved, self._parent = checkpoint, metadata.get("parent")

    def newest_before(self, step: float) -> Path | None:
        """The newest complete checkpoint of a step before this one; later ones are deleted, damaged ones kept aside."""
        found = None
        if self._process_group.rank == 0:
            self._wait()
            found, rejected = self._folder.newest_good(step)
            for line in self._folder.go_back_to(found, rejected):
                self._log("rejected", message=line)
        name = self._process_group.broadcast_object(found and found.name)
        self.saved = self._folder.checkpoints / name if name else None
        return self.saved

    def close(self) -> None:
        """Wait for the checkpoint being written. OSError when it could not be written."""
        try:
            self._wait()
        finally:
            self._pool.shutdown()

    def _reject_not_finite(self, state: TrainState) -> None:
        kinds = ("weights", "EMA", "optimizer state")
        tensors = [
            (f"{name} ({kind})", t)
            for kind, part in zip(kinds, state.tensors(), strict=True)
            for name, t in part.items()
        ]
        found = next((i for i, (_, tensor) in enumerate(tensors) if not is_finite(tensor)), -1)
        if (agreed := self._process_group.max(found)) >= 0:  # each rank may hold only its shards
            state.guard.reject_state(state.progress.step, tensors[agreed][0])

    def _submit(self, folder: Path, tensors: StateTensors, state: TrainState) -> None:
        if folder != self.saved:  # else it has the parent of the one that it replaces
            self._parent = self._as_parent()
        metadata = {
            **state.metadata(),
            "processes": self._process_group.size,
            "numerics": self.numerics,
            "data": self._data.manifest.fingerprint,
            "begins_documents": begins_documents(self._data.manifest),
            "sequence_layout": self._sequence_layout,
            "parent": self._parent,
        }
        best = self._best(state)
        kept = {path for path in (best, self._rollback_target(state)) if path}
        snapshot = files.Snapshot(self._config.recorded, self._data.tokenizer, metadata, tensors)
        self._writing = self._pool.submit(self._write, folder, snapshot, best, kept)

    def _write(self, folder: Path, snapshot: files.Snapshot, best: Path | None, kept: set[Path]) -> None:
        files.save(folder, snapshot)
        self._log("save", step=step_of(folder), checkpoint=folder.name)
        self._folder.set_link("latest", folder)
        if best and best.is_dir():
            self._folder.set_link("best", best)
        keep = self._config.checkpoint
        self._folder.prune(keep.keep_last, kept, every=keep.keep_every, bests=keep.save_best)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def _has_memory(self, state: TrainState) -> bool:
        """Whether main memory can hold the state once more, and as much again for other programs."""
        free = free_memory()
        size = sum(tensor.nbytes for part in state.tensors() for tensor in part.values())
        return self._process_group.rank > 0 or self._copy is not None or free is None or free > 2 * size

    def _best(self, state: TrainState) -> Path | None:
        known = self._config.checkpoint.save_best and state.best.loss is not None
        return self._folder.checkpoint(state.best.step) if known else None

    def _rollback_target(self, state: TrainState) -> Path | None:
        """The checkpoint to roll back to if the current bad steps continue: no newer one may replace it."""
        first = state.guard.first
        older = [path for path in self._folder.steps() if first and step_of(path) < first[0]]
        return older[-1] if older else None

    def _as_parent(self) -> dict[str, Any] | None:
        """The checkpoint that training continued from, with its checksum."""
        if self.saved is None:
            return None
        return {"step": step_of(self.saved), "sha256": sha256(self.saved / SUMS)}

    def _read(self, path: Path, expected: Shapes) -> Mapping[str, torch.Tensor]:
        rank = self._process_group.rank
        return BroadcastTensors(self._process_group, read_tensors(path, expected) if rank == 0 else {})
