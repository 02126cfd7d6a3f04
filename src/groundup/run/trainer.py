"""The composition root: the one place that knows every part, and puts a run together from its config."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from groundup.checkpoint.data_match import match_data
from groundup.checkpoint.log import read_log
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.data.windows import ShuffledWindows
from groundup.distributed.activation_checkpointing import apply_activation_checkpointing
from groundup.distributed.compile import compiled
from groundup.distributed.parallelize import parallel
from groundup.distributed.process_group import ProcessGroup, SingleProcess, own_device
from groundup.distributed.thread_parallel import thread_parallel
from groundup.errors import CheckpointError, ConfigError
from groundup.model.gpt import NextTokenLoss
from groundup.optim.run_length import StepLength, TimeLength, build_run_length
from groundup.optim.schedule import build_schedule
from groundup.run.checkpointer import Checkpointer
from groundup.run.evaluator import EvalLosses, Evaluator
from groundup.run.failures import documents_of, named
from groundup.run.init_model import build_initial_model
from groundup.run.logger import MetricLogger, NullLogger
from groundup.run.resolve import PreparedData
from groundup.run.troubles import translate_errors
from groundup.training.dry_run import DryRunStep
from groundup.training.early_stopping import BestLoss, EarlyStopping, SyncedRunLength
from groundup.training.guard import RollbackRequested
from groundup.training.hooks import StoppedAtOnce, StopSignals, every, every_minutes, log_step
from groundup.training.loop import Hook, StepInfo, fit
from groundup.training.micro_batches import BatchLoader
from groundup.training.seq_len_warmup import build_ramp, lengths
from groundup.training.train_state import TrainState
from groundup.ui.display import Display
from groundup.utils.deterministic import make_deterministic
from groundup.utils.device import autocast, loss_scaler, reseed, set_matmul_precision
from groundup.utils.exhausted import is_out_of_memory
from groundup.utils.hashing import mix64


@dataclass(frozen=True)
class TrainResult:
    """How a training run ended."""

    run: Path
    checkpoint: Path
    step: int
    tokens: int
    losses: EvalLosses
    best: BestLoss  # the lowest validation loss of the run
    signal: int | None = None  # what stopped the run before its horizon


class Trainer:
    """One run, put together and ready to go."""

    def __init__(
        self,
        config: Config,
        data: PreparedData,
        folder: RunFolder,
        display: Display,
        process_group: ProcessGroup | None = None,
        *,
        restored: bool = False,
    ) -> None:
        """`config` must be settled, and the same on all processes. ConfigError where it asks for what cannot be.

        CheckpointError where the weights to begin with are gone, unless a checkpoint is to be `restored` anyway.
        """
        if config.train.early_stopping_patience and data.val is None:
            raise ConfigError(
                "train.early_stopping_patience: nothing was held out to measure; prepare with --val-fraction 0.1"
            )
        self.config, self.data, self.folder, self.display = config, data, folder, display
        self.process_group = process_group or SingleProcess()
        self.device = own_device(config.train.device, self.process_group)
        self.teller = (NullLogger if self.process_group.rank else MetricLogger)(config, folder, display)
        torch.set_num_threads(config.train.threads or 1)
        say = display.message if display else print
        make_deterministic(config.train.deterministic, self.device, say)
        set_matmul_precision(config.train.float32_matmul_precision, self.device)
        precision = config.train.precision
        gpt = build_initial_model(config, self.process_group, text=data.train, restored=restored, say=say).to(
            self.device
        )
        self.loss_sum = NextTokenLoss(gpt)
        apply_activation_checkpointing(gpt, config.recomputed_of(config.micro_rows))
        self.parallel = parallel(config.train.parallel, self.process_group, self.loss_sum, self.device)
        self.shared = thread_parallel(self.loss_sum, config.shares_of(config.micro_rows, self.process_group.size))
        self.step_loss = self.shared  # or compiled, where that is asked for
        self.moving = TrainState.of(
            config, gpt, loss_scaler(precision, self.device), self.process_group, self.teller.spike
        )
        self.windows = ShuffledWindows(data.train, config.model.block_size, config.train.seed)
        rank, size = self.process_group.rank, self.process_group.size
        self.feed = BatchLoader(self.windows, config.rows, config.micro_rows, self.device, rank=rank, size=size)
        self.horizon: StepLength | TimeLength = build_run_length(config, self.windows.windows)
        total = self.horizon.total if isinstance(self.horizon, StepLength) else None
        self.schedule = build_schedule(
            config.schedule, config.optimizer.learning_rate, total, config.train.batch_tokens
        )
        self.autocast = autocast(precision, self.device)
        record = self.teller.record
        self.examiner = Evaluator(config, data, self.moving, self.autocast, display, record, self.shared, self.parallel)
        self.keeper = Checkpointer(config, data, folder, record, self.process_group, sharded=self.parallel.sharded)
        self.resumed_from: Path | None = None

    def restore(self, checkpoint: Path) -> None:
        """Go back to where a checkpoint stood; CheckpointError when it belongs to other data."""
        books = self.moving.books_of(checkpoint)
        found = match_data(Path(str(self.config.data)), books, self.data.manifest)
        if found.answer != "same":
            raise CheckpointError(found.message)
        self.moving.restore(checkpoint, books)
        if books.get("processes", 1) != self.process_group.size:
            before, now = (
                f"{n} process{'es' if n > 1 else ''}" for n in (books.get("processes", 1), self.process_group.size)
            )
            self.display.message(f"{before} before, {now} now: the same batches and losses up to rounding")
        self.keeper.saved = self.resumed_from = checkpoint

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self._end().reached(self.moving.progress)

    def run(self) -> TrainResult:
        """Train to the horizon, or until a signal; the last thing written is always a whole checkpoint."""
        signal = None
        if self.done:
            self._look_back()
        else:
            signal = self._train()
        assert self.keeper.saved is not None, "every way out of the loop saves"
        progress, ended_by = self.moving.progress, None if self.done else signal
        losses, best = self.examiner.losses, self.moving.best
        return TrainResult(self.folder.path, self.keeper.saved, progress.step, progress.tokens, losses, best, ended_by)

    def _look_back(self) -> None:
        """The last evaluation of a finished run, where a stop broke it off and nobody has made up for it."""
        log = read_log(self.folder.log) if self.process_group.rank == 0 else []
        seen = self.process_group.broadcast_object({record["step"] for record in log if record["event"] == "eval"})
        if self.moving.progress.step not in seen:
            with self._in_words(), self._logged(), self._stop_signals() as self.examiner.stop:
                self.examiner.catch_up(finished=True)

    def _in_words(self) -> AbstractContextManager[None]:
        return translate_errors(self.folder, self.device, self.feed, self.process_group)

    def _stop_signals(self) -> StopSignals:
        return StopSignals(self.teller.stopping, self.process_group.max if self.process_group.size > 1 else None)

    def _end(self) -> EarlyStopping | SyncedRunLength:
        end = EarlyStopping(
            self.horizon, self.moving.best, self.config.train.early_stopping_patience, self.config.train.time_limit
        )
        by_the_clock = isinstance(self.horizon, TimeLength) or self.config.train.time_limit is not None
        return SyncedRunLength(end, self.process_group.broadcast_object) if by_the_clock else end

    def _train(self) -> int | None:
        with self._in_words(), self._logged(), self._stop_signals() as stop:
            self.examiner.stop = stop
            if self.resumed_from:
                self.teller.record("resume", step=self.moving.progress.step, checkpoint=self.resumed_from.name)
                self.examiner.catch_up()
            try:
                with stop.at_once():
                    self._rehearse()
                if not self.done:  # the evaluation just made up for may have been the last
                    self._fit(stop)
            except StoppedAtOnce:
                self.keeper.save(self.moving)
            self.keeper.save(self.moving, wait=True)
            if self.done:
                self.examiner.last_words(self.moving.progress.step)
        return stop.received

    def _fit(self, stop: StopSignals) -> None:
        """Train, however often the run must go back or take smaller bites."""
        config = self.config
        while True:
            try:
                return fit(
                    self.step_loss,
                    self.moving.optimizer,
                    self.feed,
                    self.schedule,
                    self._end(),
                    self.moving.progress,
                    clip=config.optimizer.grad_clip,
                    autocast=self.autocast,
                    scaler=self.moving.scaler,
                    peers=self.parallel,
                    reseed=self._reseed,
                    guard=self.moving.guard,
                    average=self.moving.average.update,
                    stop=stop,
                    hooks=self._hooks(),
                    context=build_ramp(config),
                )
            except RollbackRequested as found:
                bad: RollbackRequested | None = found
            except RuntimeError as error:
                spared = self.feed.in_step and self.feed.micro_rows > 1 and self.process_group.size == 1
                if not (is_out_of_memory(error) and spared):
                    raise
                bad = None
            # Only now, when the error and all that it held on to is gone.
            if bad:
                self._go_back(bad)
            else:
                self._take_less()

    def _go_back(self, bad: RollbackRequested) -> None:
        """To the last checkpoint from before the bad steps, and from there on without the windows that they saw."""
        moving, elapsed = self.moving, self.moving.progress.elapsed
        skip = (bad.cursor, moving.progress.cursor + self.feed.rows)
        skips = [*moving.progress.skips, skip]
        moving.optimizer.zero_grad(set_to_none=True)
        moving.scaler.update()  # which forgets that these gradients were unscaled
        checkpoint = self.keeper.newest_before(bad.first)
        if checkpoint:
            moving.restore(checkpoint, moving.books_of(checkpoint))
        else:
            moving.begin_again(build_initial_model(self.config, self.process_group, text=self.data.train))
        moving.progress.skips, moving.progress.elapsed = skips, elapsed  # time that has gone by is gone
        moving.progress.advance(0)
        documents = documents_of(Path(self.config.data or ""), self.windows, *skip)
        self.teller.record("rollback", step=moving.progress.step, bad_step=bad.last, skipped=skip, documents=documents)
        self.display.message(f"{bad}; going back to step {moving.progress.step:,}, then past {named(documents)}")

    def _take_less(self) -> None:
        """Half as many windows at a time: the same batch, in more pieces."""
        self.moving.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        rows = -(-self.feed.micro_rows // 2)
        rows = self.feed.micro_rows = max(1, rows - rows % self.config.shares)
        train = self.config.train.model_copy(update={"micro_batch_size": rows})
        self.config = self.keeper.config = self.config.model_copy(update={"train": train})
        self.examiner.rows = min(self.examiner.rows, rows)
        if self.process_group.rank == 0:
            self.folder.write_config(self.config)
        self.teller.record("out_of_memory", step=self.moving.progress.step, micro_batch=rows)
        self.display.message(
            f"{self.device}: out of memory; going on with {rows} windows at a time, the batch unchanged"
        )

    def _rehearse(self) -> None:
        """Compile, and on a GPU find out before step 1 whether memory suffices; no weight moves."""
        trial = DryRunStep(
            self.feed, self.autocast, self.process_group, sharded=self.parallel.sharded, lengths=lengths(self.config)
        )
        wanted, say, on_gpu = self.config.train.compile, self.display.message, self.device.type != "cpu"
        while True:
            try:
                found = compiled(self.loss_sum, wanted, say, trial, self.parallel.blocks)
                if on_gpu:
                    trial(found)
                if on_gpu and self.process_group.size == 1:
                    self.examiner.rehearse()
                break
            except RuntimeError as error:
                # FSDP2 cannot begin anew in the middle of a pass.
                if not is_out_of_memory(error) or self.feed.micro_rows == 1 or self.parallel.sharded:
                    raise
            self._take_less()
        if on_gpu and self.process_group.size > 1:  # which ends all where it ends one
            self.examiner.rehearse()
        rows = 1 if found is self.loss_sum else None  # a compiled one knows one shape
        found = self.shared if found is self.loss_sum else found
        self.step_loss = self.parallel.wrap(found, lambda net: trial.once(net, rows=rows))

    def _hooks(self) -> list[Hook]:
        """In the order in which they look at a step; saving comes last."""
        evaluate, keep = self.config.evaluate, self.config.checkpoint
        return [
            log_step(self.teller.record),
            self.teller.step,
            every(evaluate.every_steps, lambda info: self.examiner.evaluate(info.step)),
            every(evaluate.sample_every_steps, lambda info: self.examiner.sample(info.step)),
            self._save_best,
            every(keep.every_steps, self._save, when_stopping=True),
            every_minutes(keep.every_minutes, self._save, self.process_group.any),
        ]

    def _save(self, info: StepInfo) -> None:
        self.keeper.save(self.moving)

    def _save_best(self, info: StepInfo) -> None:
        if self.config.checkpoint.save_best and self.moving.best.step == info.step:
            self.keeper.save(self.moving)

    def _reseed(self, step: int) -> None:
        # Dropout is a function of (seed, step, process), so neither evaluation nor an interruption can shift it.
        which = (self.process_group.rank,) if self.process_group.rank else ()
        reseed(int(mix64(self.config.train.seed, step, *which)[0]), self.device)

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """Records are taken until what is under way is finished."""
        with self.teller.listening():
            try:
                yield
            finally:
                self.keeper.close()
