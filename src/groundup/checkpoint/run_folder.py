"""A run's folder: its config, log and checkpoints."""

import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from groundup.checkpoint.files import final_name, step_of, unreadable, verify
from groundup.checkpoint.location import assign, checkpoints_of, owner, refuse_unsuitable
from groundup.checkpoint.log import iter_log, last_saved
from groundup.checkpoint.metadata import load_metadata
from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.config.schema import Config, to_yaml
from groundup.config.yaml_loader import read_yaml
from groundup.errors import CheckpointError, ConfigError, UnreadableError, UsageError
from groundup.model.size import flops_per_token
from groundup.utils.files import (
    DELETED,
    SUMS,
    flush,
    remove,
    remove_folder,
    replace_text,
    resolved,
    restore_previous,
    unused,
)
from groundup.utils.lock import locked
from groundup.utils.system import installed_version, own_version

MIN_TOKENS_PER_S, MAX_TOKENS_PER_S = 1e-6, 1e15  # a logged speed outside is a mistake
STEP = re.compile(r"step-\d{1,19}", re.ASCII)  # the name of a checkpoint's folder
MAX_LOOKS = 10  # at the list of checkpoints, while a training process deletes them
REJECTED = ".rejected"  # in the hidden names of damaged checkpoints
LIBRARIES = ("torch", "numpy", "tokenizers", "tiktoken", "safetensors")

T = TypeVar("T")


