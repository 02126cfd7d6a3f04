"""A learning rate for a config and its data, found by short runs; nothing is written to disk.

First a range test (Smith 2017, arXiv:1506.01186): one run in which the learning rate grows exponentially until the loss
rises. Then successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943): candidates below that point train for a
few steps each, with the configured schedule squeezed into them, and lower ones while the lowest is the best; the better
half trains anew for twice as long, until one is left. All start from the same weights and see the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from groundup.config.schema import Config
from groundup.config.sections import OptimizerConfig, ScheduleConfig
from groundup.data.windows import ShuffledWindows
from groundup.distributed.activation_checkpointing import apply_activation_checkpointing
from groundup.distributed.compile import check as check_compile
from groundup.distributed.parallelize import NoParallel
from groundup.distributed.process_group import SingleProcess
from groundup.distributed.thread_parallel import thread_parallel
from groundup.errors import ConfigError, TrainingError, UsageError
from groundup.evaluation.loss import split_loss
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.optim.ema import EMA, NoEMA
from groundup.optim.optimizer import build_optimizer, peak_lrs, scale_lrs
from groundup.optim.run_length import StepLength, build_run_length
from groundup.optim.schedule import Schedule, build_schedule, squeezed
from groundup.planning.plan import Data as Sizes
from groundup.planning.report import too_much_memory
from groundup.run.halving import CANDIDATES, LOWEST, ROUNDS, Round, rank, successive_halving
from groundup.run.here import plan_here
from groundup.run.init_model import build_initial_model
from groundup.run.resolve import PreparedData, open_data, resolve_config
from groundup.training.loop import Progress, StepInfo, fit
from groundup.training.micro_batches import BatchLoader
from groundup.training.seq_len_warmup import build_ramp
from groundup.ui.display import Display
from groundup.ui.panel import RunningMean
from groundup.utils.device import autocast, loss_scaler, reseed
from groundup.utils.exhausted import is_out_of_memory
from groundup.utils.hashing import mix64

FEWEST, MOST = 8, 1_000_000  # steps of the last round that make sense
RUNS = 1 + CANDIDATES + CANDIDATES // 2 + CANDIDATES // 4
APART = 2.0  # a candidate's learning rate over that of the next
LOWER = 4  # candidates added below at most, while the lowest is the best
DECADES = 4  # that it climbs in as many steps as the last round has
HIGHEST_RATE, LOWEST_RATE = 10.0, 1e-12  # what a config allows
SMOOTHING = 0.8  # share of the old mean that a step of the range test keeps
ROSE, CLEARLY = 0.25, 0.05  # diverged: a quarter of what was learnt is lost, and that is 5 % of the first loss


@dataclass(frozen=True)
class Tuned:
    """What was found."""

    peak_lrs: dict[str, float]  # dotted key -> value: the learning rate, and other peaks scaled alike
    curve: list[tuple[float, float]]  # (learning rate, smoothed loss) of the range test
    diverged_at: float | None  # learning rate at which the loss rose; None: it never did
    rounds: list[Round]

    @property
    def learning_rate(self) -> float:
        """The best of the candidates."""
        return self.peak_lrs["optimizer.learning_rate"]

    @property
    def options(self) -> str:
        """As the command line takes them."""
        return " ".join(f"--{key} {value:g}" for key, value in self.peak_lrs.items())

    @property
    def at_the_edge(self) -> bool:
        """Whether no lower learning rate was tried, in runs of any length."""
        return self.learning_rate == self.rounds[0].trials[-1].learning_rate


class DivergenceDetector:
    """Turns away what is not finite, and then asks to stop; so may others."""

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self._scaler = scaler
        self.diverged = False

    def allows_step(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether a step may change the weights."""
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return True
        overflow = math.isfinite(loss) and self._scaler.is_enabled() and self._scaler.get_scale() >= 1
        self.diverged = self.diverged or not overflow  # an overflow is fp16 finding its scale
        return False

    def stop(self) -> bool:
        """Whether there is nothing left to learn from this run."""
        return self.diverged


