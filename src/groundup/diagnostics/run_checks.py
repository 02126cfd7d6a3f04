"""Checks of a run: its config, log, checkpoints and data. Finds damage and where to resume; changes nothing."""

import math
import shlex
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from groundup.checkpoint import files, state
from groundup.checkpoint.data_match import match_data
from groundup.checkpoint.files import AVERAGE, CONFIG, MODEL, OPTIMIZER, damage, load_config, unreadable, verify
from groundup.checkpoint.log import iter_log
from groundup.checkpoint.metadata import has_stepped, load_metadata, load_training_metadata
from groundup.checkpoint.run_config import changed_config, lost_config
from groundup.checkpoint.run_folder import MAX_LOOKS, RunFolder, folder_identity
from groundup.checkpoint.tensors import expected_tensors, tensor_problems
from groundup.config.schema import Config
from groundup.data.shards import Manifest, check_files
from groundup.data.windows import windows_per_epoch
from groundup.diagnostics.finding import Finding, problem
from groundup.errors import CheckpointError, ConfigError, DataError, GroundupError, NewerFormatError
from groundup.training.early_stopping import ended_by
from groundup.ui.format import human_bytes
from groundup.utils.files import SUMS, resolved, sha256
from groundup.utils.lock import LOCK, holder
from groundup.utils.plural import human_plural
from groundup.utils.reading import read_json

MAX_TENSOR_PROBLEMS = 20  # named of one file


@dataclass(frozen=True)
class CheckpointReport:
    """Problems of one checkpoint."""

    name: str
    problems: tuple[str, ...]  # `file: what`
    intact: bool = True  # every file matches its checksum
    newer: bool = False  # written by a newer groundup, so that its contents cannot be checked
    unreadable: bool = False  # the system failed to read it, so that it is not known to be damaged

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
    longer: str | None = None  # of a finished run: the option that makes it longer

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
                remedy = "make it readable" if checkpoint.unreadable else "use another checkpoint"
                remedy = "update groundup" if checkpoint.newer else remedy
                yield problem(about, "checkpoint", f"{checkpoint.name}: {'; '.join(checkpoint.problems)}; {remedy}")
        yield from (problem(about, "run", message) for message in self.problems)
        yield from (problem(about, "note", message, "warning") for message in self.notes)
        start = f"from {self.resume_from}" if self.resume_from else "from the start"
        sentence = f"`{self.command}` resumes {start}"
        if self.longer:
            sentence = f"finished; `{self.command} {self.longer}` makes it longer, {start}"
        found = Finding(about, "resume", "ok", sentence, values=self.to_json())
        if self.update:
            found = replace(found, status="warning", sentence="not by this version", remedy="update groundup")
        elif not self.command and self.resume_from:
            found = replace(found, status="warning", sentence="not yet", remedy="fix what is damaged above")
        elif not self.command:
            found = replace(found, status="problem", sentence="no checkpoint is complete", remedy="start a new run")
        yield found


def check_run(path: Path, data: Path | None = None) -> RunReport:
    """Check everything about the run at `path`; `data` is its prepared folder if that has moved.

    CheckpointError when there is no run at all, DataError when `data` is no folder. Where a training process deletes
    or replaces a checkpoint meanwhile, the list is read again, and what was checked is not checked again.
    """
    run = RunFolder(path)
    if not (path / "config.yaml").exists() and not run.checkpoints.is_dir():
        raise CheckpointError(f"{path}: holds no run; give a folder written by `groundup train`")
    if data and not data.is_dir():
        raise DataError(match_data(data, {}).message)
    checked: dict[tuple[Path, int | None], CheckpointReport] = {}
    for _ in range(MAX_LOOKS):
        keys = [(folder, folder_identity(folder)) for folder in run.steps()]
        try:
            for key in keys:
                checked[key] = checked.get(key) or _check_checkpoint(key[0])
            report = _report(run, [checked[key] for key in keys], data)
        except Exception:
            if _are_there(keys):
                raise
            continue
        if _are_there(keys):
            return report
    raise CheckpointError(f"{run.checkpoints}: deleted by training before they can be checked; stop the run first")


def _are_there(keys: Iterable[tuple[Path, int | None]]) -> bool:
    return all(identity is not None and folder_identity(folder) == identity for folder, identity in keys)


