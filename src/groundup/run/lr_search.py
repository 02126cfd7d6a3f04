"""Learning-rate search for a config and its data, by short runs; nothing is written to disk.

First a range test (Smith 2017, arXiv:1506.01186): one run in which the learning rate grows exponentially until the loss
rises. Then successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943): candidates below that point train for a
few steps each, with the configured schedule squeezed into them, and lower ones while the lowest is the best; the better
half is trained again for twice as long, until one is left. All start from the same weights and see the same batches.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from typing_extensions import override

from groundup.config.resolved import ResolvedConfig
from groundup.config.schema import Config
from groundup.config.sections import OptimizerConfig, ScheduleConfig
from groundup.data.windows import ShuffledWindows
from groundup.distributed.compile import parse_compile
from groundup.distributed.process_group import SINGLE_PROCESS
from groundup.errors import ConfigError, TrainingError, UsageError
from groundup.evaluation.loss import split_loss
from groundup.model.gpt import GPT
from groundup.model.ngram import leave_one_out
from groundup.optim.optimizer import peak_lrs, scale_lrs
from groundup.optim.run_length import StepLength, build_run_length
from groundup.optim.schedule import Schedule, build_schedule, squeezed
from groundup.planning.plan import DataSize, Plan
from groundup.planning.warnings import too_much_memory
from groundup.run.dataset import PreparedData, open_data
from groundup.run.init_model import build_initial_model
from groundup.run.parts import build_loader, build_loss, build_state
from groundup.run.resolve import detect_machine, resolve_config
from groundup.training.guard import LossGuard
from groundup.training.loop import StepInfo, fit
from groundup.ui.display import Display
from groundup.ui.panel import RunningMean
from groundup.utils.device import autocast, is_out_of_memory, loss_scaler

MIN_STEPS, MAX_STEPS = 8, 1_000_000  # of the last round
ROUNDS = 3
CANDIDATES = 2**ROUNDS
RUNS = 1 + CANDIDATES + CANDIDATES // 2 + CANDIDATES // 4
CANDIDATE_RATIO = 2.0  # a candidate's learning rate over that of the next
MAX_LOWER_CANDIDATES = 4  # added below, while the lowest is the best
RANGE_START_RATIO = 1e-3  # of the configured learning rate: where the range test starts
RANGE_DECADES = 4  # that the range test climbs in as many steps as the last round has
MAX_LEARNING_RATE, MIN_LEARNING_RATE = 10.0, 1e-12  # that a config allows
SMOOTHING = 0.8  # fraction of the previous mean that a step of the range test keeps
DIVERGED_LEARNT_FRACTION = 0.25  # of what was learnt is lost: diverged,
DIVERGED_LOSS_FRACTION = 0.05  # if that is also this fraction of the first loss


@dataclass(frozen=True)
class LRTrial:
    """One short run."""

    learning_rate: float
    loss: float | None  # nats per token, held out; None: it diverged


@dataclass(frozen=True)
class Round:
    """Candidates that trained equally long, by falling learning rate."""

    steps: int
    trials: list[LRTrial]


@dataclass(frozen=True)
class Tuned:
    """Result of a learning-rate search."""

    peak_lrs: dict[str, float]  # dotted key -> value: the learning rate, and other peaks scaled alike
    curve: list[tuple[float, float]]  # (learning rate, smoothed loss) of the range test
    diverged_at: float | None  # learning rate at which the loss rose; None: it never did
    rounds: list[Round]

    @property
    def learning_rate(self) -> float:
        return self.peak_lrs["optimizer.learning_rate"]

    @property
    def options(self) -> str:
        return " ".join(f"--{key} {value:g}" for key, value in self.peak_lrs.items())

    @property
    def at_the_edge(self) -> bool:
        """Whether no lower learning rate was tried, in runs of any length."""
        return self.learning_rate == self.rounds[0].trials[-1].learning_rate


class DivergenceDetector(LossGuard):
    """Rejects non-finite steps; requests a stop after one, or after a loss that is too high."""

    def __init__(self, overflows: Callable[[], bool] = lambda: False) -> None:
        """`overflows()`: whether a non-finite gradient is only fp16's loss scale being found."""
        super().__init__()
        self._is_overflow = overflows
        self.diverged = False

    @override
    def allows_step(self, step: int, loss: float, grad_norm: float) -> bool:
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return True
        self.diverged = self.diverged or not (math.isfinite(loss) and self._is_overflow())
        return False

    def check(self, loss: float, limit: float) -> None:
        """Treat a loss above `limit` as diverged."""
        self.diverged = self.diverged or loss > limit


