"""Trainer: puts one run together from its config, trains it, and handles rollbacks and memory that runs out."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from typing_extensions import override

from groundup.checkpoint.log import iter_log
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.resolved import ResolvedConfig
from groundup.data.windows import LAYOUT, ShuffledWindows
from groundup.distributed.compile import compile_loss
from groundup.distributed.process_group import SINGLE_PROCESS, ProcessGroup, own_device
from groundup.errors import ConfigError
from groundup.model.gpt import GPT
from groundup.optim.run_length import StepLength, TimeLength, build_run_length
from groundup.run.checkpointer import Checkpointer
from groundup.run.dataset import PreparedData, validation_text
from groundup.run.evaluator import EvalLosses, Evaluator
from groundup.run.failures import documents_of, first_documents, translate_errors
from groundup.run.init_model import build_initial_model
from groundup.run.logger import MetricLogger, NullLogger
from groundup.run.parts import build_loader, build_loss, build_run_schedule, build_state
from groundup.training.dry_run import DryRunStep
from groundup.training.early_stopping import BestLoss, EarlyStopping, SyncedRunLength
from groundup.training.guard import RollbackRequested
from groundup.training.hooks import every, every_minutes, log_step
from groundup.training.loop import Hook, StepInfo, fit
from groundup.training.micro_batches import sequence_lengths
from groundup.training.signals import StoppedAtOnce, StopSignals
from groundup.ui.display import Display
from groundup.utils.device import autocast, is_out_of_memory, make_deterministic, set_matmul_precision


@dataclass(frozen=True, repr=False)
class TrainResult:
    """How a training run ended."""

    run: Path
    checkpoint: Path
    step: int
    tokens: int
    losses: EvalLosses
    best: BestLoss
    signal: int | None = None  # that stopped the run before its full length

    @override
    def __repr__(self) -> str:
        loss = "" if self.losses.val_loss is None else f", val loss {self.losses.val_loss:.4f}"
        better = self.best.loss is not None and self.best.step < self.step
        best = f", best {self.best.loss:.4f} at step {self.best.step:,}" if better else ""
        stopped = "stopped at " if self.signal else ""
        return f"TrainResult({self.run}: {stopped}step {self.step:,}{loss}{best})"


class Trainer:
    """One training run, put together and ready to start."""

    def __init__(
        self,
        config: ResolvedConfig,
        data: PreparedData,
        folder: RunFolder,
        display: Display,
        process_group: ProcessGroup = SINGLE_PROCESS,
        *,
        restored: bool = False,
        sequence_layout: int = LAYOUT,
    ) -> None:
        """`restored`: a checkpoint will be loaded, so no initial weights are needed. ConfigError, CheckpointError.

        `sequence_layout`: that of the training sequences so far.
        """
        if config.train.early_stopping_patience and data.val is None:
            raise ConfigError("train.early_stopping_patience: nothing was held out; prepare with --val-fraction 0.1")
        self.config, self.data, self.folder, self.display = config, data, folder, display
        self.process_group = group = process_group
        self.device = own_device(config.train.device, group)
        self._set_up_torch()
        self.logger = (NullLogger if group.rank else MetricLogger)(config, folder, display)
        self.stop = StopSignals(self.logger.stopping, group.max if group.size > 1 else None)
        self.autocast = autocast(config.train.precision, self.device)
        self.model = self._initial_model(restored=restored, message=True).to(self.device)
        self.loss_sum, self.loss, self.parallel = build_loss(config, self.model, self.device, group)
        self.state = build_state(
            config, self.model, self.device, rank=group.rank, log=self.logger.spike,
            validation_text=validation_text(config, data.manifest),
        )  # fmt: skip
        self.sequences = ShuffledWindows(data.train, config.model.block_size, config.train.seed, sequence_layout)
        self.loader = build_loader(config, self.sequences, self.device, group)
        self.run_length = build_run_length(config.train, config.batch_size, self.sequences.per_epoch)
        self.schedule = build_run_schedule(config, self.run_length)
        self.evaluator = Evaluator(
            config, data, self.model, self.state, self.loss, self.parallel, group, autocast=self.autocast,
            display=display, log=self.logger.record, should_stop=self.stop,
        )  # fmt: skip
        self.checkpointer = Checkpointer(
            config, data, folder, self.logger.record, group, sharded=self.parallel.sharded,
            sequence_layout=sequence_layout,
        )  # fmt: skip
        self.resumed_from: Path | None = None
        self.other_text = False  # whether validation losses so far are of other text than those to come

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint, which was trained on this data."""
        metadata = self.checkpointer.read_metadata(checkpoint)
        self.checkpointer.restore(self.state, checkpoint, metadata)
        previous_best = BestLoss(**metadata.get("best", {}))
        self.other_text = bool(previous_best.seen) and previous_best.text != self.state.best.text
        if self.other_text and previous_best.loss is not None:
            lowest = f"the best so far, {previous_best.loss:.4f} at step {previous_best.step:,},"
            self.display.message(
                f"evaluate.tokens changed: losses are of other text now; {lowest} and patience start over"
            )
        self.resumed_from = checkpoint

    @property
    def done(self) -> bool:
        """Whether the run has reached its end."""
        return self._stopping_rule().reached(self.state.progress)

    def run(self) -> TrainResult:
        """Train to the end of the run, or until a signal; the last thing written is always a complete checkpoint."""
        if not self.done:
            self._train()
        elif self.misses_end:
            with self._running():
                self._run_missed(finished=True)
        assert self.checkpointer.saved is not None, "every way out of the loop saves"
        misses_some = self.stop.received and (self.evaluator.missed or self._misses_sample(finished=True))
        complete = self.done and not misses_some
        progress, signal = self.state.progress, None if complete else self.stop.received
        losses, best = self.evaluator.losses, self.state.best
        return TrainResult(
            self.folder.path, self.checkpointer.saved, progress.step, progress.tokens, losses, best, signal
        )

    def _train(self) -> None:
        with self._running():
            if self.resumed_from:
                other = {"other_text": True} if self.other_text else {}
                self.logger.record("resume", step=self.state.progress.step, checkpoint=self.resumed_from.name, **other)
            total = self.run_length.total if isinstance(self.run_length, StepLength) else None
            self.logger.begin(total, resumed=self.resumed_from is not None)
            if self.resumed_from:
                self._run_missed()
            with suppress(StoppedAtOnce):
                with self.stop.at_once():
                    step_loss = self._warm_up()
                if not self.done:  # the missed evaluation may have been the last
                    self._fit(step_loss)
            self.checkpointer.save(self.state, wait=True)
            if self.done:
                self._run_missed(finished=True)  # a sample, where an evaluation ended the run
                self._warn_of_divergence()

    def _fit(self, step_loss: torch.nn.Module) -> None:
        """Train; after a rollback or running out of memory, train on."""
        while True:
            try:
                fit(
                    step_loss,
                    self.state,
                    self.loader,
                    self.schedule,
                    self._stopping_rule(),
                    grad_clip=self.config.optimizer.grad_clip,
                    parallel=self.parallel,
                    autocast=self.autocast,
                    hooks=self._hooks(),
                    should_stop=self.stop,
                )
                return self.checkpointer.save(self.state)  # here, where a rollback is still possible
            except RollbackRequested as request:
                rollback: RollbackRequested | None = request
            except RuntimeError as error:
                can_halve = self.loader.in_step and self._micro_batch_size > 1 and self.process_group.size == 1
                if not (is_out_of_memory(error) and can_halve):
                    raise
                rollback = None
            # Only now are the error, and the tensors that its frames held, gone.
            if rollback:
                self._roll_back(rollback)
            else:
                self._halve_micro_batch()

    def _warn_of_divergence(self) -> None:
        loss, uniform = self.evaluator.losses.val_loss, math.log(self.config.model.vocab)
        if loss is not None and not loss <= uniform:  # a NaN is worse as well
            self.display.message(
                f"warning  the validation loss, {loss:.4f}, is worse than random guessing, {uniform:.4f}: the run "
                "diverged, or has hardly begun; try a lower --optimizer.learning_rate, or more steps"
            )

    def _roll_back(self, request: RollbackRequested) -> None:
        """Roll back to the newest checkpoint before the bad steps and skip the sequences they trained on."""
        state, elapsed = self.state, self.state.progress.elapsed
        skips = state.progress.skips
        in_step = request.last > state.progress.step  # else after one that was finished
        skip = (request.cursor, state.progress.cursor + (self.loader.batch_size if in_step else 0))
        state.discard_gradients()
        if in_step:
            state.scaler.update()  # forgets that these gradients were unscaled
        if checkpoint := self.checkpointer.newest_before(request.first):
            self.checkpointer.restore(state, checkpoint, self.checkpointer.read_metadata(checkpoint))
        else:
            state.reset(self._initial_model())
        state.skip([*skips, skip], elapsed)  # time that has passed is not given back
        documents = documents_of(Path(self.config.data or ""), self.sequences, *skip)
        step = state.progress.step
        self.logger.record("rollback", step=step, bad_step=request.last, skipped=skip, documents=documents)
        self.display.message(f"{request}; rolling back to step {step:,} and skipping {first_documents(documents)}")

    def _halve_micro_batch(self) -> None:
        """Halve the micro-batch after running out of memory: the same batch, in more passes."""
        self.state.discard_gradients()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        size, threads = -(-self._micro_batch_size // 2), self.config.train.microbatch_threads
        self.state.micro_batch_size = size = max(1, size - size % threads)
        self.logger.record("out_of_memory", step=self.state.progress.step, micro_batch=size)
        self.display.message(
            f"{self.device}: out of memory; continuing with micro-batches of {size}, the batch unchanged"
        )

    def _warm_up(self) -> torch.nn.Module:
        """Compile, and on a GPU try before step 1 whether memory suffices; no weight changes. Returns what to train.

        Passes of a step's size prove the compiled loss; where memory runs out, the micro-batch is halved.
        """
        train, group, on_gpu = self.config.train, self.process_group, self.device.type != "cpu"
        lengths = sequence_lengths(train.seq_len_warmup_from, self.config.model.block_size)
        dry_run = DryRunStep(self.loader, self.autocast, group, sharded=self.parallel.sharded, lengths=lengths)

        def prove(loss: torch.nn.Module) -> None:
            dry_run(loss, self.state.micro_batch_size)

        if train.compile != "off":
            self.display.message("compile: compiling the model, which may take minutes; not counted as training time")
        while True:
            try:
                loss = compile_loss(self.loss_sum, train.compile, self.display.message, prove, self.parallel.blocks)
                if on_gpu:
                    prove(loss)
                if on_gpu and group.size == 1:
                    self.evaluator.dry_run()
                break
            except RuntimeError as error:
                # FSDP2 cannot start again in the middle of a pass.
                if not is_out_of_memory(error) or self._micro_batch_size == 1 or self.parallel.sharded:
                    raise
            self._halve_micro_batch()
        if on_gpu and group.size > 1:  # where a process that fails ends all of them
            self.evaluator.dry_run()
        compiled = loss is not self.loss_sum
        sequences = self.state.micro_batch_size if compiled else 1  # a compiled loss knows one shape
        loss = loss if compiled else self.loss
        return self.parallel.wrap(loss, lambda net: dry_run.unscored_pass(net, sequences))

    @property
    def misses_end(self) -> bool:
        """Whether the run's last evaluation or sample is still to be made, as an interrupted process did not."""
        # Earlier versions logged a missed evaluation and saved nothing; where losses start over, `seen` is 0.
        misses_eval = not self._is_logged("eval") or (self.state.best.seen and self.evaluator.missed)
        return bool(misses_eval) or self._misses_sample(finished=True)

    def _run_missed(self, *, finished: bool = False) -> None:
        """Run the evaluation and the sample that were due when a signal stopped the run."""
        if self.evaluator.run_missed_eval(finished=finished):
            self.checkpointer.save(self.state, again=True, wait=finished)
        if self._misses_sample(finished=finished):
            self.evaluator.sample(self.state.progress.step)

    def _misses_sample(self, *, finished: bool = False) -> bool:
        """Whether a sample is due at this step, and the log has none."""
        n, step, evaluate = self.config.evaluate.sample_every_steps, self.state.progress.step, self.config.evaluate
        if not evaluate.sample_tokens or not (finished or (n and step and step % n == 0)):
            return False
        return not self._is_logged("sample")

    def _is_logged(self, event: str) -> bool:
        """Whether the log has a record of this kind of the current step."""
        records = iter_log(self.folder.log, matching=re.compile(f'"event": "{event}"'.encode()))
        step, is_first = self.state.progress.step, self.process_group.rank == 0
        return bool(self.process_group.broadcast_object(is_first and any(each.get("step") == step for each in records)))

    def _hooks(self) -> list[Hook]:
        """Hooks in the order in which they see a step; saving comes last."""
        evaluate, checkpoint = self.config.evaluate, self.config.checkpoint
        return [
            log_step(self.logger.record),
            self.logger.step,
            every(evaluate.every_steps, lambda info: self.evaluator.evaluate(info.step)),
            every(evaluate.sample_every_steps, lambda info: self.evaluator.sample(info.step)),
            self._save_best,
            every(checkpoint.every_steps, lambda _: self.checkpointer.save(self.state), when_stopping=True),
            every_minutes(
                checkpoint.every_minutes, lambda _: self.checkpointer.save(self.state), self.process_group.any
            ),
        ]

    def _save_best(self, info: StepInfo) -> None:
        if self.config.checkpoint.save_best and self.state.best.step == info.step:
            self.checkpointer.save(self.state)

    @property
    def _micro_batch_size(self) -> int:
        """Sequences that a forward pass really has."""
        return min(self.state.micro_batch_size, self.loader.per_process)

    @property
    def early_stopping(self) -> EarlyStopping:
        """The run's length and its limits, by this process's clock."""
        train = self.config.train
        return EarlyStopping(self.run_length, self.state.best, train.early_stopping_patience, train.time_limit)

    def _stopping_rule(self) -> EarlyStopping | SyncedRunLength:
        rule = self.early_stopping
        timed = isinstance(self.run_length, TimeLength) or rule.time_limit is not None
        return SyncedRunLength(rule, self.process_group.broadcast_object) if timed else rule

    def _initial_model(self, *, restored: bool = False, message: bool = False) -> GPT:
        say = self.display.message if message else lambda _: None
        return build_initial_model(
            self.config, self.process_group, text=self.data.train, restored=restored, message=say
        )

    def _set_up_torch(self) -> None:
        train = self.config.train
        torch.set_num_threads(train.threads)
        make_deterministic(train.deterministic, self.device, self.display.message)
        set_matmul_precision(train.float32_matmul_precision, self.device)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """While entered, signals request a stop, and records are accepted until the last checkpoint is complete."""
        errors = translate_errors(self.folder, self.device, self.process_group, lambda: self._micro_batch_size)
        with errors, self.logger.open():
            try:
                with self.stop:
                    yield
            finally:
                self.checkpointer.close()
