"""Comparison of runs by validation loss: at equal tokens, steps and time, and what each needed to reach one loss.

Between two evaluations a loss is interpolated linearly and marked as such; nothing is extrapolated. No torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from typing_extensions import override

from groundup.checkpoint.data_match import Answer, RunText, same_text, same_tokenizer, text_of_run
from groundup.checkpoint.files import PROGRESS, read_field
from groundup.checkpoint.log import Evaluation, History, read_history
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.merge import diff, flatten, get
from groundup.config.schema import Config
from groundup.errors import CheckpointError, UsageError
from groundup.model.size import parameters
from groundup.utils.files import distinct_names, resolved

MAX_RUNS = 12  # more fit neither a table nor a plot

Axis = Literal["tokens", "step", "seconds"]  # attributes of an Evaluation
AXES: tuple[Axis, ...] = ("tokens", "step", "seconds")
Measure = Literal["val_loss", "bits_per_byte"]  # likewise


@dataclass(frozen=True)
class Reading:
    """A value read off a run's curve."""

    value: float
    interpolated: bool  # between two evaluations
    first: bool = False  # at the first evaluation, so that the loss may have been reached earlier


class Curve:
    """Loss of a run as a function of tokens, steps or seconds, piecewise linear between evaluations."""

    def __init__(self, points: Sequence[Evaluation], measure: Measure) -> None:
        self.points, self.losses = points, [float(getattr(point, measure)) for point in points]

    def positions(self, axis: Axis) -> list[float]:
        """Positions of the evaluations on an axis."""
        return [float(getattr(point, axis)) for point in self.points]

    def loss_at(self, axis: Axis, position: float) -> Reading:
        """Loss at a position, which must lie between the first evaluation and the last."""
        positions = self.positions(axis)
        assert positions[0] <= position <= positions[-1], "nothing is extrapolated"
        return Reading(float(np.interp(position, positions, self.losses)), position not in positions)

    def lr_at(self, axis: Axis, position: float) -> float | None:
        """Learning rate at a position; None if the log does not have it."""
        known = [(float(getattr(point, axis)), point.lr) for point in self.points if point.lr is not None]
        return float(np.interp(position, [x for x, _ in known], [lr for _, lr in known])) if known else None

    def first_reaching(self, axis: Axis, loss: float) -> Reading:
        """Position at which the loss was first reached; it must have been."""
        positions = self.positions(axis)
        i = next(i for i, found in enumerate(self.losses) if found <= loss)
        if i == 0:
            return Reading(positions[0], interpolated=False, first=self.losses[0] < loss)
        above, below = self.losses[i - 1], self.losses[i]
        fraction = (above - loss) / (above - below)
        return Reading(positions[i - 1] + fraction * (positions[i] - positions[i - 1]), interpolated=below < loss)


@dataclass(frozen=True)
class Run:
    """One run of a comparison."""

    name: str  # of its folder, with as many parent folders as distinguish it from the others
    path: Path
    config: Config
    history: History
    points: tuple[Evaluation, ...]  # evaluations that have the measure, all on one text
    text: RunText
    machine: tuple[object, ...]  # hardware, processes and threads, which its time depends on

    @property
    def parameters(self) -> int:
        return parameters(self.config.model)


@dataclass(frozen=True)
class EqualPoint:
    """Losses of all runs at one position of an axis."""

    at: float
    losses: tuple[Reading, ...]
    lr: tuple[float | None, ...]  # learning rate there, as a fraction of the run's peak


@dataclass(frozen=True, repr=False)
class Comparison:
    """Several runs compared; sequences are in the order of `runs`."""

    runs: tuple[Run, ...]
    measure: Measure  # nats per token, or bits per byte if tokenizers differ
    same_text: Answer  # whether all losses are of one validation text
    equal: dict[Axis, EqualPoint | None]  # None if one run's first evaluation came after another's last
    target: float  # the lowest loss that all have reached
    needed: dict[Axis, tuple[Reading, ...]]  # to reach the target
    settings: dict[str, tuple[Any, ...]]  # dotted config keys that differ

    @override
    def __repr__(self) -> str:
        lowest = (f"{run.name} {min(getattr(point, self.measure) for point in run.points):.4f}" for run in self.runs)
        return f"Comparison(lowest {self.measure}: {', '.join(lowest)})"