class ShortRuns:
    """Short runs of a config from the same start, any number of times."""

    def __init__(self, config: ResolvedConfig, data: PreparedData) -> None:
        self.config, self.data = config, data
        self.device = torch.device(config.train.device)
        self.sequences = ShuffledWindows(data.train, config.model.block_size, config.train.seed)
        self.autocast = autocast(config.train.precision, self.device)

    def train(
        self,
        optimizer: OptimizerConfig,
        schedule: Schedule,
        steps: int,
        on_step: Callable[[StepInfo, DivergenceDetector], None] = lambda info, detector: None,
    ) -> float | None:
        """Held-out loss after so many steps, nats per token; None where the run diverged or `on_step` said so."""
        model = build_initial_model(self.config, SINGLE_PROCESS, text=self.data.train).to(self.device)
        _, loss, parallel = build_loss(self.config, model, self.device)
        scaler = loss_scaler(self.config.train.precision, self.device)
        detector = DivergenceDetector(lambda: scaler.is_enabled() and scaler.get_scale() >= 1)
        state = build_state(self.config, model, self.device, optimizer=optimizer, guard=detector, scaler=scaler)
        fit(
            loss,
            state,
            build_loader(self.config, self.sequences, self.device),
            schedule,
            StepLength(steps),
            grad_clip=optimizer.grad_clip,
            parallel=parallel,
            autocast=self.autocast,
            hooks=[lambda info: on_step(info, detector)],
            should_stop=lambda: detector.diverged,
        )
        if detector.diverged:
            return None
        with state.ema.swapped_in():
            value = self._held_out_loss(loss, model)
        return value if math.isfinite(value) else None

    def _held_out_loss(self, loss: torch.nn.Module, model: GPT) -> float:
        """Loss on the validation split; on the training split where nothing was held out."""
        with nullcontext() if self.data.val else leave_one_out(model):
            return split_loss(
                loss,
                self.data.val or self.data.train,
                self.config.model.block_size,
                device=self.device,
                limit=self.config.evaluate.tokens,
                rows=self.config.train.micro_batch_size,
                autocast=self.autocast,
            ).nats_per_token