class ShortRuns:
    """A settled config and its data, to be trained from the same start as often as wanted."""

    def __init__(self, config: Config, data: PreparedData) -> None:
        self.config, self.data = config, data
        self.device = torch.device(config.train.device)
        self.windows = ShuffledWindows(data.train, config.model.block_size, config.train.seed)
        self.autocast = autocast(config.train.precision, self.device)

    def train(
        self,
        optimizer: OptimizerConfig,
        schedule: Schedule,
        steps: int,
        see: Callable[[StepInfo, DivergenceDetector], None] = lambda info, watcher: None,
    ) -> float | None:
        """Held-out loss after so many steps, nats a token; None where the run diverged or `see` said so."""
        config, seed = self.config, self.config.train.seed
        gpt = build_initial_model(config, SingleProcess(), text=self.data.train).to(self.device)
        apply_activation_checkpointing(gpt, config.recomputed_of(config.micro_rows))
        loss_sum = thread_parallel(NextTokenLoss(gpt), config.shares)
        average = EMA(gpt, optimizer.ema_decay) if optimizer.ema_decay else NoEMA()
        scaler = loss_scaler(config.train.precision, self.device)
        watcher = DivergenceDetector(scaler)
        fit(
            loss_sum,
            build_optimizer(gpt.named_parameters(), optimizer, config.train.precision),
            BatchLoader(self.windows, config.rows, config.micro_rows, self.device),
            schedule,
            StepLength(steps),
            Progress(),
            clip=optimizer.grad_clip,
            autocast=self.autocast,
            scaler=scaler,
            peers=NoParallel(),
            reseed=lambda step: reseed(int(mix64(seed, step)[0]), self.device),
            guard=watcher,
            average=average.update,
            stop=watcher.stop,
            hooks=[lambda info: see(info, watcher)],
            context=build_ramp(config),
        )
        if watcher.diverged:
            return None
        with average.swapped_in():
            loss = self._held_out(loss_sum, gpt)
        return loss if math.isfinite(loss) else None

    def _held_out(self, loss_sum: torch.nn.Module, gpt: GPT) -> float:
        """Of the training split, where nothing was held out."""
        with nullcontext() if self.data.val else gpt.ngrams.on_counted_text():
            return split_loss(
                loss_sum,
                self.data.val or self.data.train,
                self.config.model.block_size,
                device=self.device,
                limit=self.config.evaluate.tokens,
                rows=self.config.micro_rows,
                autocast=self.autocast,
            ).nats_per_token


