"""Losses and samples in the middle of a run; nothing here touches the training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

from torch import nn

from groundup.config.schema import Config
from groundup.data.shards import Tokens
from groundup.distributed.parallelize import Parallel
from groundup.errors import DataError, UsageError
from groundup.evaluation.likelihood import default_batch_tokens, run_task
from groundup.evaluation.loss import Interrupted, Loss, split_loss
from groundup.evaluation.task_set import EvalTask, TaskResult, open_tasks
from groundup.generation.engine import TextStream, prompt_ids, prompt_text, stream
from groundup.generation.sampling import Sampler
from groundup.run.resolve import PreparedData
from groundup.training.hooks import finite
from groundup.training.train_state import TrainState
from groundup.ui.display import Display
from groundup.utils.exhausted import is_out_of_memory


@dataclass(frozen=True)
class EvalLosses:
    """What an evaluation found; None where there was none, or nothing held out."""

    train_loss: float | None = None  # nats a token, dropout off
    val_loss: float | None = None  # nats a token
    bits_per_byte: float | None = None  # of the validation text


def _tasks(config: Config, data: PreparedData) -> list[EvalTask]:
    """The questions that are asked on the way, in the first form of each task; DataError names the key."""
    tasks, block_size = config.evaluate.tasks, config.model.block_size
    try:
        return open_tasks(tasks, data.tokenizer, all_formats=False, block_size=block_size)
    except (DataError, UsageError) as error:
        raise DataError(f"evaluate.tasks: {error} (--evaluate.tasks none turns tasks off)") from error


class Evaluator:
    """Measures a model while it trains, and lets it speak; the running average of its weights where there is one."""

    def __init__(
        self,
        config: Config,
        data: PreparedData,
        moving: TrainState,
        autocast: Callable[[], AbstractContextManager[object]],
        display: Display,
        record: Callable[..., None],
        loss_sum: nn.Module,
        parallel: Parallel,
    ) -> None:
        self.config, self.data, self.moving, self.display, self._record = config, data, moving, display, record
        self._autocast, self._loss_sum, self._parallel = autocast, loss_sum, parallel
        self._process_group, self._device = moving.process_group, next(moving.gpt.parameters()).device
        self.rows = min(config.micro_rows, -(-config.rows // moving.process_group.size))  # windows at a time
        self._tasks = _tasks(config, data)
        # No more tokens at a time than a training step's pass, which fits.
        self._answered = min(default_batch_tokens(self._device), self.rows * config.model.block_size)
        self._prompt = prompt_ids(data.tokenizer, config.evaluate.prompt)
        self.losses = EvalLosses()
        self._sampled = 0  # the last step with a sample
        self.stop: Callable[[], bool] = lambda: False

    def evaluate(self, step: int) -> None:
        """Losses of both splits, noted and shown; without them where a stop was asked for before the end."""
        limit, split, val = self.config.evaluate.tokens, self.data.manifest.splits["val"], None
        try:
            with self.moving.average.swapped_in():
                if self.data.val is not None:
                    val = self._loss(self.data.val, limit)
                with self.moving.gpt.ngrams.on_counted_text():
                    train = self._loss(
                        self.data.train, val.scored if val else limit or self.config.model.block_size * 64
                    )
                results = [self._run_task(task) for task in self._tasks]
        except Interrupted:
            return  # what is due when a run goes on again
        self.losses = EvalLosses(
            train.nats_per_token,
            val.nats_per_token if val else None,
            val.bits_per_byte(split.tokens, split.bytes) if val else None,
        )
        losses = {k: finite(v) for k, v in asdict(self.losses).items() if v is not None}
        tasks = {"tasks": {result.task: result.flat() for result in results}} if results else {}
        self._record("eval", step=step, **losses, **tasks)
        for result in results:
            self.display.message(f"step {step:,}: {result}")
        if self.losses.val_loss is None:
            return
        self.display.evaluation(
            step=step,
            train_loss=train.nats_per_token,
            val_loss=self.losses.val_loss,
            bits_per_byte=self.losses.bits_per_byte,
        )
        best = self.moving.best
        best.update(step, self.losses.val_loss)
        if best.since == self.config.train.early_stopping_patience:
            found = f"{best.loss:.4f} at step {best.step:,}"
            self.display.message(f"no better validation loss in {best.since} evaluations: the best was {found}")

    def rehearse(self) -> None:
        """A batch of an evaluation and of each task, a token of a sample: what memory they need, before it matters."""
        with self.moving.average.swapped_in():
            self._loss(self.data.train, self._process_group.size * self.rows * self.config.model.block_size)
            for task in self._tasks:
                self._run_task(task.longest(self._process_group.size * self._answered))
        self._written(1)

    def catch_up(self, *, finished: bool = False) -> None:
        """The evaluation that was due when a stop came: which loss was best must not depend on interruptions."""
        n, step = self.config.evaluate.every_steps, self.moving.progress.step
        due = finished or (n and step and step % n == 0)
        if due and self.moving.best.seen < step and self.data.val is not None:
            self.evaluate(step)

    def sample(self, step: int) -> None:
        """Let the model continue the configured prompt."""
        n = self.config.evaluate.sample_tokens
        if not n:
            return
        try:
            written = self._written(n)
        except RuntimeError as error:
            if not is_out_of_memory(error) or self._process_group.size > 1:  # the others wait for the next token
                raise
            self.display.message(f"step {step:,}: no memory for a sample")
            return
        if written is not None:
            self._sampled = step
            self._record("sample", step=step, text=written)
            self.display.sample(written)

    def last_words(self, step: int) -> None:
        """A sample at the end of a run that an evaluation ended, if it has none yet."""
        if self._sampled != step:
            self.sample(step)

    def _written(self, n: int) -> str | None:
        """`n` tokens after the prompt; None where a stop came first."""
        tokenizer = self.data.tokenizer
        text = TextStream(tokenizer.decode_bytes)
        choose = Sampler(t=0.8, k=200, seed=0)  # the same draws each time, so that samples can be compared
        written = prompt_text(tokenizer, self.config.evaluate.prompt)
        with self.moving.average.swapped_in(), self._parallel.unsharded():
            for row in stream(
                self.moving.gpt,
                self._prompt,
                lambda logits: self._process_group.broadcast(
                    choose(logits)
                ),  # all write the same, whatever they round to
                device=self._device,
                max_tokens=n,
                end_of_text=tokenizer.end_of_text,
            ):
                if self.stop():
                    return None
                written += text.feed(row[0]) if row[0] is not None else ""
        return written

    def _run_task(self, task: EvalTask) -> TaskResult:
        while True:
            try:
                with self._parallel.unsharded():
                    return run_task(
                        task,
                        self.moving.gpt,
                        self._device,
                        self._autocast,
                        process_group=self._process_group,
                        tokens=self._answered,
                        stop=self.stop,
                    )
            except RuntimeError as error:
                if not is_out_of_memory(error) or self._answered == 1 or self._process_group.size > 1:
                    raise
            self._answered //= 2

    def _loss(self, tokens: Tokens, limit: int | None) -> Loss:
        while True:
            try:
                return split_loss(
                    self._loss_sum,
                    tokens,
                    self.config.model.block_size,
                    device=self._device,
                    limit=limit,
                    rows=self.rows,
                    autocast=self._autocast,
                    stop=self.stop,
                    process_group=self._process_group,
                )
            except RuntimeError as error:
                if (
                    not is_out_of_memory(error) or self.rows == 1 or self._process_group.size > 1
                ):  # the others wait for this pass
                    raise
            self.rows //= 2  # an evaluation must not end a run; how many at a time changes rounding alone
