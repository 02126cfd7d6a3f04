"""Checks of a run: its config, log, checkpoints and data. Finds damage and where to resume; changes nothing."""

import json
import math
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from groundup.checkpoint import state
from groundup.checkpoint.data_match import match_data
from groundup.checkpoint.files import AVERAGE, MODEL, PROGRESS, damage, read_config, verify
from groundup.checkpoint.log import iter_log
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.merge import diff
from groundup.config.schema import Config, resume_rule
from groundup.config.types import FIXED
from groundup.data.shards import Manifest, check_files
from groundup.diagnostics.finding import Finding, problem
from groundup.errors import CheckpointError, DataError, GroundupError, NewerFormatError
from groundup.model import build_model
from groundup.utils.files import SUMS, sha256
from groundup.utils.lock import holder


@dataclass(frozen=True)
class CheckpointReport:
    """Problems of one checkpoint."""

    name: str
    problems: tuple[str, ...]  # `file: what`
    intact: bool = True  # every file matches its checksum
    newer: bool = False  # written by a newer groundup, so that its contents cannot be checked

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class RunReport:
    """Problems of a run and of all its checkpoints."""

    run: Path
    checkpoints: tuple[CheckpointReport, ...]  # oldest first
    problems: tuple[str, ...]  # outside the checkpoints
    notes: tuple[str, ...]  # worth knowing, but no damage
    resume_from: str | None  # the newest good checkpoint
    command: str | None  # what to type next; None if nothing can be resumed
    update: bool = False  # a newer groundup wrote the checkpoint to resume from: update this one

    @property
    def ok(self) -> bool:
        return not self.problems and all(checkpoint.ok for checkpoint in self.checkpoints)

    def to_json(self) -> dict[str, Any]:
        """All values, as JSON has them."""
        checkpoints = [{**asdict(checkpoint), "ok": checkpoint.ok} for checkpoint in self.checkpoints]
        return {**asdict(self), "run": self.run.as_posix(), "checkpoints": checkpoints, "ok": self.ok}

    def findings(self) -> Iterator[Finding]:
        """The report as findings, one per checkpoint, problem and note, and one on how to continue."""
        about = str(self.run)
        for checkpoint in self.checkpoints:
            if checkpoint.ok:
                yield Finding(about, "checkpoint", "ok", checkpoint.name)
            else:
                remedy = "update groundup" if checkpoint.newer else "use another checkpoint"
                yield problem(about, "checkpoint", f"{checkpoint.name}: {'; '.join(checkpoint.problems)}; {remedy}")
        yield from (problem(about, "run", message) for message in self.problems)
        yield from (problem(about, "note", message, "warning") for message in self.notes)
        start = f"from {self.resume_from}" if self.resume_from else "from the start"
        found = Finding(about, "resume", "ok", f"`{self.command}` resumes {start}", values=self.to_json())
        if self.update:
            found = replace(found, status="warning", sentence="not by this version", remedy="update groundup")
        elif not self.command and self.resume_from:
            found = replace(found, status="warning", sentence="not yet", remedy="fix what is damaged above")
        elif not self.command:
            found = replace(found, status="problem", sentence="no checkpoint is complete", remedy="start a new run")
        yield found


def check_run(path: Path, data: Path | None = None) -> RunReport:
    """Check everything about the run at `path`; `data` is its prepared folder if that has moved.

    CheckpointError when there is no run at all, DataError when `data` is no folder. A checkpoint that a training
    process deletes meanwhile is left out.
    """
    run = RunFolder(path)
    if not (path / "config.yaml").exists() and not run.checkpoints.is_dir():
        raise CheckpointError(f"{path}: holds no run; give a folder written by `groundup train`")
    if data and not data.is_dir():
        raise DataError(match_data(data, {}).message)
    user = holder(path)
    notes = [f"in use right now by {user}"] if user else []
    problems: list[str] = []
    try:
        config = run.config()
    except GroundupError as error:
        config, problems = None, [_relative(run.path, error)]
    reports = [_check_checkpoint(folder) for folder in run.steps()]
    reports = [report for report in reports if (run.checkpoints / report.name).is_dir()]
    reports, replaced = _check_parents(run, reports)
    good = next((run.checkpoints / report.name for report in reversed(reports) if report.ok), None)
    data_problems, data_notes = _check_data(config, good, data)
    problems += [*replaced, *_check_own_files(run, config, good), *data_problems]
    notes += [*data_notes, *_check_log(run.log), *_check_links(run)]
    partial = sorted(folder.name for folder in run.checkpoints.glob(".step-*"))
    if partial and not user:
        notes.append(f"checkpoints: {', '.join(partial)} left behind by a crash; resume deletes them")
    notes += _check_disk(run)
    if not reports:
        notes.append("no checkpoint yet: resume starts again, with the same weights")
    # Whether a newer groundup wrote the newest checkpoint with matching checksums, the one resuming would take.
    update = next((report.newer for report in reversed(reports) if report.intact), False)
    command = _resume_command(run, reports, data) if config and not update else None
    return RunReport(path, tuple(reports), tuple(problems), tuple(notes), good.name if good else None, command, update)