def _report(run: RunFolder, reports: list[CheckpointReport], data: Path | None) -> RunReport:
    user = holder(run.path)
    notes = [f"in use right now by {user}"] if user else []
    reports, replaced = _check_parents(run, reports)
    good = next((run.checkpoints / report.name for report in reversed(reports) if report.ok), None)
    config, own_problem = _read_config(run, good)
    data_problems, data_notes = _check_data(config, good, data)
    lost = [] if reports else _check_lost(run)
    problems = [*own_problem, *replaced, *lost, *_check_own_files(run, good), *data_problems]
    notes += [*data_notes, *_check_log(run.log), *_check_links(run)]
    hidden = [report.name for report in reports if report.name.startswith(".")]
    notes += [f"checkpoints: {name} was being replaced at a crash; resume puts it back" for name in hidden]
    left = [path.name for path in run.leftovers() if path.name not in hidden]
    if left and not user:
        notes.append(f"checkpoints: {', '.join(left)} left behind by a crash; resume tidies them")
    if rejected := [path.name for path in run.rejected()]:
        notes.append(f"checkpoints: {', '.join(rejected)}: rejected and kept by resume; delete what you do not need")
    notes += _check_disk(run)
    if not reports and not lost:
        notes.append("no checkpoint yet: resume starts again, with the same weights")
    # Whether a newer groundup wrote the newest checkpoint with matching checksums, the one resuming would take.
    update = next((report.newer for report in reversed(reports) if report.intact), False)
    command = _resume_command(run, reports, data) if config and not update and not lost else None
    longer = _longer(config, good, data) if command and config and good else None
    resume_from = files.final_name(good) if good else None
    return RunReport(run.path, tuple(reports), tuple(problems), tuple(notes), resume_from, command, update, longer)


def check_lone_checkpoint(path: Path) -> Finding:
    """The checksums of a checkpoint that may lie outside a run."""
    try:
        verify(path)
        load_config(path)
    except GroundupError as error:
        return problem(str(path), "checkpoint", error)
    return Finding(str(path), "checkpoint", "ok", "complete: every checksum matches")


def _check_checkpoint(folder: Path) -> CheckpointReport:
    """Every damaged file; if there is none, what is wrong with the contents."""
    try:
        damaged = tuple(f"{file}: {what}" for file, what in damage(folder))
    except OSError as error:
        reason = _relative(folder, unreadable(error, folder)).partition("; nothing was changed")[0]
        return CheckpointReport(folder.name, (reason,), intact=False, unreadable=True)
    if damaged:
        return CheckpointReport(folder.name, damaged, intact=False)
    try:
        return CheckpointReport(folder.name, tuple(_wrong_contents(folder)))
    except NewerFormatError as error:
        return CheckpointReport(folder.name, (_relative(folder, error),), newer=True)


def _wrong_contents(folder: Path) -> Iterator[str]:
    try:
        config = load_config(folder)
        state.load_tokenizer(folder)
    except NewerFormatError:
        raise
    except GroundupError as error:
        yield _relative(folder, error)
        return
    average = (AVERAGE,) if config.optimizer.ema_decay else ()
    missing = [name for name in (MODEL, OPTIMIZER, *average) if not (folder / name).is_file()]
    yield from (f"{name}: missing, though {SUMS} does not list it" for name in missing)
    if not average and (folder / AVERAGE).exists():
        yield f"{AVERAGE}: there, though optimizer.ema_decay in {CONFIG} asks for none"
    stepped = False
    try:
        stepped = has_stepped(load_training_metadata(folder))
    except CheckpointError as error:
        yield _relative(folder, error)
    try:
        for name, expected in expected_tensors(folder, config).items():
            if (folder / name).is_file():
                found = islice(tensor_problems(folder / name, expected, stepped=stepped), MAX_TENSOR_PROBLEMS)
                yield from (f"{name}: {what}" for what in found)
    except CheckpointError as error:
        yield _relative(folder, error)


def _check_parents(run: RunFolder, reports: list[CheckpointReport]) -> tuple[list[CheckpointReport], list[str]]:
    """Whether each checkpoint's parent, if it is still there, is still the one that training continued from."""
    found, replaced = {report.name: report for report in reports}, []
    for child in reports:
        try:
            parent = load_metadata(run.checkpoints / child.name)["parent"]
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


def _read_config(run: RunFolder, good: Path | None) -> tuple[Config | None, list[str]]:
    """The config that resuming would use, None if it would not, and what is wrong with the run's."""
    if good and (lost := lost_config(run)):
        return load_config(good), [f"config.yaml: {lost}; resume rebuilds it from {good.name}"]
    try:
        config = run.config()
    except CheckpointError as error:
        return None, [_relative(run.path, error)]
    changed = changed_config(run, config, good) if good else None
    return (None, [changed.removeprefix(f"{run.path}/")]) if changed else (config, [])