def tune_learning_rate(config: Config, display: Display, *, steps: int) -> Tuned:
    """The learning rate with which `config` learns most in `steps` steps; the same again for the same seed.

    UsageError, ConfigError, DataError for what cannot be tried; TrainingError where nothing learns.
    """
    if not MIN_STEPS <= steps <= MAX_STEPS:
        raise UsageError(f"--steps {steps}: must be between {MIN_STEPS} and {MAX_STEPS:,}")
    data = open_data(config)
    machine, machine_line = detect_machine(config.train, Path())
    resolved = resolve_config(config, data.tokenizer.n_vocab, machine)
    runs, recipe = ShortRuns(resolved, data), config.optimizer
    schedule = _squeezed(resolved, runs.sequences.per_epoch)
    plan = Plan(resolved, machine, DataSize(runs.sequences.per_epoch, data.manifest.splits["val"].tokens))
    if plan.hopeless:
        raise ConfigError(f"model: {too_much_memory(plan)}")
    _announce(resolved, data, machine_line, steps, display)

    def train(rate: float, length: int) -> float | None:
        trial_schedule = build_schedule(schedule, rate, length, resolved.train.batch_tokens)
        return runs.train(scale_lrs(recipe, rate), trial_schedule, length)

    try:
        curve, diverged_at = range_test(runs, recipe, steps, display)
        rates = candidates(recipe, curve, diverged_at)
        lower = lower_candidates(recipe, rates[-1])
        rounds = successive_halving(train, rates, lower, steps, display.message)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        size = max(1, resolved.train.micro_batch_size // 2)
        raise TrainingError(
            f"{runs.device}: out of memory; give --train.micro_batch_size {size}, or a smaller model"
        ) from error
    best = min(rounds[-1].trials, key=by_loss).learning_rate
    chosen = scale_lrs(recipe, best)
    return Tuned({f"optimizer.{name}": value for name, value in peak_lrs(chosen).items()}, curve, diverged_at, rounds)


def _announce(config: ResolvedConfig, data: PreparedData, machine_line: str, steps: int, display: Display) -> None:
    display.message(machine_line)
    about = steps + ROUNDS * CANDIDATES * (steps >> (ROUNDS - 1))  # a round is half as many runs, twice as long
    display.message(f"length   about {about:,} steps of {config.train.batch_tokens:,} tokens, in {RUNS} runs or more")
    if parse_compile(config.train.compile):
        display.message("compile  off: so many short runs would compile for longer than they train")
    if data.val is None:
        display.message("warning  nothing was held out, so learning rates are compared by the training text")


def range_test(
    runs: ShortRuns, optimizer: OptimizerConfig, steps: int, display: Display
) -> tuple[list[tuple[float, float]], float | None]:
    """The smoothed loss at each of a growing row of learning rates, and the one at which it diverged, if any."""
    low, high = max(_limits(optimizer)[0], RANGE_START_RATIO * optimizer.learning_rate), _limits(optimizer)[1]
    decades = math.log10(high / low)
    total = max(1, math.ceil(steps * decades / RANGE_DECADES))
    mean, curve, risen = RunningMean(SMOOTHING), list[tuple[float, float]](), list[float]()

    def on_step(info: StepInfo, detector: DivergenceDetector) -> None:
        if info.applied:
            curve.append((info.lr, mean.add(info.loss)))
            first, least = curve[0][1], min(loss for _, loss in curve)
            rise = max(DIVERGED_LEARNT_FRACTION * (first - least), DIVERGED_LOSS_FRACTION * first)
            detector.check(mean.value, least + rise)
        if detector.diverged:
            risen.append(info.lr)
        display.step(replace(info, finished=info.finished or detector.diverged))

    display.message(f"range    the learning rate grows from {low:.1e}, {steps / RANGE_DECADES:g} steps per decade")
    runs.train(optimizer, lambda step, fraction: low * (high / low) ** (step / max(1, total - 1)), total, on_step)
    return curve, risen[0] if risen else None


def candidates(optimizer: OptimizerConfig, curve: list[tuple[float, float]], diverged_at: float | None) -> list[float]:
    """Learning rates below the one that diverged, the highest first; around the best of the curve if none did."""
    most = _limits(optimizer)[1]
    best = min(curve, key=lambda point: point[1])[0] if curve else optimizer.learning_rate
    top = min(most, diverged_at / CANDIDATE_RATIO**2 if diverged_at else best * CANDIDATE_RATIO**2)
    return _falling(optimizer, top, CANDIDATES)


def lower_candidates(optimizer: OptimizerConfig, rate: float) -> list[float]:
    """Learning rates below `rate`, the highest first, as far as a config allows."""
    return [new for new in _falling(optimizer, rate, MAX_LOWER_CANDIDATES + 1) if new < rate]


def _falling(optimizer: OptimizerConfig, top: float, n: int) -> list[float]:
    """`n` learning rates from `top` down, each CANDIDATE_RATIO lower, but none below what a config allows."""
    rates = [max(_limits(optimizer)[0], top / CANDIDATE_RATIO**i) for i in range(n)]
    return list(dict.fromkeys(scale_lrs(optimizer, rate).learning_rate for rate in rates))


def successive_halving(
    train: Callable[[float, int], float | None],
    rates: Sequence[float],
    lower: Sequence[float],
    steps: int,
    message: Callable[[str], None],
) -> list[Round]:
    """Rounds of ever fewer and longer runs, the last of them `steps` long. TrainingError where all of one diverge.

    `train` gives the held-out loss of a learning rate after so many steps, None where it diverges. `rates` fall, and
    so do those in `lower`, which are below them: the first round continues with these while its lowest is its best. A
    later round does while all of its own diverge, since what learns in a short run may diverge in a longer one.
    """
    rounds: list[Round] = []
    for n in range(ROUNDS):
        length = steps >> (ROUNDS - 1 - n)
        message(f"round {n + 1}  {len(rates)} learning rates, {length} steps each")
        trials: list[LRTrial] = []
        known = [trial.learning_rate for trial in rounds[0].trials] if rounds else lower
        for rate in [*rates, *(rate for rate in known if rate < rates[-1])]:
            lowest_is_best = bool(trials) and trials[-1].loss is not None and min(trials, key=by_loss) is trials[-1]
            if len(trials) >= len(rates) and not (_none_left(trials) if rounds else lowest_is_best):
                break
            trials.append(LRTrial(rate, train(rate, length)))
            loss = trials[-1].loss
            message(f"         {rate:<8g} {'diverged' if loss is None else f'{loss:.4f}'}")
        rounds.append(Round(length, trials))
        if _none_left(trials):
            start = RANGE_START_RATIO * trials[-1].learning_rate
            raise TrainingError(
                f"optimizer.learning_rate: the loss diverged from {trials[-1].learning_rate:g} up to {rates[0]:g}; "
                f"give --optimizer.learning_rate {start:.1g}, and tune again from there"
            )
        most = min(CANDIDATES >> (n + 1), max(1, len(trials) // 2))
        kept = sorted((trial for trial in trials if trial.loss is not None), key=by_loss)[:most]
        rates = sorted((trial.learning_rate for trial in kept), reverse=True)
    return rounds


def by_loss(trial: LRTrial) -> tuple[float, float]:
    """Sorting key: the loss, and of equal ones the lower learning rate first."""
    return (math.inf if trial.loss is None else trial.loss, trial.learning_rate)


def _none_left(trials: list[LRTrial]) -> bool:
    return all(trial.loss is None for trial in trials)


def _squeezed(config: ResolvedConfig, epoch_sequences: int) -> ScheduleConfig:
    """The configured schedule for runs of any length; ConfigError where it, or the run length, is impossible."""
    run_length = build_run_length(config.train, config.batch_size, epoch_sequences)
    total, tokens = run_length.total if isinstance(run_length, StepLength) else None, config.train.batch_tokens
    build_schedule(config.schedule, config.optimizer.learning_rate, total, tokens)  # says what is wrong with it
    return squeezed(config.schedule, total, tokens)


def _limits(optimizer: OptimizerConfig) -> tuple[float, float]:
    """The lowest and highest learning rate with which all peaks stay within what a config allows."""
    values = [value / optimizer.learning_rate for value in peak_lrs(optimizer).values()]
    return MIN_LEARNING_RATE / min(values), MAX_LEARNING_RATE / max(values)
