"""End a run by signals at random moments and resume it until it is finished; count which phases the signals interrupt.

Each attempt is a fork of a process that has imported everything already, so that a signal interrupts training and not
the two seconds of importing. That process must have a single thread, as a fork copies only one.
"""

import json
import os
import random
import re
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compare import differences, other_losses
from configs import Row

from groundup.checkpoint.files import step_of, verify
from groundup.checkpoint.run_folder import RunFolder
from groundup.cli import main
from groundup.errors import CheckpointError
from groundup.training.signals import STOP_SIGNALS

SOFT = [signal.Signals[name] for name in STOP_SIGNALS if hasattr(signal, name)]  # those that ask a run to stop
PHASES = ("starting", "training", "logging", "evaluating", "sampling", "saving", "deleting")
SOFT_FRACTION = 0.4  # of the first signals of an attempt
SECOND_FRACTION = 0.3  # of the soft ones are followed by another signal
MAX_SECOND_DELAY = 0.1  # seconds between them
EARLY_FRACTION = 0.25  # of the remaining time, for about half of the signals, so that a run is ended several times
STARTUP_FRACTION = 0.2  # of a complete run's time: upper bound of an attempt's start-up
DELAY_GROWTH = 1.15  # factor on the longest delay after an attempt without progress, in case the machine became slower
STOP_SECONDS = 300.0  # that a run may take to finish or stop
NEVER_ENDED = 256  # no exit status
CHANGED_KERNELS = re.compile(r"kernels.*rounding")

Plan = list[tuple[float, signal.Signals]]  # seconds to wait before each signal


@dataclass
class Tally:
    """Counts of signals, runs and failures of one config."""

    kills: Counter = field(default_factory=Counter)  # by phase
    soft: Counter = field(default_factory=Counter)  # by name of the signal
    runs: int = 0  # finished
    failures: list[str] = field(default_factory=list)  # one message each

    @property
    def signals(self) -> int:
        return self.kills.total() + self.soft.total()


@dataclass
class Torture:
    """A config, its data and its uninterrupted run, and how to start and resume others like it."""

    row: Row
    folder: Path
    data: Path
    duration: float = 0.0  # seconds of the uninterrupted run

    @property
    def reference(self) -> Path:
        return self.folder / "uninterrupted"

    def command(self, run: Path) -> list[str]:
        """Command line that starts or resumes a run."""
        if (run / "config.yaml").exists():  # a run that was killed before it wrote its config is started again
            return ["resume", str(run)]
        config = self.folder / "config.yaml"
        return ["train", self.row.preset, "--config", str(config), "--data", str(self.data), "--out", str(run)]

    def attempt(self, run: Path, plan: Plan, environ: Mapping[str, str]) -> tuple[int, Plan, str]:
        """Start or resume `run` in a fork; its exit status, the signals it got of `plan`, and what it printed."""
        words = self.command(run)
        output = run.with_suffix(".txt")
        with output.open("a") as file:
            file.write(f"$ {' '.join(words)}  # {dict(environ)}, {plan_text(plan)}\n")
            start = file.tell()
        status, sent = run_forked(lambda: main(words), output, plan, environ)
        return status, sent, output.read_bytes()[start:].decode(errors="replace")


def run_forked(
    work: Callable[[], object], output: Path, plan: Plan = (), environ: Mapping[str, str] = {}
) -> tuple[int, Plan]:
    """Run `work` in a fork; its exit status, -n after signal n, or NEVER_ENDED, and the signals that it got."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.environ.update(environ)
            work()
            status = 0
        except SystemExit as error:
            status = error.code or 0
        except BaseException as error:
            status = 130
            if error.__traceback__.tb_next or not isinstance(error, KeyboardInterrupt):  # else: not in `work`
                os.write(2, traceback.format_exc().encode())
                status = 1
        finally:
            os._exit(status)
    sent: Plan = []
    for delay, number in plan:
        if (status := _wait(pid, delay)) is not None:
            return status, sent
        os.kill(pid, number)
        sent.append((delay, number))
    status = _wait(pid, STOP_SECONDS)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with output.open("a") as file:
            file.write(f"did not end within {STOP_SECONDS:.0f} s\n")
    return NEVER_ENDED if status is None else status, sent


def _wait(pid: int, seconds: float) -> int | None:
    """The exit status of a child process; None if it is still running after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if (left := deadline - time.monotonic()) <= 0:
            return None
        time.sleep(min(left, 0.003))


def torture(case: Torture, signals: int, seed: str, runs: Sequence[int] | None = None) -> Tally:
    """Run after run until there were so many signals; the last one finishes. `runs`: only those of these numbers."""
    tally, index = Tally(), 0
    while tally.signals < signals if runs is None else index < len(runs):
        number = index if runs is None else runs[index]
        left = signals - tally.signals if runs is None else signals
        index += 1
        for failure in torture_run(case, number, left, random.Random(f"{seed} {number}"), tally):
            tally.failures.append(f"run {number}: {failure}")
    return tally