def _check_own_files(run: RunFolder, good: Path | None) -> Iterator[str]:
    """Whether the run's log and environment.json are there, and no link stands where resuming refuses one."""
    if good and not run.log.exists():
        yield f"{run.log.name}: missing"
    for path in (run.log, run.path / LOCK):
        if path.is_symlink():
            yield f"{path.name}: a link, which is not followed; remove it, or resume refuses the run"
    try:
        read_json(run.path / "environment.json")
    except (OSError, ValueError):
        yield "environment.json: missing or damaged; ignore it: training does not need it"


def _check_data(config: Config | None, good: Path | None, moved: Path | None) -> tuple[list[str], list[str]]:
    """Problems and notes: whether the prepared folder is there, complete, and what the run was trained on."""
    folder = moved or (Path(config.data) if config and config.data else None)
    if folder is None:
        return [], []
    try:
        found = match_data(folder, load_metadata(good) if good else {})
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
        lines = human_plural(len(torn), "line")
        yield f"{path.name}: {lines} cut off, as a kill or a power failure leaves them: ignored"
    if missing:
        yield f"{path.name}: {human_plural(missing, 'step')} missing: not logged, or lost with a cut line"


def _check_links(run: RunFolder) -> Iterator[str]:
    """Whether `latest` and `best`, which only people use, point to checkpoints."""
    newest = run.steps()[-1:]
    for link in (run.path / "latest", run.path / "best"):
        wrong = ""
        if link.is_symlink() and not link.exists():
            wrong = "which is gone"
        elif link.name == "latest" and link.is_symlink() and newest and resolved(link) != resolved(newest[0]):
            wrong = f"not to {newest[0].name}"
        if wrong:
            yield f"{link.name}: points to {link.readlink()}, {wrong}; the next checkpoint fixes it"


def _check_disk(run: RunFolder) -> Iterator[str]:
    free = shutil.disk_usage(run.path).free
    for folder in run.steps()[-1:]:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if free < size:
            yield f"disk: {human_bytes(free)} free, but a checkpoint takes {human_bytes(size)}; make room first"


def _check_lost(run: RunFolder) -> list[str]:
    """The error that `groundup resume` raises where the log has saved checkpoints and none is there; else empty."""
    try:
        run.refuse_lost()
    except CheckpointError as error:
        return [str(error).removeprefix(f"{run.path}/")]
    return []


def _resume_command(run: RunFolder, reports: list[CheckpointReport], data: Path | None) -> str | None:
    """How to continue. Resuming refuses a checkpoint whose checksums match and whose contents are wrong: delete it."""
    bad = list(takewhile(lambda report: not report.ok, reversed(reports)))
    if (reports and len(bad) == len(reports)) or any(report.unreadable for report in bad):
        return None  # `groundup resume` has nothing to resume from, or could not read the newest
    names = [str(run.checkpoints / report.name) for report in reversed(bad) if report.intact]
    remove = f"{shlex.join(['rm', '-r', '--', *names])} && " if names else ""
    return remove + shlex.join(["groundup", "resume", str(run.path), *(["--data", str(data)] if data else [])])


def _longer(config: Config, newest: Path, moved: Path | None) -> str | None:
    """The option that doubles a run which has ended with its newest checkpoint.

    None where it has not, and where its length is in epochs of data that is missing.
    """
    train, metadata, sequences = config.train, load_metadata(newest), 0
    try:
        if train.epochs is not None:
            tokens = Manifest.load(moved or Path(config.data or "")).splits["train"].tokens
            sequences = windows_per_epoch(tokens, config.model.block_size)
        key = ended_by(train, config.batch_size, sequences, metadata)
    except (DataError, ConfigError):  # reported elsewhere
        return None
    if key is None:
        return None
    limit = metadata["step"] if key == "max_steps" else getattr(train, key)
    used = metadata["elapsed"] if key in ("max_time", "time_limit") else 0  # more than the limit where steps are slow
    return f"--train.{key} {math.ceil(2 * max(limit, used))}"


def _relative(folder: Path, error: GroundupError) -> str:
    """A message with paths relative to `folder`, without the general remedy."""
    return str(error).removeprefix(f"{folder}/").removeprefix(f"{folder}: ").partition("; use another checkpoint")[0]
