"""The composition root: the one place that knows every part, and puts a run together from its config."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from groundup.checkpoint import state
from groundup.checkpoint.run import Log, RunFolder
from groundup.config import Config
from groundup.data.batches import Batches
from groundup.data.shards import Tokens
from groundup.errors import CheckpointError, ConfigError, TrainingError
from groundup.evaluation.loss import Loss, split_loss
from groundup.generation.engine import TextStream, stream
from groundup.generation.sampling import Sampler
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.optim.rules import build_optimizer
from groundup.optim.schedule import build_schedule
from groundup.report.view import View
from groundup.seeds import mix
from groundup.settle import Data, prompt_ids, prompt_text
from groundup.training.best import Best, EarlyEnd
from groundup.training.device import autocast, reseed
from groundup.training.exhausted import exhausted
from groundup.training.feed import Feed
from groundup.training.guard import Guard
from groundup.training.hooks import StopSignals, every, finite, log_step
from groundup.training.horizon import Clock, Steps, build_horizon
from groundup.training.loop import Hook, Progress, StepInfo, fit


@dataclass(frozen=True)
class Losses:
    """What the last evaluation found; None where there was none, or nothing held out."""

    train_loss: float | None = None  # nats a token, dropout off
    val_loss: float | None = None  # nats a token
    bits_per_byte: float | None = None  # of the validation text


@dataclass(frozen=True)
class Result:
    """How a training run ended."""

    run: Path
    checkpoint: Path
    step: int
    tokens: int
    losses: Losses
    best: Best  # the lowest validation loss of the run
    signal: int | None = None  # what stopped the run before its horizon


class Training:
    """One run, put together and ready to go."""

    def __init__(self, config: Config, data: Data, folder: RunFolder, view: View) -> None:
        """`config` must be settled. ConfigError, DataError where it asks for what this data cannot give."""
        if config.train.patience and data.val is None:
            raise ConfigError("train.patience: nothing was held out to measure; prepare with --val-fraction 0.1")
        self.config, self.data, self.folder, self.view = config, data, folder, view
        self.device = torch.device(config.train.device)
        torch.set_num_threads(config.train.threads or 1)
        seed = config.batches.seed
        self.gpt = GPT(config.model).init_weights(torch.Generator().manual_seed(seed)).to(self.device)
        self.loss_sum = NextTokenLoss(self.gpt)
        self.optimizer = build_optimizer(self.gpt.named_parameters(), config.optimizer, config.train.precision)
        self.windows = Batches(data.train, config.model.block_size, seed)
        self.horizon: Steps | Clock = build_horizon(config, self.windows.windows)
        self.progress, self.best = Progress(), Best()
        self.autocast = autocast("bf16" if config.train.precision == "bf16" else "fp32", self.device)
        self.prompt = prompt_ids(data.tokenizer, config.evaluate.prompt)
        self.losses = Losses()
        self.saved: Path | None = None
        self.resumed_from: Path | None = None

    def restore(self, checkpoint: Path) -> None:
        """Go back to where a checkpoint stood; CheckpointError when it belongs to other data."""
        values = state.load_progress(checkpoint)
        if values.pop("data") != self.data.manifest.fingerprint:
            raise CheckpointError(
                f"{self.config.data}: not the data that this run was trained on; give its folder with --data"
            )
        self.progress = Progress(**{field.name: values[field.name] for field in fields(Progress)})
        self.best = Best(**values.get("best", {}))
        state.load_model(checkpoint, self.gpt)
        state.load_optimizer(checkpoint, self.gpt, self.optimizer)
        self.saved = self.resumed_from = checkpoint

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self._end().reached(self.progress)

    def run(self) -> Result:
        """Train to the horizon, or until a signal; the last thing written is always a whole checkpoint."""
        signal = None if self.done else self._train()
        assert self.saved is not None, "every way out of the loop saves"
        ended_by = None if self.done else signal
        progress = self.progress
        return Result(self.folder.path, self.saved, progress.step, progress.tokens, self.losses, self.best, ended_by)

    def _end(self) -> EarlyEnd:
        return EarlyEnd(self.horizon, self.best, self.config.train.patience, self.config.train.stop_after)

    def _train(self) -> int | None:
        config = self.config
        total = self.horizon.total if isinstance(self.horizon, Steps) else None
        try:
            self.log = Log(self.folder.log)
            with closing(self.log), StopSignals(self._say_stopping) as stop:
                if self.resumed_from:
                    self.log.write("resume", step=self.progress.step, checkpoint=self.resumed_from.name)
                    self._catch_up()
                fit(
                    self.loss_sum,
                    self.optimizer,
                    Feed(self.windows, config.rows, config.micro_rows, self.device),
                    build_schedule(config.schedule, config.optimizer.learning_rate, total),
                    self._end(),
                    self.progress,
                    clip=config.optimizer.grad_clip,
                    autocast=self.autocast,
                    reseed=self._reseed,
                    guard=Guard(),
                    stop=stop,
                    hooks=self._hooks(),
                )
        except OSError as error:
            last = self.saved or "none yet"
            reason = error.strerror or error
            raise CheckpointError(
                f"{self.folder.path}: cannot be written ({reason}); last checkpoint: {last}"
            ) from error
        except RuntimeError as error:
            if not exhausted(error):
                raise
            rows = max(1, config.micro_rows // 2)
            raise TrainingError(
                f"{self.device}: out of memory; give --batches.micro_batch {rows}, or a smaller model"
            ) from error
        return stop.received

    def _say_stopping(self) -> None:
        self.view.message("stopping after this step, with a checkpoint; Ctrl-C again stops at once")

    def _hooks(self) -> list[Hook]:
        """In the order in which they look at a step; saving comes last."""
        c = self.config
        return [
            log_step(self.log.write),
            self._show,
            every(c.evaluate.every_steps, lambda info: self._evaluate(info.step)),
            every(c.evaluate.sample_every_steps, self._sample),
            self._save_best,
            every(c.checkpoint.every_steps, self._save, when_stopping=True),
        ]

    def _reseed(self, step: int) -> None:
        # Dropout is a function of (seed, step), so neither evaluation nor an interruption can shift it.
        reseed(int(mix(self.config.batches.seed, step)[0]), self.device)

    def _show(self, info: StepInfo) -> None:
        if not info.applied:
            self.view.message(f"step {info.step}: loss {info.loss}, gradient norm {info.grad_norm}: not applied")
        self.view.step(
            step=info.step,
            loss=info.loss,
            lr=info.lr,
            grad_norm=info.grad_norm,
            dt=info.dt,
            tokens_per_s=info.tokens_per_s,
            tokens=info.tokens,
            progress=1.0 if info.finished else info.fraction,
            elapsed=info.elapsed,
        )

    def _loss(self, tokens: Tokens, limit: int | None) -> Loss:
        return split_loss(
            self.loss_sum,
            tokens,
            self.config.model.block_size,
            device=self.device,
            limit=limit,
            rows=self.config.micro_rows,
            autocast=self.autocast,
        )

    def _catch_up(self) -> None:
        """The evaluation that was due when a stop came: which loss was best must not depend on interruptions."""
        n, step = self.config.evaluate.every_steps, self.progress.step
        if n and step and step % n == 0 and self.best.seen < step and self.data.val is not None:
            self._evaluate(step)

    def _evaluate(self, step: int) -> None:
        limit, split, val = self.config.evaluate.tokens, self.data.manifest.splits["val"], None
        if self.data.val is not None:
            val = self._loss(self.data.val, limit)
        train = self._loss(self.data.train, val.scored if val else limit or self.windows.block_size * 64)
        self.losses = Losses(
            train.nats_per_token,
            val.nats_per_token if val else None,
            val.bits_per_byte(split.tokens, split.bytes) if val else None,
        )
        self.log.write("eval", step=step, **{k: finite(v) for k, v in asdict(self.losses).items() if v is not None})
        if self.losses.val_loss is not None:
            self.view.evaluation(
                step=step,
                train_loss=train.nats_per_token,
                val_loss=self.losses.val_loss,
                bits_per_byte=self.losses.bits_per_byte,
            )
            self.best.see(step, self.losses.val_loss)
            if self.best.since == self.config.train.patience:
                best = f"{self.best.loss:.4f} at step {self.best.step:,}"
                self.view.message(f"no better validation loss in {self.best.since} evaluations: the best was {best}")

    def _sample(self, info: StepInfo) -> None:
        n, tokenizer = self.config.evaluate.sample_tokens, self.data.tokenizer
        if not n:
            return
        text = TextStream(tokenizer.decode_bytes)
        choose = Sampler(t=0.8, k=200, seed=0)  # the same draws each time, so that samples can be compared
        rows = stream(
            self.gpt, self.prompt, choose, device=self.device, max_tokens=n, end_of_text=tokenizer.end_of_text
        )
        written = prompt_text(tokenizer, self.config.evaluate.prompt) + "".join(
            text.feed(row[0]) for row in rows if row[0] is not None
        )
        self.log.write("sample", step=info.step, text=written)
        self.view.sample(written)

    def _save_best(self, info: StepInfo) -> None:
        if self.config.checkpoint.best and self.best.step == info.step:
            self._save(info)

    def _save(self, info: StepInfo) -> None:
        folder = self.folder.checkpoint(info.step)
        if folder == self.saved:
            return
        progress = {**asdict(self.progress), "best": asdict(self.best), "data": self.data.manifest.fingerprint}
        state.save(folder, self.config, self.data.tokenizer, progress, self.gpt, self.optimizer)
        self.log.write("save", step=info.step, checkpoint=folder.name)
        self.folder.point("latest", folder)
        best = self.folder.checkpoint(self.best.step) if self.config.checkpoint.best else None
        if best and best.is_dir():
            self.folder.point("best", best)
        self.folder.prune(self.config.checkpoint.keep_last, spared=best)
        self.saved = folder
