"""Looks at everything in a run's folder and says what is damaged, and where to go on. It changes nothing."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from groundup.checkpoint import state
from groundup.checkpoint.data_match import match_data
from groundup.checkpoint.files import AVERAGE, MODEL, PROGRESS, damage
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.merge import diff
from groundup.config.schema import Config
from groundup.data.shards import Manifest, check_files
from groundup.errors import CheckpointError, DataError, GroundupError, NewerFormatError
from groundup.model.gpt import GPT
from groundup.utils.files import SUMS, sha256
from groundup.utils.lock import holder

WHOLE_NUMBERS, SECONDS = ("step", "tokens", "cursor"), ("elapsed", "dt")  # of progress.json
# What a resumption cannot change, so that the run's config and its checkpoints' must agree in it.
FIXED = ("model.", "optimizer.", "schedule.", "train.seed", "train.batch_tokens", "train.precision")


@dataclass(frozen=True)
class CheckpointReport:
    """One checkpoint."""

    name: str
    problems: tuple[str, ...]  # `file: what`; none where all is well
    intact: bool = True  # every file is what was written
    newer: bool = False  # by a newer groundup, so that nothing more is known of it

    @property
    def ok(self) -> bool:
        """Whether training can go on from here."""
        return not self.problems


@dataclass(frozen=True)
class RunReport:
    """A whole run."""

    run: Path
    checkpoints: tuple[CheckpointReport, ...]  # oldest first
    problems: tuple[str, ...]  # outside the checkpoints
    notes: tuple[str, ...]  # worth knowing, and no damage
    resume_from: str | None  # the newest good checkpoint
    command: str | None  # what to type next; None where there is nothing to go on with
    update: bool = False  # what resuming would take is of a newer groundup: update this one

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems and all(checkpoint.ok for checkpoint in self.checkpoints)


def check_run(path: Path, data: Path | None = None) -> RunReport:
    """Everything about the run at `path`; `data` names the prepared folder where it has moved.

    CheckpointError when there is no run at all, DataError when `data` is no folder. A checkpoint that a training
    process deletes meanwhile is left out.
    """
    run = RunFolder(path)
    if not (path / "config.yaml").exists() and not run.checkpoints.is_dir():
        raise CheckpointError(f"{path}: holds no run; give a folder written by `groundup train`")
    if data and not data.is_dir():
        raise DataError(match_data(data, {}).message)
    busy = holder(path)
    problems, notes = [], [f"in use right now by {busy}"] if busy else []
    config, complaint = _config(run)
    problems += complaint
    examined = [_examined(folder) for folder in run.steps()]
    examined = [found for found in examined if (run.checkpoints / found.name).is_dir()]
    examined, broken = _chain(run, examined)
    good = next((run.checkpoints / found.name for found in reversed(examined) if found.ok), None)
    misfits, absent = _data(config, good, data)
    problems += broken + _books_of_the_run(run, config, good) + misfits
    notes += absent
    notes += [*_log(run.log), *_links(run), *([] if busy else _scraps(run)), *_room(run)]
    if not examined:
        notes.append("no checkpoint yet: resume begins anew, with the same weights")
    update = _needs_update(examined)
    command = _command(run, examined, data) if config and not update else None
    from_here = good.name if good else None
    return RunReport(path, tuple(examined), tuple(problems), tuple(notes), from_here, command, update)


def _examined(folder: Path) -> CheckpointReport:
    """A checkpoint: every damaged file, or else what is wrong with what its files hold."""
    damaged = tuple(f"{file}: {what}" for file, what in damage(folder))
    if damaged:
        return CheckpointReport(folder.name, damaged, intact=False)
    try:
        return CheckpointReport(folder.name, tuple(_odd_content(folder)))
    except NewerFormatError as error:
        return CheckpointReport(folder.name, (_within(folder, str(error)),), newer=True)


def _odd_content(folder: Path) -> Iterator[str]:
    try:
        config = state.load_config(folder)
        state.load_text(folder)
    except NewerFormatError:
        raise
    except GroundupError as error:
        yield _within(folder, str(error))
        return
    average = (AVERAGE,) if config.optimizer.ema_decay else ()
    missing = [name for name in (MODEL, state.OPTIMIZER, *average) if not (folder / name).is_file()]
    yield from (f"{name}: missing, though {SUMS} does not list it" for name in missing)
    yield from _odd_progress(folder)
    with torch.device("meta"):
        shapes = {name: list(parameter.shape) for name, parameter in GPT(config.model).named_parameters()}
    for file in sorted(folder.rglob("*.safetensors")):
        yield from _odd_tensors(file, file.relative_to(folder).as_posix(), shapes)


def _odd_progress(folder: Path) -> Iterator[str]:
    try:
        progress = state.load_progress(folder)
    except CheckpointError as error:
        yield _within(folder, str(error))
        return
    for key in WHOLE_NUMBERS:
        value = progress.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            yield f"{PROGRESS}: {key} is {value!r}, no whole number"
    for key in SECONDS:
        value = progress.get(key)
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            yield f"{PROGRESS}: {key} is {value!r}, no number of seconds"
    if not isinstance(progress.get("data"), str):
        yield f"{PROGRESS}: data is {progress.get('data')!r}, no fingerprint"
    step = progress.get("step")
    if isinstance(step, int) and folder.name != f"step-{step:08d}":
        yield f"{PROGRESS}: stands at step {step}, but the folder is {folder.name}"


def _odd_tensors(file: Path, name: str, shapes: Mapping[str, list[int]]) -> Iterator[str]:
    """Tensors that are missing, foreign, misshapen or not finite; one is in memory at a time."""
    missing = set(shapes) if "/" not in name else set()  # an optimizer may have no moment of a parameter
    try:
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (it is no mapping)
                tensor, parameter = tensors.get_tensor(key), key.partition("|")[0]
                missing.discard(key)
                if parameter not in shapes or ("|" not in key and "/" in name):
                    yield f"{name}: {key} belongs to no parameter of the model in config.json"
                elif list(tensor.shape) != shapes[parameter] and (tensor.dim() or "|" not in key):
                    yield f"{name}: {key} is {list(tensor.shape)}, but the model's is {shapes[parameter]}"
                elif bad := int((~torch.isfinite(tensor)).sum()):
                    yield f"{name}: {key} has {bad} numbers that are not finite"
    except (OSError, SafetensorError) as error:
        yield f"{name}: cannot be read as tensors ({error})"
    if missing:
        yield f"{name}: {', '.join(sorted(missing))} of the model missing"


def _chain(run: RunFolder, examined: list[CheckpointReport]) -> tuple[list[CheckpointReport], list[str]]:
    """Whether each checkpoint's parent is still the one it went on from, as far as it is still there."""
    found, broken = {checkpoint.name: checkpoint for checkpoint in examined}, []
    for child in examined:
        try:
            parent = state.load_progress(run.checkpoints / child.name).get("parent")
            name = run.checkpoint(parent["step"]).name if child.ok and parent else ""
            if name not in found or not isinstance(parent, dict):
                continue
            if sha256(run.checkpoints / name / SUMS) == parent["sha256"]:
                continue
        except (CheckpointError, OSError, TypeError, KeyError, ValueError):
            continue  # a damaged one was named above
        what = f"{SUMS}: not the file that {child.name} went on from"
        if found[name].ok:
            broken.append(f"checkpoints/{name}/{what}; one of the two was replaced")
        else:
            found[name] = replace(found[name], problems=(what, *found[name].problems))
    return list(found.values()), broken