def tune_learning_rate(config: Config, display: Display, *, steps: int) -> Tuned:
    """The learning rate with which `config` learns most in `steps` steps; the same again for the same seed.

    UsageError, ConfigError, DataError for what cannot be tried; TrainingError where nothing learns.
    """
    if not FEWEST <= steps <= MOST:
        raise UsageError(f"--steps {steps}: must be between {FEWEST} and {MOST:,}")
    data = open_data(config)
    config, machine = resolve_config(config, data.tokenizer)
    bench = ShortRuns(config, data)
    schedule = _squeezed(config, bench.windows.windows)
    plan = plan_here(config, Sizes(bench.windows.windows, data.manifest.splits["val"].tokens), Path())
    if plan.hopeless:
        raise ConfigError(f"model: {too_much_memory(plan)}")
    display.message(machine)
    about = steps + ROUNDS * CANDIDATES * (steps >> (ROUNDS - 1))  # a round is half as many runs, twice as long
    display.message(f"length   about {about:,} steps of {config.train.batch_tokens:,} tokens, in {RUNS} runs or more")
    if check_compile(config.train.compile):
        display.message("compile  off: so many short runs would compile for longer than they train")
    if data.val is None:
        display.message("warning  nothing was held out, so learning rates are compared by the training text")
    try:
        curve, diverged_at = range_test(bench, steps, display)
        rates = candidates(config.optimizer, curve, diverged_at)
        rounds = successive_halving(
            partial(_tried, bench, schedule), rates, lower(config.optimizer, rates[-1]), steps, display.message
        )
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        rows = max(1, config.micro_rows // 2)
        raise TrainingError(
            f"{bench.device}: out of memory; give --train.micro_batch_size {rows}, or a smaller model"
        ) from error
    best = min(rounds[-1].trials, key=rank).learning_rate
    chosen = scale_lrs(config.optimizer, best)
    return Tuned({f"optimizer.{name}": value for name, value in peak_lrs(chosen).items()}, curve, diverged_at, rounds)


def range_test(bench: ShortRuns, steps: int, display: Display) -> tuple[list[tuple[float, float]], float | None]:
    """The smoothed loss at each learning rate of a growing row, and the one at which it rose clearly, if any."""
    optimizer = bench.config.optimizer
    low, high = max(_limits(optimizer)[0], LOWEST * optimizer.learning_rate), _limits(optimizer)[1]
    decades = math.log10(high / low)
    total = max(1, math.ceil(steps * decades / DECADES))
    mean, curve, risen = RunningMean(SMOOTHING), list[tuple[float, float]](), list[float]()

    def see(info: StepInfo, watcher: DivergenceDetector) -> None:
        if info.applied:
            curve.append((info.lr, mean.add(info.loss)))
            first, least = curve[0][1], min(loss for _, loss in curve)
            watcher.diverged = mean.value > least + max(ROSE * (first - least), CLEARLY * first)
        if watcher.diverged:
            risen.append(info.lr)
        display.step(replace(info, finished=info.finished or watcher.diverged))

    display.message(f"range    the learning rate grows from {low:.1e}, {steps / DECADES:g} steps a decade")
    bench.train(optimizer, lambda step, fraction: low * (high / low) ** (step / max(1, total - 1)), total, see)
    return curve, risen[0] if risen else None


def candidates(optimizer: OptimizerConfig, curve: list[tuple[float, float]], diverged_at: float | None) -> list[float]:
    """Learning rates below the one that diverged, the highest first; around the best of the curve if none did."""
    least, most = _limits(optimizer)
    best = min(curve, key=lambda point: point[1])[0] if curve else optimizer.learning_rate
    top = min(most, diverged_at / APART**2 if diverged_at else best * APART**2)
    rates = [max(least, top / APART**i) for i in range(CANDIDATES)]
    return list(dict.fromkeys(scale_lrs(optimizer, rate).learning_rate for rate in rates))


def lower(optimizer: OptimizerConfig, rate: float) -> list[float]:
    """Learning rates below `rate`, the highest first, as far as a config allows."""
    least = _limits(optimizer)[0]
    below = [scale_lrs(optimizer, max(least, rate / APART**i)).learning_rate for i in range(1, LOWER + 1)]
    return [new for new in dict.fromkeys(below) if new < rate]


def _tried(bench: ShortRuns, schedule: ScheduleConfig, rate: float, steps: int) -> float | None:
    trial_schedule = build_schedule(schedule, rate, steps, bench.config.train.batch_tokens)
    return bench.train(scale_lrs(bench.config.optimizer, rate), trial_schedule, steps)


def _squeezed(config: Config, windows: int) -> ScheduleConfig:
    """The configured schedule for runs of any length; ConfigError where it, or the horizon, is impossible."""
    horizon, tokens = build_run_length(config, windows), config.train.batch_tokens
    total = horizon.total if isinstance(horizon, StepLength) else None
    build_schedule(config.schedule, config.optimizer.learning_rate, total, tokens)  # says what is wrong with it
    return squeezed(config.schedule, total, tokens)


def _limits(optimizer: OptimizerConfig) -> tuple[float, float]:
    """The lowest and highest learning rate with which all peaks stay within what a config allows."""
    values = [value / optimizer.learning_rate for value in peak_lrs(optimizer).values()]
    return LOWEST_RATE / min(values), HIGHEST_RATE / max(values)
