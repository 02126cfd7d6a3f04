"""Evaluator: losses, tasks and samples during a run; nothing here affects training."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

from torch import nn

from groundup.config.resolved import ResolvedConfig
from groundup.data.openings import begins_documents
from groundup.data.shards import Tokens
from groundup.distributed.parallelize import NoParallel
from groundup.distributed.process_group import ProcessGroup
from groundup.errors import DataError, UsageError
from groundup.evaluation.likelihood import default_batch_tokens, log_likelihoods
from groundup.evaluation.loss import Interrupted, Loss, split_loss
from groundup.evaluation.tasks import EvalTask, TaskResult, compute_result, open_tasks
from groundup.generation.completion import evaluating, prompt_ids, prompt_text
from groundup.generation.engine import Engine, Request
from groundup.generation.model_decoder import ModelDecoder
from groundup.generation.sampling import Sampling
from groundup.model.gpt import GPT
from groundup.model.ngram import leave_one_out
from groundup.run.dataset import PreparedData, held_out_prompt
from groundup.training.hooks import finite
from groundup.training.train_state import TrainState
from groundup.ui.display import Display
from groundup.utils.device import is_out_of_memory
from groundup.utils.plural import human_plural


@dataclass(frozen=True)
class EvalLosses:
    """Losses of an evaluation; None where there was none, or nothing was held out."""

    train_loss: float | None = None  # nats per token, dropout off
    val_loss: float | None = None  # nats per token
    bits_per_byte: float | None = None  # of the validation text


class Evaluator:
    """Evaluates a model while it trains, with the EMA of its weights if there is one."""

    def __init__(
        self,
        config: ResolvedConfig,
        data: PreparedData,
        model: GPT,
        state: TrainState,
        loss: nn.Module,
        parallel: NoParallel,
        process_group: ProcessGroup,
        *,
        autocast: Callable[[], AbstractContextManager[object]],
        display: Display,
        log: Callable[..., None],
        should_stop: Callable[[], bool],
    ) -> None:
        """`loss(ids, targets)` gives summed nats; `log(event, **values)` records results. DataError for bad tasks."""
        self._config, self._data, self._model, self._state, self._loss = config, data, model, state, loss
        self._parallel, self._process_group, self._autocast = parallel, process_group, autocast
        self._display, self._log, self._should_stop = display, log, should_stop
        self._device = next(model.parameters()).device
        per_process = -(-config.batch_size // process_group.size)
        self._batch_size = min(config.train.micro_batch_size, per_process)  # sequences; halved when memory runs out
        try:  # the first form of each
            tasks, tokenizer, block_size = config.evaluate.tasks, data.tokenizer, config.model.block_size
            self._tasks = open_tasks(tasks, tokenizer, all_formats=False, block_size=block_size)
        except (DataError, UsageError) as error:
            raise DataError(f"evaluate.tasks: {error} (--evaluate.tasks none turns tasks off)") from error
        # No more tokens at a time than a micro-batch has, which fits.
        self._task_tokens = min(default_batch_tokens(self._device), self._batch_size * config.model.block_size)
        self._prompt = config.evaluate.prompt or held_out_prompt(data)
        starts = begins_documents(data.manifest)
        self._prompt_ids = prompt_ids(tokenizer, self._prompt, begins_documents=starts)
        self.losses = EvalLosses()  # of the last evaluation

    def evaluate(self, step: int) -> None:
        """Measure, log and display the losses of both splits and the tasks; nothing where a stop was requested."""
        limit, block_size, val = self._config.evaluate.tokens, self._config.model.block_size, None
        try:
            with self._state.ema.swapped_in():
                if self._data.val is not None:
                    val = self._split_loss(self._data.val, limit)
                with leave_one_out(self._model):
                    train = self._split_loss(self._data.train, val.scored if val else limit or block_size * 64)
                results = [self._run_task(task) for task in self._tasks]
        except Interrupted:
            return  # `run_missed_eval` runs it when the run is resumed
        split = self._data.manifest.splits["val"]
        self.losses = EvalLosses(
            train.nats_per_token,
            val.nats_per_token if val else None,
            val.bits_per_byte(split.tokens, split.bytes) if val else None,
        )
        losses = {k: finite(v) for k, v in asdict(self.losses).items() if v is not None}
        tasks = {"tasks": {result.task: result.flat() for result in results}} if results else {}
        self._log("eval", step=step, **losses, **tasks)
        for result in results:
            self._display.message(f"step {step:,}: {result}")
        if self.losses.val_loss is not None:
            self._display.evaluation(
                step=step,
                train_loss=train.nats_per_token,
                val_loss=self.losses.val_loss,
                bits_per_byte=self.losses.bits_per_byte,
            )
            self._update_best(step, self.losses.val_loss)

    def run_missed_eval(self, *, finished: bool = False) -> bool:
        """Run the evaluation that was due when a stop came: which loss is best must not depend on interruptions.

        Returns whether there was one and it is complete, so that the checkpoint of this step is to be saved again.
        """
        n, step = self._config.evaluate.every_steps, self._state.progress.step
        due = finished or (n and step and step % n == 0)
        if not due or not self.missed:
            return False
        self.evaluate(step)
        return not self.missed

    @property
    def missed(self) -> bool:
        """Whether the loss at the current step has not been measured, though it could be."""
        return self._state.best.seen < self._state.progress.step and self._data.val is not None

    def sample(self, step: int) -> None:
        """Continue the configured prompt; log and display the text."""
        n = self._config.evaluate.sample_tokens
        if not n:
            return
        try:
            text = self._generate(n)
        except RuntimeError as error:
            if not is_out_of_memory(error) or self._process_group.size > 1:  # the others wait for the next token
                raise
            self._display.message(f"step {step:,}: no memory for a sample")
            return
        if text is not None:
            self._log("sample", step=step, text=text)
            self._display.sample(text)

    def dry_run(self) -> None:
        """A batch of an evaluation and of each task, and one token of a sample: shows early whether memory suffices."""
        with self._state.ema.swapped_in():
            self._split_loss(self._data.train, self._process_group.size * self._rows() * self._config.model.block_size)
            for task in self._tasks:
                self._run_task(task.longest(self._process_group.size * self._task_tokens))
        self._generate(1)

    def _update_best(self, step: int, val_loss: float) -> None:
        best = self._state.best
        best.update(step, val_loss)
        if best.since == self._config.train.early_stopping_patience:
            lowest = f"{best.loss:.4f} at step {best.step:,}"
            self._display.message(
                f"no better validation loss in {human_plural(best.since, 'evaluation')}: the best was {lowest}"
            )

    def _generate(self, n: int) -> str | None:
        """The prompt and `n` tokens after it; None where a stop was requested."""
        tokenizer = self._data.tokenizer
        text = prompt_text(tokenizer, self._prompt)
        # Weights change until the next sample, and may be sharded: nothing is prepared for them.
        decoder = ModelDecoder(self._model, self._device, 1)
        agree = self._process_group.broadcast
        engine = Engine(self._model, tokenizer, self._device, slots=1, agree=agree, decoder=decoder)
        # The same draws each time, so that samples can be compared.
        engine.add(Request(tuple(self._prompt_ids), n, Sampling(0.8, top_k=200, seed=0)))
        with self._state.ema.swapped_in(), self._parallel.unsharded(), evaluating(self._model):
            while not engine.idle:
                if self._should_stop():
                    return None
                text += "".join(piece.text for piece in engine.step())
        return text

    def _run_task(self, task: EvalTask) -> TaskResult:
        while True:
            try:
                with self._parallel.unsharded():
                    found = log_likelihoods(
                        self._model,
                        task.pairs,
                        device=self._device,
                        autocast=self._autocast,
                        process_group=self._process_group,
                        tokens=self._task_tokens,
                        stop=self._should_stop,
                    )
                return compute_result(task, *found)
            except RuntimeError as error:
                if not is_out_of_memory(error) or self._task_tokens == 1 or self._process_group.size > 1:
                    raise
            self._task_tokens //= 2

    def _split_loss(self, tokens: Tokens, limit: int | None) -> Loss:
        while True:
            try:
                return split_loss(
                    self._loss,
                    tokens,
                    self._config.model.block_size,
                    device=self._device,
                    limit=limit,
                    rows=self._rows(),
                    autocast=self._autocast,
                    stop=self._should_stop,
                    process_group=self._process_group,
                )
            except RuntimeError as error:
                # Several processes cannot retry: the others wait for this pass.
                if not is_out_of_memory(error) or self._rows() == 1 or self._process_group.size > 1:
                    raise
            # An evaluation must not end a run; the number of sequences at a time changes rounding only.
            self._batch_size = self._rows() // 2

    def _rows(self) -> int:
        """Sequences at a time: no more than training's micro-batch, which may have been halved."""
        return min(self._batch_size, self._state.micro_batch_size)