def _config(run: RunFolder) -> tuple[Config | None, list[str]]:
    try:
        return run.config(), []
    except GroundupError as error:
        return None, [_within(run.path, str(error))]


def _books_of_the_run(run: RunFolder, config: Config | None, good: Path | None) -> list[str]:
    """The run's own files, and whether its config is that of its checkpoints."""
    problems = []
    if config and good:
        keys = [key for key in diff(state.load_config(good), config) if key.startswith(FIXED)]
        if keys:
            problems.append(f"config.yaml: differs from checkpoints/{good.name}/config.json in {', '.join(keys)}")
    if good and not run.log.exists():
        problems.append(f"{run.log.name}: missing")
    path = run.path / "environment.json"
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        problems.append(f"{path.name}: missing or damaged; training does not need it")
    return problems


def _data(config: Config | None, good: Path | None, moved: Path | None) -> tuple[list[str], list[str]]:
    """Problems and notes: is the prepared folder there, of the right sizes, and what the run was trained on?"""
    place = moved or (Path(config.data) if config and config.data else None)
    if place is None:
        return [], []
    try:
        found = match_data(place, state.load_progress(good) if good else {})
        if found.answer == "missing":
            return [], [found.message]  # another place, not damage
        check_files(place, Manifest.load(place), checksums=False)
    except DataError as error:
        return [f"{error}; where the data has moved, name its folder with --data"], []
    return ([found.message] if found.answer == "other" else []), []