def compare_runs(runs: Sequence[str | PathLike[str]], *, at_tokens: int | None = None) -> Comparison:
    """Compare runs; see `table.compare`, which is the public one."""
    paths = [Path(run) for run in runs]
    _check_paths(paths)
    folders = [RunFolder(path) for path in paths]
    configs = [folder.config() for folder in folders]
    texts = [text_of_run(folder, config) for folder, config in zip(folders, configs, strict=True)]
    measure: Measure = "val_loss" if same_tokenizer(texts) == "same" else "bits_per_byte"
    histories = [read_history(folder.log) for folder in folders]
    names = distinct_names({resolved(path): 1 for path in paths}).values()
    compared = tuple(
        Run(name, folder.path, config, history, _points(folder, history, measure), text, _machine(folder, config))
        for name, folder, config, history, text in zip(names, folders, configs, histories, texts, strict=True)
    )
    curves = [Curve(run.points, measure) for run in compared]
    equal: dict[Axis, EqualPoint | None] = {}
    for axis in AXES:
        end = min(curve.positions(axis)[-1] for curve in curves)  # of the run that is shortest on this axis
        begun = all(curve.positions(axis)[0] <= end for curve in curves)
        equal[axis] = _equal_point(axis, end, compared, curves) if begun else None
    if at_tokens is not None:
        for run in compared:
            first, last = run.points[0].tokens, run.points[-1].tokens
            if not first <= at_tokens <= last:
                raise UsageError(
                    f"at_tokens {at_tokens:,}: {run.path} was evaluated from {first:,} to {last:,} tokens; "
                    "give a number between"
                )
        equal["tokens"] = _equal_point("tokens", at_tokens, compared, curves)
    target = max(min(curve.losses) for curve in curves)
    needed = {axis: tuple(curve.first_reaching(axis, target) for curve in curves) for axis in AXES}
    return Comparison(compared, measure, same_text(texts), equal, target, needed, settings(configs, texts))


def _equal_point(axis: Axis, position: float, runs: Sequence[Run], curves: Sequence[Curve]) -> EqualPoint:
    peaks = [run.config.optimizer.learning_rate for run in runs]
    rates = [curve.lr_at(axis, position) for curve in curves]
    lr = tuple(rate and rate / peak for rate, peak in zip(rates, peaks, strict=True))
    return EqualPoint(position, tuple(curve.loss_at(axis, position) for curve in curves), lr)


def settings(configs: Sequence[Config], texts: Sequence[RunText]) -> dict[str, tuple[Any, ...]]:
    """Dotted keys in which configs differ, in the config's order, with the value of each run.

    A different path to the same data is no difference.
    """
    keys = {key for config in configs for key in diff(configs[0], config)}
    if len({text.data for text in texts}) == 1 and texts[0].data is not None:
        keys.discard("data")
    ordered = [key for key, _ in flatten(configs[0].model_dump()) if key in keys]
    return {key: tuple(get(config, key) for config in configs) for key in ordered}


def _check_paths(paths: Sequence[Path]) -> None:
    if not 1 <= len(paths) <= MAX_RUNS:
        raise UsageError(f"{len(paths)} runs: from 1 to {MAX_RUNS} can be compared; leave some out")
    seen: dict[Path, Path] = {}
    for path in paths:
        folder = resolved(path)
        if folder in seen:
            raise UsageError(f"{path}: the same run twice (also as {seen[folder]}); name each once")
        seen[folder] = path


def _points(folder: RunFolder, history: History, measure: Measure) -> tuple[Evaluation, ...]:
    """Evaluations that have the measure, on the last text that any is of; CheckpointError if none has."""
    found = tuple(point for point in history.evaluations if getattr(point, measure) is not None)
    if found:
        return tuple(point for point in found if point.text == found[-1].text)
    if not history.evaluations:
        what = "no evaluation yet; let it train until evaluate.every_steps"
    elif all(point.val_loss is None for point in history.evaluations):
        what = "no validation loss that is a number; if nothing was held out, prepare with --val-fraction 0.1"
    else:
        what = "no bits per byte, without which runs of different tokenizers cannot be compared; leave it out"
    raise CheckpointError(f"{folder.log}: {what}")


def _machine(folder: RunFolder, config: Config) -> tuple[object, ...]:
    """Hardware, processes and threads of a run, which its time depends on."""
    where = [read_field(folder.path / "environment.json", name) for name in ("machine", "processor", "cores")]
    processes = [read_field(checkpoint / PROGRESS, "processes") for checkpoint in folder.steps()[-1:]]
    return (*where, *processes, config.train.device, config.train.threads)
