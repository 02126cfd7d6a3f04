"""One run, killed at moments of chance and resumed until it is finished, and what the kills hit.

Each attempt is a fork of a process that has imported everything already, so that a kill costs the training that it
interrupts and not the two seconds that importing takes. That process must have one thread, as a fork copies no more.
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
SOON = 0.25  # part of what is left, for every other kill, so that a run dies more than once or twice
START = 0.2  # of a whole run's time: what an attempt may take until it trains, and then some
LONGER = 1.15  # times the longest delay after an attempt without progress, as the machine may have become slower
CLOCKS = {"tokens_per_s", "dt", "elapsed"}  # of the log: times


@dataclass
class Tally:
    """What became of one config's runs."""

    kills: Counter = field(default_factory=Counter)  # by phase
    runs: int = 0  # finished
    failures: list[str] = field(default_factory=list)  # each a sentence


def forked(work: Callable[[], object], output: Path, seconds: float | None = None) -> int | None:
    """The exit status of `work` in a process of its own, None where it was killed after `seconds`."""
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
    begin: Callable[[Path], object],
    go_on: Callable[[Path], object],
    place: Path,
    reference: Path,
    took: float,
    kills: int,
    random_: random.Random,
) -> Tally:
    """Run after run in `place`, until there were so many kills; the last one ends undisturbed.

    `reference` is the run that nobody touched, `took` the seconds that it took.
    """
    tally = Tally()
    steps = step_of(RunFolder(reference).steps()[-1])
    while kills > tally.kills.total():
        run = place / f"run-{tally.runs + len(tally.failures)}"
        newest, longest = 0, 1.0
        while True:
            started, logged = time.time_ns(), _size(run / "log.jsonl")
            left = START * took + took * (1 - newest / steps)
            most = longest * left * random_.choice((1, SOON))
            delay = random_.uniform(0, most) if tally.kills.total() < kills else None
            # A run that was killed before it wrote its config has not begun.
            work = go_on if (run / "config.yaml").exists() else begin
            code = forked(lambda work=work, run=run: work(run), run.with_suffix(".txt"), delay)
            if code is not None:
                break
            tally.kills[phase(run, started, logged)] += 1
            before, newest = newest, newest_good(run, newest, tally.failures)
            longest = longest * LONGER if newest == before else 1.0
        if code:
            said = run.with_suffix(".txt").read_text().strip().splitlines()[-1]
            tally.failures.append(f"{run}: could not go on: {said}")
        elif found := differences(run, reference):
            tally.failures.append(f"{run}: {found}")
        else:
            tally.runs += 1
    return tally


def phase(run: Path, started: int, logged: int) -> str:
    """What was interrupted, as far as the folder tells: `started` in nanoseconds, `logged` bytes before."""
    scraps = [p for p in (run / "checkpoints").glob(".step-*") if p.stat().st_mtime_ns >= started]
    for scrap in scraps:
        return "saving" if scrap.suffix == ".partial" else "deleting"
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
    """The step of the newest good checkpoint, noting what a kill must never do."""
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
    """How a finished run differs from the untouched one; nothing where it does not, to the last bit."""
    one, other = (RunFolder(folder).steps()[-1] for folder in (run, reference))
    if one.name != other.name:
        return f"ended in {one.name}, not {other.name}"
    worst, _ = largest_difference(one, other)
    if worst:
        return f"not bitwise: {worst}"
    if books := differing_metadata(one, other):
        return f"not bitwise: progress.json differs in {', '.join(books)}"
    # Whatever any attempt logged must be what the untouched run logged, and nothing may be missing.
    known, seen = _records(reference), set()
    for key, record in _records(run).items():
        if known.get(key) != record:
            return f"not bitwise: logged {record}, the untouched run {known.get(key)}"
        seen.add(key)
    missing = sorted(known.keys() - seen)
    return f"not logged: {missing[0]}" if missing else ""


def _records(run: Path) -> dict[tuple[str, int], dict]:
    """What was logged of steps, evaluations and samples, times left out; a contradiction within a run is kept."""
    found: dict[tuple[str, int], dict] = {}
    for record in read_log(run / "log.jsonl"):
        if record["event"] in ("step", "skip", "eval", "sample"):
            key = (record["event"], record["step"])
            record = {name: value for name, value in record.items() if name not in CLOCKS}
            if found.setdefault(key, record) != record:
                found[key] = {"contradiction": [found[key], record]}
    return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