def torture_run(case: Torture, number: int, signals: int, random_: random.Random, tally: Tally) -> list[str]:
    """End a run by up to `signals` signals, and let it finish; returns failures."""
    run, before, failures = case.folder / f"run-{number}", tally.signals, []
    steps, newest, longest = step_of(RunFolder(case.reference).steps()[-1]), 0, 1.0
    kernels = KernelHistory(run) if case.row.other_kernels else None
    while True:
        started, logged = time.time_ns(), _size(run / "log.jsonl")
        seconds = longest * case.duration * (STARTUP_FRACTION + max(0, 1 - newest / steps))
        plan = plan_signals(random_, seconds) if tally.signals - before < signals else []
        environ = kernels.next(random_) if kernels else {}
        status, sent, words = case.attempt(run, plan, environ)
        tally.kills.update(phase(run, started, logged) for _, number in sent if number == signal.SIGKILL)
        tally.soft.update(number.name for _, number in sent if number != signal.SIGKILL)
        if "Traceback" in words or status == NEVER_ENDED:
            return [*failures, f"{last_line(words)} (after {plan_text(sent)})"]
        if kernels and (found := kernels.failure(words, finished=not status)):
            failures.append(found)
        if not sent:
            break
        # A run that was asked to stop by any of the others says that it was terminated.
        if status not in {0, 128 + signal.SIGTERM, *(code for _, number in sent for code in (-number, 128 + number))}:
            failures.append(f"exit status {status} after {plan_text(sent)}: {last_line(words)}")
        last, newest = newest, newest_good(run, newest, failures)
        longest = longest * DELAY_GROWTH if newest == last else 1.0
    if status:
        return [*failures, f"could not be resumed: {last_line(words)}"]
    if found := (other_losses if kernels else differences)(run, case.reference):
        failures.append(found)
    tally.runs += not failures
    return failures


def plan_signals(random_: random.Random, seconds: float) -> Plan:
    """A signal at a random moment, early for about half of them; after one that asks to stop, at times another."""
    delay = random_.uniform(0, seconds * random_.choice((1, EARLY_FRACTION)))
    if random_.random() >= SOFT_FRACTION:
        return [(delay, signal.SIGKILL)]
    plan = [(delay, random_.choice(SOFT))]
    if random_.random() < SECOND_FRACTION:
        plan.append((random_.uniform(0, MAX_SECOND_DELAY), random_.choice((signal.SIGKILL, signal.SIGINT, *SOFT))))
    return plan


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def plan_text(plan: Plan) -> str:
    return ", ".join(f"{number.name} {delay:.3f} s later" for delay, number in plan) or "no signal"


class KernelHistory:
    """Which checkpoints of a run were written with the C++ kernels, and whether each resume said what changed."""

    def __init__(self, run: Path) -> None:
        self._run = RunFolder(run)
        self._written: dict[str, bool] = {}  # checkpoint -> with kernels
        self._now = self._changed = False

    def next(self, random_: random.Random) -> dict[str, str]:
        """The environment of the next attempt."""
        environ = random_.choice(({}, {"GROUNDUP_KERNELS": "torch"}, {"CXX": "/nonexistent/g++"}))
        steps = self._run.steps() if self._run.path.exists() else []
        self._now = not environ
        self._changed = bool(steps) and self._written[steps[-1].name] != self._now
        return environ

    def failure(self, words: str, *, finished: bool) -> str:
        """Whether the attempt said too much or too little; empty if not."""
        for checkpoint in self._run.steps() if self._run.path.exists() else []:
            self._written.setdefault(checkpoint.name, self._now)
        lines = [line for line in words.splitlines()[1:] if CHANGED_KERNELS.search(line)]
        worked = finished and re.search("loss|│", words)  # a run may be complete but for the process that says so
        if len(lines) > self._changed or (worked and len(lines) < self._changed):
            return f"the kernels changed: {self._changed}, but the lines about it are {lines}"
        return ""


def phase(run: Path, started: int, logged: int) -> str:
    """Phase that was interrupted, judged by the folder; `started` in nanoseconds, `logged`: bytes of the log before."""
    leftovers = [p for p in (run / "checkpoints").glob(".step-*") if p.stat().st_mtime_ns >= started]
    for leftover in leftovers:
        return "saving" if leftover.suffix == ".partial" else "deleting"
    if _size(run / "log.jsonl") <= logged:
        return "starting"
    with (run / "log.jsonl").open("rb") as file:
        file.seek(logged)
        *_, last, rest = file.read().split(b"\n")
    if rest:
        return "logging"
    record, evaluate = json.loads(last), RunFolder(run).config().evaluate
    event, step = record["event"], record.get("step", 0)
    if event in ("step", "skip") and step % evaluate.every_steps == 0:
        return "evaluating"
    if event == "eval" and step % evaluate.sample_every_steps == 0:
        return "sampling"
    return "training"


def newest_good(run: Path, before: int, failures: list[str]) -> int:
    """Step of the newest good checkpoint; adds a failure for each damaged or lost one."""
    folder = RunFolder(run)
    for checkpoint in folder.steps():
        try:
            verify(checkpoint)
        except CheckpointError as error:
            failures.append(f"damaged: {error}")
    try:
        found, _ = folder.newest_good()
    except CheckpointError as error:
        failures.append(f"lost: {error}")
        return before
    step = step_of(found) if found else 0
    if step < before:
        failures.append(f"lost: {run}: had a checkpoint at step {before}, now at step {step}")
    return step


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