class RunFolder:
    """Paths and files of one run.

    config.yaml        the exact resolved config
    environment.json   command, versions, machine, git commit of groundup's code
    log.jsonl          one object per line: steps, evaluations, samples, saves, resumes
    checkpoints/       step-00001000/ …; or a file that names another folder (see `location`)
    latest, best       -> the newest checkpoint, and the one with the lowest validation loss
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints. CheckpointError where it is a link, or not this run's; UnreadableError."""
        return checkpoints_of(self.path)

    @property
    def exists(self) -> bool:
        """Whether there is a run here, though perhaps a damaged one."""
        return (self.path / "config.yaml").exists() or bool(self.steps())

    def refuse_existing(self, checkpoints: Path | None = None) -> None:
        """UsageError when there is a run here already, or `checkpoints` cannot hold those of a new one."""
        if self.exists:
            resume = shlex.join(["groundup", "resume", str(self.path)])
            raise UsageError(f"{self.path}: holds a run already; resume it with `{resume}`, or give another --out")
        if checkpoints is not None:
            refuse_unsuitable(self.path, checkpoints, new=True)

    def create(self, config: Config, checkpoints: Path | None = None) -> None:
        """Start a new run here, its `checkpoints` perhaps elsewhere; UsageError when a folder cannot be written."""
        self.refuse_existing()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if checkpoints is not None:
                assign(self.path, checkpoints, new=True)
            else:
                self.checkpoints.mkdir(exist_ok=True)
            replace_text(self.path / "environment.json", json.dumps(environment(), indent=2) + "\n")
            self.write_config(config)
        except OSError as error:
            place = error.filename if checkpoints else self.path
            raise UsageError(f"{place}: cannot be written ({error.strerror}); give another --out") from error

    def move_checkpoints(self, folder: Path) -> None:
        """Note that the checkpoints are in `folder` now. CheckpointError where there is no run, UsageError."""
        if not self.path.is_dir():
            raise CheckpointError(f"{self.path}: holds no run (there is no such folder); give the folder of one")
        try:
            with locked(self.path, "moving its checkpoints"):
                assign(self.path, folder, new=False)
        except OSError as error:
            raise UsageError(f"--checkpoints {folder}: cannot be used ({error.strerror}); give another") from error

    def write_config(self, config: Config) -> None:
        replace_text(self.path / "config.yaml", to_yaml(config))

    def config(self) -> Config:
        """The run's config; CheckpointError when this is no run, or its config is damaged."""
        path = self.path / "config.yaml"
        if not path.exists():
            what = "resume the run to rebuild it" if self.steps() else "give the folder of one"
            raise CheckpointError(f"{self.path}: holds no run (there is no {path.name}); {what}")
        remedy = "repair it, or remove it, and resume rebuilds it from the newest checkpoint"
        try:
            config = merge_and_validate([ConfigSource(str(path), read_yaml(path))])
        except ConfigError as error:
            reason = error.__cause__
            if isinstance(reason, OSError) and not isinstance(reason, IsADirectoryError):
                raise unreadable(reason, path) from error
            raise CheckpointError(f"{error}; {remedy}") from error
        if config.model.vocab_size is None:  # resolved in every run: most of the file is lost
            raise CheckpointError(f"{path}: truncated (it has no model.vocab_size); {remedy}")
        return config

    def steps(self) -> list[Path]:
        """Checkpoint folders, oldest first; complete or not. CheckpointError for a link or a file, UnreadableError.

        One that a process was killed over while it replaced it is still under its hidden name.
        """
        folder = self.checkpoints
        try:
            names = {path.name: path for path in folder.iterdir()}
            found = [
                path
                for name, path in names.items()
                if STEP.fullmatch(final := final_name(path))
                and (name == final or final not in names)
                and (path.is_symlink() or path.exists())  # a link may lead nowhere yet
            ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise unreadable(error, folder) from error
        for path in found:
            if path.is_symlink():
                raise CheckpointError(f"{path}: is a link, which is not followed; put the checkpoint itself there")
            if path.exists() and not path.is_dir():  # else training would fail when it saves this step
                raise CheckpointError(f"{path}: is no folder, and in the place of a checkpoint; move it elsewhere")
        return sorted(found, key=step_of)

    def newest_good(self, before: float = math.inf) -> tuple[Path | None, dict[Path, str]]:
        """The newest checkpoint of a step below `before` whose checksums match, and why newer ones are rejected.

        None if there are none; CheckpointError if all are damaged; UnreadableError if it is not known whether one is.
        """
        rejected: dict[Path, str] = {}
        for folder in reversed([folder for folder in self.steps() if step_of(folder) < before]):
            try:
                verify(folder)
            except UnreadableError:
                raise
            except CheckpointError as error:
                rejected[folder] = str(error)
            else:
                return folder, rejected
        if not rejected:
            return None, {}
        which = "" if before == math.inf else f" from before step {before}"
        raise CheckpointError(
            f"{self.path}: no checkpoint{which} is complete, so start a new run: {'; '.join(rejected.values())}"
        )

    def refuse_lost(self) -> None:
        """CheckpointError where the log says that there should be a checkpoint; for a run that has none."""
        if (step := last_saved(self.log)) is not None:
            raise CheckpointError(
                f"{self.checkpoints}: holds no checkpoint, though one of step {step} was saved; mount it or put "
                "it back, or start a new run"
            )

    def go_back_to(self, checkpoint: Path | None, rejected: Mapping[Path, str]) -> list[str]:
        """Let `checkpoint` be the newest: delete later ones and leftovers of crashes, but keep `rejected` ones aside.

        Returns a sentence for each rejected one.
        """
        kept = []
        for folder, reason in rejected.items():
            aside = unused(folder.with_name(f".{folder.name}{REJECTED}"))
            folder.rename(aside)
            kept.append(f"rejected: {reason}; it is kept as {aside}")
        for folder in self.steps():
            if checkpoint is None or step_of(folder) > step_of(checkpoint):
                remove_folder(folder)
        for path in self.leftovers():
            remove(path)
        for link in (self.path / "latest", self.path / "best"):
            if link.is_symlink() and not link.exists():
                link.unlink()
        return kept

    def restore_replaced(self) -> None:
        """Put back checkpoints that a process was killed over while it replaced them."""
        for path in self.steps():
            restore_previous(path.with_name(final_name(path)))

    def leftovers(self) -> list[Path]:
        """Partial, replaced and half-deleted checkpoints of crashed processes; not the rejected ones."""
        return [path for path in sorted(self.checkpoints.glob(".step-*")) if REJECTED not in path.name]

    def rejected(self) -> list[Path]:
        """Damaged checkpoints that were kept aside."""
        return sorted(self.checkpoints.glob(f".step-*{REJECTED}*"))

    def checkpoint(self, step: int) -> Path:
        """The path of the checkpoint of a step, whether it exists or not."""
        return self.checkpoints / f"step-{step:08d}"

    def best(self) -> Path | None:
        """The checkpoint with the lowest validation loss, as noted in the newest one; None if there is none."""
        steps = (step for newest in self.steps()[-1:] if (step := _best_step(newest)) is not None)
        return next((folder for folder in map(self.checkpoint, steps) if folder.is_dir()), None)

    def set_link(self, name: str, checkpoint: Path) -> None:
        """Point the link `latest` or `best` to a checkpoint. For people: nothing here reads it."""
        link, temporary = self.path / name, self.path / f".{name}.partial"
        try:
            temporary.unlink(missing_ok=True)
            inside = checkpoint.is_relative_to(self.path)
            target = checkpoint.relative_to(self.path) if inside else checkpoint
            temporary.symlink_to(target, target_is_directory=True)
            temporary.replace(link)
            flush(self.path)
        except (OSError, NotImplementedError):
            temporary.unlink(missing_ok=True)  # Windows without the privilege to link

    def prune(self, keep: int, spared: set[Path], every: int | None = None, *, bests: bool = True) -> None:
        """Delete checkpoints except the newest `keep`, those in `spared`, and multiples of `every` steps.

        With `bests`, the best checkpoint noted in any of these stays too: a rollback to one of them needs it. Where
        that cannot be read, none is deleted.
        """
        for path in self.checkpoints.glob(f".step-*{DELETED}*"):
            remove(path)  # what could not be deleted then, such as files that were open over NFS
        folders = self.steps()
        kept = {f for f in folders[-keep:] + list(spared) if f.is_dir()}
        kept |= {folder for folder in folders if every and step_of(folder) % every == 0}
        try:
            kept |= {self.checkpoint(step) for folder in kept if bests and (step := _best_step(folder)) is not None}
        except UnreadableError:
            return
        for folder in folders:
            if folder not in kept:
                remove_folder(folder)


def _best_step(checkpoint: Path) -> int | None:
    """The step with the lowest validation loss when a checkpoint was written; None if there was none.

    UnreadableError.
    """
    try:
        best = load_metadata(checkpoint).get("best", {})
    except UnreadableError:
        raise
    except CheckpointError:
        return None
    return best.get("step") if best.get("loss") is not None else None


def find_checkpoint(path: Path, which: str = "latest") -> Path:
    """The checkpoint folder for a path to a run or to a checkpoint; CheckpointError when there is none.

    `which` chooses among a run's: `latest`, `best` by validation loss, or a name such as `step-00001000`.
    """
    if (path / SUMS).is_file():
        return path
    run = RunFolder(path)
    steps = run.steps()
    if not steps:
        what = "has no checkpoint yet" if (path / "config.yaml").exists() else "is neither a run nor a checkpoint"
        raise CheckpointError(f"{path}: {what}; give a folder written by `groundup train`")
    if which == "latest":
        return steps[-1]
    folder = run.best() if which == "best" else run.checkpoints / which
    if folder is None and not steps[-1].is_dir():  # deleted by training before its best was read
        return find_checkpoint(path, which)
    if folder is None:
        raise CheckpointError(
            f"{path}: no best checkpoint is kept (nothing was held out, or checkpoint.save_best is off); use latest"
        )
    if which != "best" and folder not in steps:
        raise CheckpointError(f"{path}: no checkpoint {which!r}; there are {', '.join(p.name for p in steps)}")
    return folder


def read_checkpoint(path: Path, which: str, read: Callable[[Path], T]) -> T:
    """`read` of the checkpoint that `find_checkpoint` finds; of the next one if training deletes it meanwhile.

    Raises what `read` does, and CheckpointError.
    """
    for last in [False] * (MAX_LOOKS - 1) + [True]:
        folder = find_checkpoint(path, which)
        identity = folder_identity(folder)
        try:
            return read(folder)
        except Exception as error:
            if folder_identity(folder) == identity:
                raise
            if last or folder == path:
                raise CheckpointError(
                    f"{folder}: was deleted while it was read, by the process that trains its run; give the run "
                    "itself, or resume it with a larger --checkpoint.keep_last"
                ) from error
    raise AssertionError


def folder_identity(folder: Path) -> int | None:
    """A number that is another one for a folder that replaces this one; None for a folder that is gone."""
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return None


def run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint belongs to, if any."""
    folder = resolved(checkpoint).parent
    try:
        for run in (owner(folder), folder.parent):  # the first is out of date where a run took its checkpoints back
            if run and (run / "config.yaml").is_file() and resolved(checkpoints_of(run)) == folder:
                return run
    except (OSError, CheckpointError):
        pass
    return None


def environment() -> dict[str, Any]:
    """Command, versions, machine, and the git commit of groundup's own code, of this process."""
    versions = {"groundup": own_version(), **{name: have for name in LIBRARIES if (have := installed_version(name))}}
    return {
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "versions": versions,
        "machine": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "git": _git_commit(),
    }


def _git_commit() -> str | None:
    """The commit of the checkout that groundup runs from; None if it is installed.

    Of another repository git is asked nothing: its settings name programs that git starts, even to name a commit.
    """
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def logged_speed(run: Path, flops: int) -> tuple[float, str]:
    """A run's median tokens per second, scaled to `flops` per token, and its source; CheckpointError without steps."""
    folder = RunFolder(run)
    model = folder.config().model
    try:
        found = [r["tokens_per_s"] for r in iter_log(folder.log) if r["event"] == "step"]
        speed = median(found) * flops_per_token(model) / flops
    except (ValueError, KeyError, TypeError):  # the median of nothing is a ValueError
        raise CheckpointError(f"{folder.log}: has no step; give a run that has trained") from None
    if not MIN_TOKENS_PER_S <= speed <= MAX_TOKENS_PER_S:
        raise CheckpointError(f"{folder.log}: its speed is {speed} tokens per second; give a run that has trained")
    scaled = "" if flops_per_token(model) == flops else ", scaled by FLOPs per token"
    return speed, f"as in {run}{scaled}"