def check_lone_checkpoint(path: Path) -> Finding:
    """The checksums of a checkpoint that may lie outside a run."""
    try:
        verify(path)
        read_config(path)
    except GroundupError as error:
        return problem(str(path), "checkpoint", error)
    return Finding(str(path), "checkpoint", "ok", "complete: every checksum matches")


def _check_checkpoint(folder: Path) -> CheckpointReport:
    """Every damaged file; if there is none, what is wrong with the contents."""
    damaged = tuple(f"{file}: {what}" for file, what in damage(folder))
    if damaged:
        return CheckpointReport(folder.name, damaged, intact=False)
    try:
        return CheckpointReport(folder.name, tuple(_wrong_contents(folder)))
    except NewerFormatError as error:
        return CheckpointReport(folder.name, (_relative(folder, error),), newer=True)


def _wrong_contents(folder: Path) -> Iterator[str]:
    try:
        config = state.load_config(folder)
        state.load_tokenizer(folder)
    except NewerFormatError:
        raise
    except GroundupError as error:
        yield _relative(folder, error)
        return
    average = (AVERAGE,) if config.optimizer.ema_decay else ()
    missing = [name for name in (MODEL, state.OPTIMIZER, *average) if not (folder / name).is_file()]
    yield from (f"{name}: missing, though {SUMS} does not list it" for name in missing)
    yield from _wrong_progress(folder)
    with torch.device("meta"):
        shapes = {name: list(parameter.shape) for name, parameter in build_model(config.model).named_parameters()}
    for file in sorted(folder.rglob("*.safetensors")):
        yield from _wrong_tensors(file, file.relative_to(folder).as_posix(), shapes)


def _wrong_progress(folder: Path) -> Iterator[str]:
    try:
        progress = state.load_metadata(folder)
    except CheckpointError as error:
        yield _relative(folder, error)
        return
    for key in ("step", "tokens", "cursor"):
        value = progress.get(key)
        if type(value) is not int or value < 0:
            yield f"{PROGRESS}: {key} is {value!r}, not a count"
    for key in ("elapsed", "dt"):
        value = progress.get(key)
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            yield f"{PROGRESS}: {key} is {value!r}, not a number of seconds"
    if not isinstance(progress.get("data"), str):
        yield f"{PROGRESS}: data is {progress.get('data')!r}, not a fingerprint"
    step = progress.get("step")
    if isinstance(step, int) and folder.name != f"step-{step:08d}":
        yield f"{PROGRESS}: is of step {step}, but the folder is {folder.name}"


def _wrong_tensors(file: Path, name: str, shapes: Mapping[str, list[int]]) -> Iterator[str]:
    """Tensors that are missing, foreign, misshapen or not finite; one is in memory at a time."""
    missing = set(shapes) if "/" not in name else set()  # an optimizer may have no state for a parameter
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