def _log(path: Path) -> list[str]:
    """What interruptions left in the log."""
    notes, torn, missing, last = [], 0, 0, 0
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for line in file:  # a long run's log is larger than its checkpoints
                try:
                    record: Any = json.loads(line) if line != "\n" else {}
                    step = record["step"] if record.get("event") in ("step", "skip") else None
                except (ValueError, AttributeError, KeyError, RecursionError):
                    torn += 1
                    continue
                if isinstance(step, int):
                    missing, last = missing + max(0, step - last - 1), max(last, step)
    except OSError:
        return []
    if torn:
        notes.append(f"{path.name}: {torn} lines cut off, as a kill or a power failure leaves them; they are ignored")
    if missing:
        notes.append(f"{path.name}: {missing} steps were not logged, or their lines are lost")
    return notes


def _links(run: RunFolder) -> list[str]:
    """Links for people, which nothing depends on."""
    newest = run.steps()[-1:]
    notes = []
    for name in ("latest", "best"):
        link = run.path / name
        if link.is_symlink() and not link.exists():
            notes.append(f"{name}: points to {link.readlink()}, which is gone; the next checkpoint mends it")
        elif name == "latest" and link.is_symlink() and newest and link.resolve() != newest[0].resolve():
            notes.append(f"{name}: points to {link.readlink()}, not to {newest[0].name}; the next checkpoint mends it")
    return notes


def _scraps(run: RunFolder) -> list[str]:
    names = sorted(path.name for path in run.checkpoints.glob(".step-*"))
    return [f"checkpoints: {', '.join(names)} left behind by a crash; resume clears them away"] if names else []


def _room(run: RunFolder) -> list[str]:
    sizes = [sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) for folder in run.steps()[-1:]]
    free = shutil.disk_usage(run.path).free
    if sizes and free < sizes[0]:
        return [f"disk: {free / 1e9:.2f} GB free, but a checkpoint takes {sizes[0] / 1e9:.2f} GB; make room first"]
    return []


def _command(run: RunFolder, examined: list[CheckpointReport], data: Path | None) -> str | None:
    """How to go on. Resuming looks at checksums alone, so what is bad in another way must go first."""
    newer_ones = list(takewhile(lambda found: not found.ok, reversed(examined)))
    if examined and len(newer_ones) == len(examined):
        return None  # `groundup resume` has nothing to go on with
    names = [str(run.checkpoints / found.name) for found in reversed(newer_ones) if found.intact]
    remove = f"{shlex.join(['rm', '-r', '--', *names])} && " if names else ""
    return remove + shlex.join(["groundup", "resume", str(run.path), *(["--data", str(data)] if data else [])])


def _needs_update(examined: list[CheckpointReport]) -> bool:
    """Whether the newest checkpoint whose checksums hold, which is what resuming takes, is of a newer groundup."""
    return next((found.newer for found in reversed(examined) if found.intact), False)


def _within(folder: Path, message: str) -> str:
    """A message with the place inside `folder`."""
    return message.removeprefix(f"{folder}/").removeprefix(f"{folder}: ").partition("; use another checkpoint")[0]
