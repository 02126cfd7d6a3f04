"""Runs at equal tokens, steps and time, and how much of each they needed for one loss. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from groundup.checkpoint.data_match import Answer, RunText, same_text, same_tokenizer, text_of_run
from groundup.checkpoint.files import PROGRESS, read_field
from groundup.checkpoint.log import Evaluation, History, read_history
from groundup.checkpoint.run_folder import RunFolder
from groundup.comparison.curves import AXES, Axis, Curve, Measure, Reading
from groundup.config.merge import diff, flatten, get
from groundup.config.schema import Config
from groundup.errors import CheckpointError, UsageError
from groundup.model.size import parameters

MOST = 12  # runs; more would be neither a table nor a picture


@dataclass(frozen=True)
class Run:
    """One run of a comparison."""

    name: str  # its folder's, with as many of those above as tell it from the others
    path: Path
    config: Config
    history: History
    points: tuple[Evaluation, ...]  # where what is compared was measured
    text: RunText
    machine: tuple[object, ...]  # what its time depends on

    @property
    def parameters(self) -> int:
        """Parameters of its model."""
        return parameters(self.config.model)


@dataclass(frozen=True)
class Meeting:
    """The runs' losses at one place of an axis."""

    at: float
    losses: tuple[Reading, ...]
    lr: tuple[float | None, ...]  # learning rate there, as a part of the run's peak


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; sequences are in the order of `runs`."""

    runs: tuple[Run, ...]
    measure: Measure  # what is compared: nats a token, or bits a byte where tokenizers differ
    same_text: Answer  # whether all losses are of one validation text
    meetings: dict[Axis, Meeting | None]  # None where one run was evaluated only after another had ended
    target: float  # the lowest loss that all have reached
    needed: dict[Axis, tuple[Reading, ...]]  # to reach it
    settings: dict[str, tuple[Any, ...]]  # dotted keys in which configs differ


def compare(runs: Sequence[str | PathLike[str]], *, at_tokens: int | None = None) -> Comparison:
    """Runs of `groundup train` side by side, finished or not, by their validation losses.

    They are compared in nats a token, or in bits a byte where tokenizers differ; at the most tokens, steps and seconds
    that all have reached, or at `at_tokens`.
    Raises UsageError for no run, too many, the same one twice, or a place where not all have been; CheckpointError
    where there is no run, or no evaluation in it.
    """
    paths = [Path(run) for run in runs]
    _check(paths)
    folders = [RunFolder(path) for path in paths]
    configs = [folder.config() for folder in folders]
    texts = [text_of_run(folder, config) for folder, config in zip(folders, configs, strict=True)]
    measure: Measure = "val_loss" if same_tokenizer(texts) == "same" else "bits_per_byte"
    histories = [read_history(folder.log) for folder in folders]
    read = tuple(
        Run(name, folder.path, config, history, _points(folder, history, measure), text, _machine(folder, config))
        for name, folder, config, history, text in zip(names(paths), folders, configs, histories, texts, strict=True)
    )
    curves = [Curve(run.points, measure) for run in read]
    meetings = {axis: _meeting(axis, read, curves) for axis in AXES}
    if at_tokens is not None:
        for run in read:
            _check_reached(run, at_tokens)
        meetings["tokens"] = _met("tokens", at_tokens, read, curves)
    target = max(min(curve.losses) for curve in curves)
    needed = {axis: tuple(curve.place(axis, target) for curve in curves) for axis in AXES}
    return Comparison(read, measure, same_text(texts), meetings, target, needed, settings(configs, texts))


def _meeting(axis: Axis, runs: Sequence[Run], curves: Sequence[Curve]) -> Meeting | None:
    """Where the shortest run ended."""
    place = min(curve.places(axis)[-1] for curve in curves)
    if place < max(curve.places(axis)[0] for curve in curves):
        return None
    return _met(axis, place, runs, curves)


def _met(axis: Axis, place: float, runs: Sequence[Run], curves: Sequence[Curve]) -> Meeting:
    peaks = [run.config.optimizer.learning_rate for run in runs]
    rates = [curve.lr(axis, place) for curve in curves]
    lr = tuple(rate and rate / peak for rate, peak in zip(rates, peaks, strict=True))
    return Meeting(place, tuple(curve.at(axis, place) for curve in curves), lr)


def settings(configs: Sequence[Config], texts: Sequence[RunText]) -> dict[str, tuple[Any, ...]]:
    """Dotted keys in which configs differ, in the config's order, with the value of each run.

    Not the path of one and the same data.
    """
    keys = {key for config in configs for key in diff(configs[0], config)}
    fingerprints = {text.data for text in texts}
    if len(fingerprints) == 1 and None not in fingerprints:
        keys.discard("data")
    ordered = [key for key, _ in flatten(configs[0].model_dump()) if key in keys]
    return {key: tuple(get(config, key) for config in configs) for key in ordered}


def names(paths: Sequence[Path]) -> list[str]:
    """What to call each run: the end of its path, as long as it takes to tell it from the others."""
    parts = [path.resolve().parts for path in paths]

    def short(one: tuple[str, ...]) -> str:
        n = next(n for n in range(1, len(one) + 1) if [other[-n:] for other in parts].count(one[-n:]) == 1)
        return "/".join(one[-n:])

    return [short(one) for one in parts]


def _check(paths: Sequence[Path]) -> None:
    if not 1 <= len(paths) <= MOST:
        raise UsageError(f"{len(paths)} runs: from 1 to {MOST} can be compared; leave some out")
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            raise UsageError(f"{path}: the same run twice (also as {seen[path.resolve()]}); name each once")
        seen[path.resolve()] = path


def _points(folder: RunFolder, history: History, measure: Measure) -> tuple[Evaluation, ...]:
    """The evaluations that have what is compared; CheckpointError where none has."""
    found = tuple(point for point in history.evaluations if getattr(point, measure) is not None)
    if found:
        return found
    if not history.evaluations:
        what = "no evaluation yet; let it train until evaluate.every_steps"
    elif all(point.val_loss is None for point in history.evaluations):
        what = "no validation loss that is a number; where nothing was held out, prepare with --val-fraction 0.1"
    else:
        what = "no bits per byte, without which runs of different tokenizers cannot be compared; leave it out"
    raise CheckpointError(f"{folder.log}: {what}")


def _check_reached(run: Run, tokens: int) -> None:
    first, last = run.points[0].tokens, run.points[-1].tokens
    if not first <= tokens <= last:
        raise UsageError(
            f"at_tokens {tokens:,}: {run.path} was evaluated from {first:,} to {last:,} tokens; give a number between"
        )


def _machine(folder: RunFolder, config: Config) -> tuple[object, ...]:
    """What a run's time depends on besides the run: where it ran, on how many processes and threads."""
    where = [read_field(folder.path / "environment.json", name) for name in ("machine", "processor", "cores")]
    processes = [read_field(checkpoint / PROGRESS, "processes") for checkpoint in folder.steps()[-1:]]
    return (*where, *processes, config.train.device, config.train.threads)