def _check_parents(run: RunFolder, reports: list[CheckpointReport]) -> tuple[list[CheckpointReport], list[str]]:
    """Whether each checkpoint's parent, if it is still there, is still the one that training continued from."""
    found, replaced = {report.name: report for report in reports}, []
    for child in reports:
        try:
            parent = state.load_metadata(run.checkpoints / child.name)["parent"]
            name = run.checkpoint(parent["step"]).name
            if not child.ok or name not in found or sha256(run.checkpoints / name / SUMS) == parent["sha256"]:
                continue
        except (CheckpointError, OSError, TypeError, KeyError, ValueError):
            continue  # there is no parent, or damage that was reported above
        what = f"{SUMS}: not the file that {child.name} continued from"
        if found[name].ok:
            replaced.append(f"checkpoints/{name}/{what}: one of the two was replaced")
        else:
            found[name] = replace(found[name], problems=(what, *found[name].problems))
    return list(found.values()), replaced


def _check_own_files(run: RunFolder, config: Config | None, good: Path | None) -> Iterator[str]:
    """Whether the run's own files are there, and its config is that of its checkpoints."""
    if config and good:
        keys = [key for key in diff(state.load_config(good), config) if resume_rule(key) is FIXED]
        if keys:
            yield f"config.yaml: differs from checkpoints/{good.name}/config.json in {', '.join(keys)}"
    if good and not run.log.exists():
        yield f"{run.log.name}: missing"
    try:
        json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        yield "environment.json: missing or damaged; ignore it: training does not need it"


def _check_data(config: Config | None, good: Path | None, moved: Path | None) -> tuple[list[str], list[str]]:
    """Problems and notes: whether the prepared folder is there, complete, and what the run was trained on."""
    folder = moved or (Path(config.data) if config and config.data else None)
    if folder is None:
        return [], []
    try:
        found = match_data(folder, state.load_metadata(good) if good else {})
        if found.answer == "missing":
            return [], [found.message]  # on another machine, say: no damage
        check_files(folder, Manifest.load(folder), checksums=False)
    except DataError as error:
        return [f"{error}; if the data has moved, give its path with --data DIR"], []
    return ([found.message] if found.answer == "other" else []), []


def _check_log(path: Path) -> Iterator[str]:
    """Gaps that interruptions left in the log."""
    torn: list[bytes] = []
    missing, last = 0, 0
    for record in iter_log(path, on_unreadable=torn.append):
        step = record.get("step")
        if record["event"] in ("step", "skip") and isinstance(step, int):
            missing, last = missing + max(0, step - last - 1), max(last, step)
    if torn:
        yield f"{path.name}: {len(torn)} lines cut off, as a kill or a power failure leaves them: ignored"
    if missing:
        yield f"{path.name}: {missing} steps were not logged, or their lines are lost"


def _check_links(run: RunFolder) -> Iterator[str]:
    """Whether `latest` and `best`, which only people use, point to checkpoints."""
    newest = run.steps()[-1:]
    for link in (run.path / "latest", run.path / "best"):
        wrong = ""
        if link.is_symlink() and not link.exists():
            wrong = "which is gone"
        elif link.name == "latest" and link.is_symlink() and newest and link.resolve() != newest[0].resolve():
            wrong = f"not to {newest[0].name}"
        if wrong:
            yield f"{link.name}: points to {link.readlink()}, {wrong}; the next checkpoint fixes it"


def _check_disk(run: RunFolder) -> Iterator[str]:
    free = shutil.disk_usage(run.path).free
    for folder in run.steps()[-1:]:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if free < size:
            yield f"disk: {free / 1e9:.2f} GB free, but a checkpoint takes {size / 1e9:.2f} GB; make room first"


def _resume_command(run: RunFolder, reports: list[CheckpointReport], data: Path | None) -> str | None:
    """How to continue. Resuming checks checksums alone, so checkpoints with other problems must be deleted first."""
    bad = list(takewhile(lambda report: not report.ok, reversed(reports)))
    if reports and len(bad) == len(reports):
        return None  # `groundup resume` has nothing to resume from
    names = [str(run.checkpoints / report.name) for report in reversed(bad) if report.intact]
    remove = f"{shlex.join(['rm', '-r', '--', *names])} && " if names else ""
    return remove + shlex.join(["groundup", "resume", str(run.path), *(["--data", str(data)] if data else [])])


def _relative(folder: Path, error: GroundupError) -> str:
    """A message with paths relative to `folder`, without the general remedy."""
    return str(error).removeprefix(f"{folder}/").removeprefix(f"{folder}: ").partition("; use another checkpoint")[0]
