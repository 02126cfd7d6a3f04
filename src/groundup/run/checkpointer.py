"""When a run's checkpoints are written, how, and which of them stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from groundup.checkpoint import state
from groundup.checkpoint.run_folder import RunFolder, step_of
from groundup.config.schema import Config
from groundup.distributed.dtensor import full_tensor
from groundup.distributed.process_group import ProcessGroup, SingleProcess
from groundup.run.async_writer import Writer
from groundup.run.resolve import PreparedData
from groundup.training.train_state import TrainState
from groundup.utils.files import SUMS, sha256
from groundup.utils.system import free_memory


class Checkpointer:
    """Writes what moves into a run's folder; on a thread beside the training where the config says so.

    Of several processes the first one writes. The others call the same methods: they may hold parts of the tensors.
    """

    def __init__(
        self,
        config: Config,
        data: PreparedData,
        folder: RunFolder,
        record: Callable[..., None],
        process_group: ProcessGroup | None = None,
        *,
        sharded: bool = False,
    ) -> None:
        """`record(event, **values)` notes a checkpoint once it is whole; `sharded`: each process holds parts."""
        self.config, self.data, self.folder, self._record = config, data, folder, record
        self._process_group, self._sharded = process_group or SingleProcess(), sharded
        self._writer = Writer(asynchronous=config.checkpoint.async_save)
        self._former: state.Snapshot | None = None  # the last copy, whose memory the next one takes
        self.saved: Path | None = None  # the newest, which may be under way

    def save(self, moving: TrainState, *, wait: bool = False) -> None:
        """Write a checkpoint of this moment; OSError when this or the one before could not be written."""
        folder = self.folder.checkpoint(moving.progress.step)
        if self._process_group.rank > 0:
            if folder != self.saved and self._sharded:
                for part in state.tensors(moving.gpt, moving.optimizer, moving.average.tensors()):
                    for tensor in part.values():
                        full_tensor(tensor)
            self.saved = folder
            return
        if folder != self.saved:
            self._writer.wait()
            room = self._former is not None or has_memory_for_copy(moving)
            beside = self.config.checkpoint.async_save and not wait and room
            books = {**moving.books(), "data": self.data.manifest.fingerprint, "parent": self._parent()}
            what = self._copied(moving, books, copy=beside or self._sharded)
            self._former = what if beside else None
            best = self._best(moving)
            spared = {path for path in (best, self._safe(moving)) if path}
            self._writer.submit(lambda: self._write(folder, what, best, spared))
            self.saved = folder
            wait = wait or not beside
        if wait:
            self._writer.wait()

    def newest_before(self, step: float) -> Path | None:
        """The newest whole checkpoint of a step before this one; those after it are deleted."""
        found = None
        if self._process_group.rank == 0:
            self._writer.wait()
            found, _ = self.folder.newest_good(step)
            self.folder.go_back_to(found)
        self.saved = self._process_group.broadcast_object(found)
        return self.saved

    def close(self) -> None:
        """Wait for what is under way."""
        self._writer.close()

    def _copied(self, moving: TrainState, books: dict[str, Any], *, copy: bool) -> state.Snapshot:
        return state.snapshot(
            self.config,
            self.data.tokenizer,
            books,
            moving.gpt,
            moving.optimizer,
            moving.average.tensors(),
            copy=copy,
            former=self._former,
        )

    def _best(self, moving: TrainState) -> Path | None:
        known = self.config.checkpoint.save_best and moving.best.loss is not None
        return self.folder.checkpoint(moving.best.step) if known else None

    def _safe(self, moving: TrainState) -> Path | None:
        """Where the run would go back to if the bad steps under way went on: no newer checkpoint may replace it."""
        first = moving.guard.first
        older = [path for path in self.folder.steps() if first and step_of(path) < first[0]]
        return older[-1] if older else None

    def _write(self, folder: Path, what: state.Snapshot, best: Path | None, spared: set[Path]) -> None:
        state.save(folder, what)
        self._record("save", step=step_of(folder), checkpoint=folder.name)
        self.folder.point("latest", folder)
        if best and best.is_dir():
            self.folder.point("best", best)
        keep = self.config.checkpoint
        self.folder.prune(keep.keep_last, spared, every=keep.keep_every, bests=keep.save_best)

    def _parent(self) -> dict[str, Any] | None:
        """The checkpoint that training went on from, and what proves that it is the one."""
        if self.saved is None:
            return None
        return {"step": step_of(self.saved), "sha256": sha256(self.saved / SUMS)}


def has_memory_for_copy(moving: TrainState) -> bool:
    """Whether main memory holds all that a checkpoint holds once more, and as much again for whoever needs it."""
    tensors = [*moving.gpt.parameters(), *moving.average.tensors().values()]
    tensors += [value for moments in moving.optimizer.state.values() for value in moments.values()]
    free = free_memory()
    return free is None or free > 2 * sum(tensor.nbytes for tensor in tensors)
