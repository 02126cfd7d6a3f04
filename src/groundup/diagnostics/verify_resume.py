"""Proof, on a user's own config and machine, that a killed and resumed run equals an uninterrupted one bit for bit."""

import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from groundup.checkpoint.files import step_of
from groundup.checkpoint.log import read_log
from groundup.checkpoint.metadata import load_metadata
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.merge import diff, get
from groundup.config.schema import Config, to_yaml
from groundup.errors import TrainingError, UsageError
from groundup.ui.format import human_bytes
from groundup.utils import ending_signal

COMPARED_KEYS = ("loss", "grad_norm", "lr", "tokens", "cursor")  # of a step's record: all but times
TIME_KEYS = {"elapsed", "dt", "parent"}  # of progress.json: times, and the digest of a folder that holds times
CHECKPOINTS_ON_DISK = 5  # at once, with one that is being written


@dataclass(frozen=True)
class Difference:
    """A tensor in which two checkpoints differ."""

    file: str
    tensor: str
    largest: float | None  # absolute; None if the tensor is missing, misshapen or not finite


@dataclass(frozen=True)
class Outcome:
    """Result of the comparison."""

    steps: int
    killed_after: int  # step
    tensors: int  # number compared: weights, optimizer state, averages
    difference: Difference | None  # at the last step
    metadata: tuple[str, ...]  # keys of progress.json that differ
    losses_from: int | None  # the first step after the kill whose logged numbers differ
    repeatable: bool  # the two runs were equal up to the kill; if not, resuming is not to blame
    seconds: float

    @property
    def bitwise(self) -> bool:
        return self.repeatable and not (self.difference or self.metadata or self.losses_from)


def verify_resume(
    config: Config,
    *,
    steps: int,
    report: Callable[[str], None] = lambda line: None,
    before_resume: Callable[[Path], None] = lambda run: None,
) -> Outcome:
    """Train `steps` steps, and again with a SIGKILL half-way and a resume, each in a process of its own; compare.

    An odd number of steps is rounded down. `before_resume` gets the killed run's folder, and may change it. The
    temporary folder is deleted, also after Ctrl-C. Raises UsageError for what `groundup train` would refuse,
    TrainingError if one of the processes fails, so that nothing is proved.
    """
    if steps < 2:
        raise UsageError(f"--steps {steps}: must be 2 or more, so that there is something before and after the kill")
    began = time.monotonic()
    with _terminable(), tempfile.TemporaryDirectory(prefix="groundup-verify-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        plan = _dry_run(config, folder)
        start_up = time.monotonic() - began
        short = shortened(config, plan["steps"], steps)
        middle, last = short.checkpoint.every_steps, 2 * short.checkpoint.every_steps
        _refuse_small_disk(folder, plan["checkpoint_bytes"])
        step_seconds = config.train.batch_tokens / plan["tokens_per_s"] if plan["tokens_per_s"] else 0.0
        seconds = 3 * start_up + (2 * last + 4) * step_seconds
        report(f"{last} steps uninterrupted, then again with a kill after step {middle}; about {seconds:.0f} s left")
        changes = ", ".join(f"{key} {get(config, key)} -> {get(short, key)}" for key in diff(config, short))
        report(f"changed for this test: {changes}")
        straight, killed = RunFolder(folder / "straight"), RunFolder(folder / "killed")
        config_file = folder / "config.yaml"
        config_file.write_text(to_yaml(short), encoding="utf-8")
        train = ["train", "--config", str(config_file), "--out"]
        _run_until(lambda: straight.checkpoint(last).is_dir(), [*train, str(straight.path)])
        report(f"uninterrupted: step {last} after {time.monotonic() - began:.0f} s")
        # The second run takes what the first one resolved, such as a precision chosen by timing.
        shutil.copyfile(straight.path / "config.yaml", config_file)
        _run_until(
            lambda: killed.checkpoint(middle).is_dir() and _last_step(killed) > middle, [*train, str(killed.path)]
        )
        for written in killed.steps():  # by a fast run, before the kill reached it
            if step_of(written) > middle:
                shutil.rmtree(written)
        report(f"killed: by SIGKILL after step {_last_step(killed)}, its last checkpoint at step {middle}")
        same_before = largest_difference(straight.checkpoint(middle), killed.checkpoint(middle))[0] is None
        before_resume(killed.path)
        _run_until(lambda: killed.checkpoint(last).is_dir(), ["resume", str(killed.path)])
        report(f"resumed: step {last} after {time.monotonic() - began:.0f} s")
        return _compare(straight, killed, middle, last, same_before, began)


def shortened(config: Config, total: int | None, steps: int) -> Config:
    """The config of the test runs: checkpoints half-way and at the end of `steps`, small evaluations in between.

    The run length stays, and with it every learning rate; but a time becomes `total` steps, because how far a run
    comes in a time is never the same twice.
    """
    if total is None:
        raise UsageError("train.max_time: how many steps fit into it is not known here; give --train.max_steps instead")
    half = min(steps, total) // 2
    if half < 1:
        raise UsageError("train: a run of one step has nothing to resume; make it longer")
    train = {"time_limit": None, "early_stopping_patience": None, "log_every": 1}
    if config.train.max_time is not None:
        train |= {"max_time": None, "max_steps": total}
    every = max(1, half - 1)
    tokens = min(config.train.batch_tokens, config.evaluate.tokens or config.train.batch_tokens)
    sample = min(8, config.evaluate.sample_tokens)
    evaluate = {"every_steps": every, "every_epochs": None, "sample_every_steps": every}
    evaluate |= {"tokens": tokens, "sample_tokens": sample}
    checkpoint = {"every_steps": half, "every_epochs": None, "every_minutes": None, "save_best": False}
    checkpoint |= {"keep_last": 1_000_000}  # all of the few must stay
    changes = {"train": train, "evaluate": evaluate, "checkpoint": checkpoint, "tracking": {"backends": ()}}
    return config.model_copy(
        update={section: getattr(config, section).model_copy(update=values) for section, values in changes.items()}
    )


def _dry_run(config: Config, folder: Path) -> dict[str, Any]:
    """All checks of `groundup train`, and its plan."""
    file = folder / "asked.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    command = _command(["train", "--config", str(file), "--dry-run"])
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=False)
    if done.returncode:
        _raise_failure(done.returncode, done.stderr.splitlines())
    return json.loads(done.stdout)


