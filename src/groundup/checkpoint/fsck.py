"""Looks at everything in a run's folder and says what is damaged, and where to go on. It changes nothing."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from groundup.checkpoint import state
from groundup.checkpoint.atomic import SUMS, sha256
from groundup.checkpoint.lock import holder
from groundup.checkpoint.run import RunFolder
from groundup.config import Config
from groundup.data.shards import Manifest, check_files
from groundup.decode import changed
from groundup.errors import CheckpointError, DataError, GroundupError
from groundup.model.gpt import GPT

WHOLE_NUMBERS, SECONDS = ("step", "tokens", "cursor"), ("elapsed", "dt")  # of progress.json
# What a resumption cannot change, so that the run's config and its checkpoints' must agree in it.
FIXED = ("model.", "optimizer.", "schedule.", "batches.seed", "train.batch_tokens", "train.precision")


@dataclass(frozen=True)
class Examined:
    """One checkpoint."""

    name: str
    problems: tuple[str, ...]  # `file: what`; none where all is well

    @property
    def ok(self) -> bool:
        """Whether training can go on from here."""
        return not self.problems


@dataclass(frozen=True)
class Findings:
    """A whole run."""

    run: Path
    checkpoints: tuple[Examined, ...]  # oldest first
    problems: tuple[str, ...]  # outside the checkpoints
    notes: tuple[str, ...]  # worth knowing, and no damage
    resume_from: str | None  # the newest good checkpoint
    command: str | None  # what to type next; None where there is nothing to go on with

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems and all(checkpoint.ok for checkpoint in self.checkpoints)


def examine(path: Path, data: Path | None = None) -> Findings:
    """Everything about the run at `path`; `data` names the prepared folder where it has moved.

    CheckpointError when there is no run at all. A checkpoint that a training process deletes meanwhile is left out.
    """
    run = RunFolder(path)
    if not (path / "config.yaml").exists() and not run.checkpoints.is_dir():
        raise CheckpointError(f"{path}: holds no run; give a folder written by `groundup train`")
    busy = holder(path)
    problems, notes = [], [f"in use right now by {busy}"] if busy else []
    config, complaint = _config(run)
    problems += complaint
    examined = [Examined(folder.name, tuple(faults(folder))) for folder in run.steps()]
    examined = [found for found in examined if (run.checkpoints / found.name).is_dir()]
    examined, broken = _chain(run, examined)
    good = next((run.checkpoints / found.name for found in reversed(examined) if found.ok), None)
    problems += broken + _books_of_the_run(run, config, good) + _data(config, good, data)
    notes += [*_log(run.log), *_links(run), *([] if busy else _scraps(run)), *_room(run)]
    if not examined:
        notes.append("no checkpoint yet: resume begins anew, with the same weights")
    command = _command(run, examined, data) if config else None
    return Findings(path, tuple(examined), tuple(problems), tuple(notes), good.name if good else None, command)


def faults(folder: Path) -> Iterator[str]:
    """What is wrong with a checkpoint, as `file: what`: every damaged file first, else what its files hold."""
    damaged = list(_damaged(folder))
    if damaged:
        yield from damaged
        return
    try:
        config = state.load_config(folder)
        state.load_text(folder)
    except GroundupError as error:
        yield _within(folder, str(error))
        return
    yield from _odd_progress(folder)
    with torch.device("meta"):
        shapes = {name: list(parameter.shape) for name, parameter in GPT(config.model).named_parameters()}
    for file in sorted(folder.rglob("*.safetensors")):
        yield from _odd_tensors(file, file.relative_to(folder).as_posix(), shapes)


def _damaged(folder: Path) -> Iterator[str]:
    """Every file that is missing, foreign or not what was written."""
    try:
        lines = (folder / SUMS).read_bytes().decode().removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError):
        yield f"{SUMS}: missing or damaged"
        return
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    present = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    present.pop(SUMS, None)
    if unlisted := sorted(present.keys() - listed.keys()):
        yield f"{SUMS}: damaged (it does not list {', '.join(unlisted)})"
    for name, digest in listed.items():
        try:
            if name not in present:
                yield f"{name}: missing"
            elif sha256(present[name]) != digest:
                yield f"{name}: damaged (its checksum is not the one in {SUMS})"
        except OSError as error:
            yield f"{name}: cannot be read ({error.strerror})"


def _odd_progress(folder: Path) -> Iterator[str]:
    try:
        progress = state.load_progress(folder)
    except CheckpointError as error:
        yield _within(folder, str(error))
        return
    for key in WHOLE_NUMBERS:
        value = progress.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            yield f"progress.json: {key} is {value!r}, no whole number"
    for key in SECONDS:
        value = progress.get(key)
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            yield f"progress.json: {key} is {value!r}, no number of seconds"
    step = progress.get("step")
    if isinstance(step, int) and folder.name != f"step-{step:08d}":
        yield f"progress.json: stands at step {step}, but the folder is {folder.name}"


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


def _chain(run: RunFolder, examined: list[Examined]) -> tuple[list[Examined], list[str]]:
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
        keys = [key for key in changed(state.load_config(good), config) if key.startswith(FIXED)]
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


def _data(config: Config | None, good: Path | None, moved: Path | None) -> list[str]:
    """Whether the prepared folder is there, whole as far as sizes tell, and the one that the run was trained on."""
    place = moved or (Path(config.data) if config and config.data else None)
    if place is None:
        return []
    try:
        manifest = Manifest.load(place)
        check_files(place, manifest, checksums=False)
    except DataError as error:
        return [f"{error}; where the data has moved, name its folder with --data"]
    if good and state.load_progress(good).get("data") != manifest.fingerprint:
        return [f"{place}: not the data that this run was trained on; name its folder with --data"]
    return []


def _log(path: Path) -> list[str]:
    """What interruptions left in the log."""
    notes, torn, missing, last = [], 0, 0, 0
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.split("\n"):
        try:
            record: Any = json.loads(line) if line else {}
            step = record["step"] if record.get("event") in ("step", "skip") else None
        except (ValueError, AttributeError, KeyError):
            torn += 1
            continue
        if isinstance(step, int):
            missing, last = missing + max(0, step - last - 1), max(last, step)
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


def _command(run: RunFolder, examined: list[Examined], data: Path | None) -> str | None:
    """How to go on. Resuming looks at checksums alone, so what is bad in another way must go first."""
    names = []
    for found in reversed(examined):
        if found.ok:
            break
        if not any(_damaged(run.checkpoints / found.name)):
            names.append(str(run.checkpoints / found.name))
    else:
        if examined:
            return None  # `groundup resume` has nothing to go on with
    remove = f"rm -r {' '.join(reversed(names))} && " if names else ""
    return f"{remove}groundup resume {run.path}" + (f" --data {data}" if data else "")


def _within(folder: Path, message: str) -> str:
    """A message with the place inside `folder`."""
    return message.removeprefix(f"{folder}/").removeprefix(f"{folder}: ").partition("; use another checkpoint")[0]
