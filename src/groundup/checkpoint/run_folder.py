"""A run's folder: its config, log and checkpoints."""

import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from groundup.checkpoint.files import verify
from groundup.checkpoint.log import iter_log
from groundup.checkpoint.metadata import load_metadata
from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.config.schema import Config, to_yaml
from groundup.config.yaml_loader import read_yaml
from groundup.errors import CheckpointError, ConfigError, UsageError
from groundup.model.size import flops_per_token
from groundup.utils.files import SUMS, flush, remove_folder, replace_text
from groundup.utils.system import installed_version, own_version

MIN_TOKENS_PER_S, MAX_TOKENS_PER_S = 1e-6, 1e15  # a logged speed outside is a mistake
STEP = re.compile(r"step-\d{1,19}", re.ASCII)  # the name of a checkpoint's folder
LIBRARIES = ("torch", "numpy", "tokenizers", "tiktoken", "safetensors")


class RunFolder:
    """Paths and files of one run.

    config.yaml        the exact resolved config
    environment.json   command, versions, machine, git commit of groundup's code
    log.jsonl          one object per line: steps, evaluations, samples, saves, resumes
    checkpoints/       step-00001000/ …
    latest, best       -> the newest checkpoint, and the one with the lowest validation loss
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log.jsonl"
        self.checkpoints = path / "checkpoints"

    def refuse_existing(self) -> None:
        """UsageError when there is a run here already."""
        if (self.path / "config.yaml").exists():
            resume = shlex.join(["groundup", "resume", str(self.path)])
            raise UsageError(f"{self.path}: holds a run already; resume it with `{resume}`, or give another --out")

    def create(self, config: Config) -> None:
        """Start a new run here; UsageError when the folder cannot be written."""
        self.refuse_existing()
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            replace_text(self.path / "environment.json", json.dumps(environment(), indent=2) + "\n")
            self.write_config(config)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written ({error.strerror}); give another --out") from error

    def write_config(self, config: Config) -> None:
        replace_text(self.path / "config.yaml", to_yaml(config))

    def config(self) -> Config:
        """The run's config; CheckpointError when this is no run, or its config is damaged."""
        path = self.path / "config.yaml"
        if not path.exists():
            raise CheckpointError(f"{self.path}: holds no run (there is no {path.name}); give the folder of one")
        remedy = "put back the config.yaml that the run was started with"
        try:
            config = merge_and_validate([ConfigSource(str(path), read_yaml(path))])
        except ConfigError as error:
            raise CheckpointError(f"{error}; {remedy}") from error
        if config.model.vocab_size is None:  # resolved in every run: most of the file is lost
            raise CheckpointError(f"{path}: truncated (it has no model.vocab_size); {remedy}")
        return config

    def steps(self) -> list[Path]:
        """Checkpoint folders, oldest first; complete or not."""
        folders = (path for path in self.checkpoints.glob("step-*") if STEP.fullmatch(path.name) and path.is_dir())
        return sorted(folders, key=step_of)

    def newest_good(self, before: float = math.inf) -> tuple[Path | None, list[str]]:
        """The newest checkpoint of a step below `before` whose checksums match, and why each newer one was rejected.

        None if there are none; CheckpointError if all are damaged.
        """
        rejected: list[str] = []
        for folder in reversed([folder for folder in self.steps() if step_of(folder) < before]):
            try:
                verify(folder)
            except CheckpointError as error:
                rejected.append(str(error))
            else:
                return folder, rejected
        if not rejected:
            return None, []
        which = "" if before == math.inf else f" from before step {before}"
        raise CheckpointError(
            f"{self.path}: no checkpoint{which} is complete, so start a new run: {'; '.join(rejected)}"
        )

    def delete_after(self, checkpoint: Path | None) -> None:
        """Delete the checkpoints after `checkpoint`, so that none of them counts as the newest, and partial ones."""
        for folder in self.steps():
            if checkpoint is None or step_of(folder) > step_of(checkpoint):
                remove_folder(folder)
        for partial in self.checkpoints.glob(".step-*"):
            shutil.rmtree(partial, ignore_errors=True)

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
            temporary.symlink_to(checkpoint.relative_to(self.path), target_is_directory=True)
            temporary.replace(link)
            flush(self.path)
        except (OSError, NotImplementedError):
            temporary.unlink(missing_ok=True)  # Windows without the privilege to link

    def prune(self, keep: int, spared: set[Path], every: int | None = None, *, bests: bool = True) -> None:
        """Delete checkpoints except the newest `keep`, those in `spared`, and multiples of `every` steps.

        With `bests`, the best checkpoint noted in any of these stays too: a rollback to one of them needs it.
        """
        folders = self.steps()
        kept = {f for f in folders[-keep:] + list(spared) if f.is_dir()}
        kept |= {folder for folder in folders if every and step_of(folder) % every == 0}
        if bests:
            kept |= {self.checkpoint(step) for folder in kept if (step := _best_step(folder)) is not None}
        for folder in folders:
            if folder not in kept:
                remove_folder(folder)


def _best_step(checkpoint: Path) -> int | None:
    """The step with the lowest validation loss when a checkpoint was written; None if there was none."""
    try:
        best = load_metadata(checkpoint).get("best", {})
    except CheckpointError:
        return None
    return best.get("step") if best.get("loss") is not None else None


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(checkpoint.name.removeprefix("step-"))


def find_checkpoint(path: Path, which: str = "latest") -> Path:
    """The checkpoint folder for a path to a run or to a checkpoint; CheckpointError when there is none.

    `which` chooses among a run's: `latest`, `best` by validation loss, or a name such as `step-00001000`.
    """
    if (path / SUMS).is_file():
        return path
    run = RunFolder(path)
    if not run.steps():
        what = "has no checkpoint yet" if (path / "config.yaml").exists() else "is neither a run nor a checkpoint"
        raise CheckpointError(f"{path}: {what}; give a folder written by `groundup train`")
    if which == "latest":
        return run.steps()[-1]
    folder = run.best() if which == "best" else run.checkpoints / which
    if folder is None:
        raise CheckpointError(
            f"{path}: no best checkpoint is kept (nothing was held out, or checkpoint.save_best is off); use latest"
        )
    if folder not in run.steps():
        raise CheckpointError(f"{path}: no checkpoint {which!r}; there are {', '.join(p.name for p in run.steps())}")
    return folder


def run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint's folder lies in, if any."""
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file() else None


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