def _refuse_small_disk(folder: Path, checkpoint_bytes: int) -> None:
    free, need = shutil.disk_usage(folder).free, CHECKPOINTS_ON_DISK * checkpoint_bytes
    if free < need:
        raise UsageError(
            f"{folder.parent}: {human_bytes(free)} free, but {human_bytes(need)} are needed for a while; "
            "name a larger folder in the environment variable TMPDIR"
        )


def _run_until(reached: Callable[[], bool], words: list[str]) -> None:
    """Run a command of groundup until `reached`, and kill it, however that ends.

    It ends by itself when this process is gone: a run ends when its output is no longer read.
    """
    last_lines: deque[str] = deque(maxlen=20)
    child = subprocess.Popen(
        _command(words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    reader = threading.Thread(target=last_lines.extend, args=(child.stderr,), daemon=True)
    reader.start()
    try:
        while not reached():
            status = child.poll()
            if status is not None and not reached():
                reader.join()
                _raise_failure(status, last_lines)
            time.sleep(0.02)
    finally:
        child.kill()  # SIGKILL
        child.wait()
        reader.join()
        assert child.stderr is not None
        child.stderr.close()


def _raise_failure(status: int, lines: Sequence[str]) -> None:
    """Raise a child's error message as an error of this process."""
    message = (lines or ["no message"])[-1].strip().removeprefix("groundup: ")
    if status == UsageError.exit_status:
        raise UsageError(message)
    raise TrainingError(f"a trial run ended with status {status}: {message}")


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "groundup", *words, "--json"]  # -P: nothing is imported from this folder


def _last_step(run: RunFolder) -> int:
    return max((record["step"] for record in read_log(run.log) if record["event"] in ("step", "skip")), default=0)


def _compare(
    straight: RunFolder, killed: RunFolder, middle: int, last: int, same_before: bool, began: float
) -> Outcome:
    resumed = [record["step"] for record in read_log(killed.log) if record["event"] == "resume"]
    if resumed != [middle]:
        raise TrainingError(
            f"the killed run did not resume from its checkpoint at step {middle}, so nothing is proved; try again"
        )
    (uninterrupted, *_), (before, after) = _logged(straight), _logged(killed)
    differing = [step for step in range(middle + 1, last + 1) if uninterrupted.get(step) != after.get(step)]
    largest, tensors = largest_difference(straight.checkpoint(last), killed.checkpoint(last))
    metadata = tuple(differing_metadata(straight.checkpoint(last), killed.checkpoint(last)))
    repeatable = same_before and all(uninterrupted.get(step) == before.get(step) for step in range(1, middle + 1))
    losses_from, seconds = min(differing, default=None), time.monotonic() - began
    return Outcome(last, middle, tensors, largest, metadata, losses_from, repeatable, seconds)


def _logged(run: RunFolder) -> list[dict[int, tuple[Any, ...]]]:
    """The logged numbers of each step, one dict per process of a run."""
    parts: list[dict[int, tuple[Any, ...]]] = [{}]
    for record in read_log(run.log):
        if record["event"] == "resume":
            parts.append({})
        elif record["event"] in ("step", "skip"):
            parts[-1][record["step"]] = tuple(record.get(key) for key in COMPARED_KEYS)
    return parts


@contextmanager
def _terminable() -> Iterator[None]:
    """While entered, SIGTERM and SIGHUP raise SystemExit, so that everything is cleaned up; unless they are ignored."""

    def leave(number: int, frame: object) -> None:
        ending_signal.record(number)
        raise SystemExit(128 + number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP; nohup ignores it
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            with suppress(ValueError):  # not the main thread
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def largest_difference(a: Path, b: Path) -> tuple[Difference | None, int]:
    """The tensor of two checkpoints with the largest difference, if any bit differs; and the number compared."""
    found, compared = [], 0
    for file in sorted({path.relative_to(f).as_posix() for f in (a, b) for path in f.rglob("*.safetensors")}):
        one, other = (load_file(f / file) if (f / file).exists() else {} for f in (a, b))  # memory-mapped
        found += [Difference(file, name, None) for name in sorted(one.keys() ^ other.keys())]
        both = sorted(one.keys() & other.keys())
        compared += len(both)
        differing = (name for name in both if not same_bits(one[name], other[name]))
        found += [Difference(file, name, _distance(one[name], other[name])) for name in differing]
    return max(found, key=lambda d: math.inf if d.largest is None else d.largest, default=None), compared


def same_bits(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are equal to the last bit: 0 differs from -0, and a NaN equals itself."""
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    return torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8))


def differing_metadata(a: Path, b: Path) -> list[str]:
    """The keys of progress.json in which two checkpoints differ, without times."""
    one, other = load_metadata(a), load_metadata(b)
    keys = sorted((one.keys() | other.keys()) - TIME_KEYS)
    return [key for key in keys if (key in one) != (key in other) or one.get(key) != other.get(key)]


def _distance(x: Tensor, y: Tensor) -> float | None:
    if x.shape != y.shape:
        return None
    distance = (x.double() - y.double()).abs().max().item()
    return distance if math.isfinite(distance) else None
