"""Kill a run at random moments and resume it until it is finished; count which phases the kills interrupt.

Each attempt is a fork of a process that has imported everything already, so that a kill interrupts training and not the
two seconds of importing. That process must have a single thread, as a fork copies only one.
"""

import json
import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from groundup.checkpoint.files import verify
from groundup.checkpoint.log import read_log
from groundup.checkpoint.run_folder import RunFolder, step_of
from groundup.diagnostics.verify_resume import differing_metadata, largest_difference
from groundup.errors import CheckpointError

PHASES = ("starting", "training", "logging", "evaluating", "sampling", "saving", "deleting")
EARLY_FRACTION = 0.25  # of the remaining time, for about half of the kills, so that a run is killed several times
STARTUP_FRACTION = 0.2  # of a complete run's time: upper bound of an attempt's start-up
DELAY_GROWTH = 1.15  # factor on the longest delay after an attempt without progress, in case the machine became slower
TIME_FIELDS = {"tokens_per_s", "dt", "elapsed"}  # of log records


@dataclass
class Tally:
    """Counts of kills, runs and failures of one config."""

    kills: Counter = field(default_factory=Counter)  # by phase
    runs: int = 0  # finished
    failures: list[str] = field(default_factory=list)  # one message each


def run_forked(work: Callable[[], object], output: Path, seconds: float | None = None) -> int | None:
    """Run `work` in a fork; returns its exit status, or None if it was killed after `seconds`."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            work()
            status = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)
    if seconds is not None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(min(left, 0.005))
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if code == -signal.SIGKILL else code


def torture(
    start: Callable[[Path], object],
    resume: Callable[[Path], object],
    folder: Path,
    reference: Path,
    duration: float,
    kills: int,
    random_: random.Random,
) -> Tally:
    """Run after run in `folder` until there were `kills` kills; the last one finishes.

    `reference` is an uninterrupted run, `duration` its seconds.
    """
    tally = Tally()
    steps = step_of(RunFolder(reference).steps()[-1])
    while kills > tally.kills.total():
        run = folder / f"run-{tally.runs + len(tally.failures)}"
        newest, longest = 0, 1.0
        while True:
            started, logged = time.time_ns(), _size(run / "log.jsonl")
            left = STARTUP_FRACTION * duration + duration * (1 - newest / steps)
            max_delay = longest * left * random_.choice((1, EARLY_FRACTION))
            delay = random_.uniform(0, max_delay) if tally.kills.total() < kills else None
            # A run that was killed before it wrote its config is started again.
            work = resume if (run / "config.yaml").exists() else start
            code = run_forked(lambda work=work, run=run: work(run), run.with_suffix(".txt"), delay)
            if code is not None:
                break
            tally.kills[phase(run, started, logged)] += 1
            before, newest = newest, newest_good(run, newest, tally.failures)
            longest = longest * DELAY_GROWTH if newest == before else 1.0
        if code:
            message = run.with_suffix(".txt").read_text().strip().splitlines()[-1]
            tally.failures.append(f"{run}: could not be resumed: {message}")
        elif found := differences(run, reference):
            tally.failures.append(f"{run}: {found}")
        else:
            tally.runs += 1
    return tally


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


def differences(run: Path, reference: Path) -> str:
    """First difference between a finished run and the uninterrupted one; empty if they are bitwise equal."""
    one, other = (RunFolder(folder).steps()[-1] for folder in (run, reference))
    if one.name != other.name:
        return f"ended in {one.name}, not {other.name}"
    worst, _ = largest_difference(one, other)
    if worst:
        return f"not bitwise: {worst}"
    if keys := differing_metadata(one, other):
        return f"not bitwise: progress.json differs in {', '.join(keys)}"
    # Each record of any attempt must equal that of the uninterrupted run, and none may be missing.
    known, seen = _records(reference), set()
    for key, record in _records(run).items():
        if known.get(key) != record:
            return f"not bitwise: logged {record}, the uninterrupted run {known.get(key)}"
        seen.add(key)
    missing = sorted(known.keys() - seen)
    return f"not logged: {missing[0]}" if missing else ""


def _records(run: Path) -> dict[tuple[str, int], dict]:
    """Logged steps, evaluations and samples, without times; contradictions within a run are kept."""
    found: dict[tuple[str, int], dict] = {}
    for record in read_log(run / "log.jsonl"):
        if record["event"] in ("step", "skip", "eval", "sample"):
            key = (record["event"], record["step"])
            record = {name: value for name, value in record.items() if name not in TIME_FIELDS}
            if found.setdefault(key, record) != record:
                found[key] = {"contradiction": [found[key], record]}
    return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
