"""Proves on a user's own config and machine that a killed and resumed run is, bit for bit, the one nobody touched."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.checkpoint.diff import Difference, difference, different_books
from groundup.checkpoint.log import read_log
from groundup.checkpoint.run_folder import RunFolder, step_of
from groundup.config.merge import diff, get
from groundup.config.schema import Config, to_yaml
from groundup.errors import TrainingError, UsageError

LOGGED = ("loss", "grad_norm", "lr", "tokens", "cursor")  # of a step's record: all that is no time
ALL = 1_000_000  # checkpoints to keep: there are a few, and none of them may go
LOOK = 0.02  # seconds between two looks at a run's folder
SAMPLE, BYTES = 8, 5  # tokens of a sample; checkpoints on disk at once, with one that is being written


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    steps: int
    killed_after: int  # step
    tensors: int  # compared: weights, moments, averages
    difference: Difference | None  # at the last step
    books: tuple[str, ...]  # what else a checkpoint remembers and remembered differently
    losses_from: int | None  # the first step after the kill whose logged numbers differ
    repeatable: bool  # the two runs were the same up to the kill; if not, resuming is not to blame
    seconds: float

    @property
    def bitwise(self) -> bool:
        """Whether nothing differs."""
        return self.repeatable and not (self.difference or self.books or self.losses_from)


def verify_resume(
    config: Config,
    *,
    steps: int,
    say: Callable[[str], None] = lambda line: None,
    between: Callable[[Path], None] = lambda run: None,
) -> Outcome:
    """Train `steps` steps, and again with a SIGKILL half-way and a resume, all in processes of their own; compare.

    An odd number of steps is rounded down. `between` may look at, or spoil, the killed run's folder before it is
    resumed. Nothing is left behind, also after Ctrl-C. Raises UsageError for what `groundup train` would refuse,
    TrainingError where one of the processes fails, so that nothing is proved.
    """
    if steps < 2:
        raise UsageError(f"--steps {steps}: must be 2 or more, so that there is something before and after the kill")
    began = time.monotonic()
    with _terminable(), tempfile.TemporaryDirectory(prefix="groundup-verify-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        plan = _rehearse(config, place)
        start_up = time.monotonic() - began
        short = shortened(config, plan["steps"], steps)
        middle, last = short.checkpoint.every_steps, 2 * short.checkpoint.every_steps
        _refuse_small_disk(place, plan["checkpoint_bytes"])
        a_step = config.train.batch_tokens / plan["tokens_per_s"] if plan["tokens_per_s"] else 0.0
        say(f"{last} steps straight, and again with a kill after step {middle}: about "
            f"{3 * start_up + (2 * last + 4) * a_step:.0f} seconds more")  # fmt: skip
        for key in diff(config, short):
            say(f"for this, {key} is {get(short, key)}, not {get(config, key)}")
        straight, killed = RunFolder(place / "straight"), RunFolder(place / "killed")
        _train(straight, to_yaml(short), lambda: straight.checkpoint(last).is_dir())
        say(f"straight: step {last} after {time.monotonic() - began:.0f} s")
        # What the first run settled, such as a precision that was timed, holds for the second one too.
        settled = (straight.path / "config.yaml").read_text(encoding="utf-8")
        _train(killed, settled, lambda: killed.checkpoint(middle).is_dir() and _last_step(killed) > middle)
        _forget_after(killed, middle)
        say(f"killed: by SIGKILL after step {_last_step(killed)}, its last checkpoint at step {middle}")
        same_before = difference(straight.checkpoint(middle), killed.checkpoint(middle))[0] is None
        between(killed.path)
        with _running(["resume", str(killed.path)]) as resumed:
            _until(resumed, lambda: killed.checkpoint(last).is_dir())
        say(f"resumed: step {last} after {time.monotonic() - began:.0f} s")
        return _compare(straight, killed, middle, last, same_before, began)


def shortened(config: Config, total: int | None, steps: int) -> Config:
    """The config as it is run here. The horizon stays, and with it every learning rate, but a horizon in time becomes
    one of `total` steps: how far a run comes in a time is never the same twice.

    Checkpoints half-way and at the end of `steps`, evaluations and samples in between, though small ones.
    """
    if total is None:
        raise UsageError("train.max_time: how many steps fit into it is not known here; give --train.max_steps instead")
    half = min(steps, total) // 2
    if half < 1:
        raise UsageError("train: a run of one step has nothing to resume; give a longer horizon")
    train = {"time_limit": None, "early_stopping_patience": None, "log_every": 1}
    if config.train.max_time is not None:
        train |= {"max_time": None, "max_steps": total}
    near = max(1, half - 1)
    tokens = min(config.train.batch_tokens, config.evaluate.tokens or config.train.batch_tokens)
    sample = min(SAMPLE, config.evaluate.sample_tokens)
    evaluate = {"every_steps": near, "tokens": tokens, "sample_every_steps": near, "sample_tokens": sample}
    checkpoint = {"every_steps": half, "every_minutes": None, "keep_last": ALL, "save_best": False}
    return config.model_copy(
        update={
            "train": config.train.model_copy(update=train),
            "evaluate": config.evaluate.model_copy(update=evaluate),
            "checkpoint": config.checkpoint.model_copy(update=checkpoint),
            "tracking": config.tracking.model_copy(update={"backends": ()}),
        }
    )


def _rehearse(config: Config, place: Path) -> dict[str, Any]:
    """All that `groundup train` checks before it writes, and its plan."""
    file = place / "asked.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    command = _command(["train", "--config", str(file), "--dry-run"])
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=False)
    if done.returncode:
        _refuse(done.returncode, done.stderr.splitlines())
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def _refuse_small_disk(place: Path, checkpoint_bytes: int) -> None:
    free, need = shutil.disk_usage(place).free, BYTES * checkpoint_bytes
    if free < need:
        raise UsageError(
            f"{place.parent}: {free / 1e9:.1f} GB free, but {need / 1e9:.1f} GB are needed for a while; "
            "name a larger place in the environment variable TMPDIR"
        )


def _train(run: RunFolder, text: str, reached: Callable[[], bool]) -> None:
    """Train a new run of the config in `text` until `reached`, and kill it."""
    file = run.path.with_suffix(".yaml")
    file.write_text(text, encoding="utf-8")
    with _running(["train", "--config", str(file), "--out", str(run.path)]) as child:
        _until(child, reached)


class _Child(subprocess.Popen[str]):
    """A groundup of its own, whose last words are kept.

    It ends by itself when we are gone: nobody reads its lines any more, and then a run ends.
    """

    def __init__(self, words: list[str]) -> None:
        super().__init__(
            _command(words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.last_words: deque[str] = deque(maxlen=20)
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        assert self.stderr is not None
        self.last_words.extend(self.stderr)


@contextmanager
def _running(words: list[str]) -> Iterator[_Child]:
    """A child process that does not survive the block, however that ends."""
    child = _Child(words)
    try:
        yield child
    finally:
        child.kill()  # SIGKILL
        child.wait()
        child.listener.join()
        assert child.stderr is not None
        child.stderr.close()


def _until(child: _Child, reached: Callable[[], bool]) -> None:
    while not reached():
        status = child.poll()
        if status is not None and not reached():
            child.listener.join()
            _refuse(status, list(child.last_words))
        time.sleep(LOOK)


def _refuse(status: int, lines: list[str]) -> None:
    """Pass on what a child said."""
    said = (lines or ["nothing was said"])[-1].strip().removeprefix("groundup: ")
    if status == UsageError.exit_status:
        raise UsageError(said)
    raise TrainingError(f"a trial run ended with status {status}: {said}")


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "groundup", *words, "--json"]


def _last_step(run: RunFolder) -> int:
    records = read_log(run.log) if run.log.exists() else []
    return max((record["step"] for record in records if record["event"] in ("step", "skip")), default=0)


def _forget_after(run: RunFolder, step: int) -> None:
    """Delete the checkpoints that a fast run wrote before the kill reached it."""
    for folder in run.steps():
        if step_of(folder) > step:
            shutil.rmtree(folder)


def _compare(
    straight: RunFolder, killed: RunFolder, middle: int, last: int, same_before: bool, began: float
) -> Outcome:
    resumed = [record["step"] for record in read_log(killed.log) if record["event"] == "resume"]
    if resumed != [middle]:
        raise TrainingError(f"the killed run did not go on from its checkpoint at step {middle}, so nothing is proved")
    (untouched, *_), (before, after) = _losses(straight), _losses(killed)
    off = [step for step in range(middle + 1, last + 1) if untouched.get(step) != after.get(step)]
    worst, tensors = difference(straight.checkpoint(last), killed.checkpoint(last))
    return Outcome(
        steps=last,
        killed_after=middle,
        tensors=tensors,
        difference=worst,
        books=tuple(different_books(straight.checkpoint(last), killed.checkpoint(last))),
        losses_from=min(off, default=None),
        repeatable=same_before and all(untouched.get(step) == before.get(step) for step in range(1, middle + 1)),
        seconds=time.monotonic() - began,
    )


def _losses(run: RunFolder) -> list[dict[int, tuple[Any, ...]]]:
    """What each process of a run logged about its steps."""
    parts: list[dict[int, tuple[Any, ...]]] = [{}]
    for record in read_log(run.log):
        if record["event"] == "resume":
            parts.append({})
        elif record["event"] in ("step", "skip"):
            parts[-1][record["step"]] = tuple(record.get(key) for key in LOGGED)
    return parts


@contextmanager
def _terminable() -> Iterator[None]:
    """While entered, SIGTERM and SIGHUP end us as Ctrl-C does, tidily; not where they are ignored, as by nohup."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
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
