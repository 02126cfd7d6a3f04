"""Subject `tracking`: the cost of trackers to the run. `python -m bench.tracking`"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import chdir
from importlib.util import find_spec
from pathlib import Path

from bench.measure import Options, Result, Row, gemm_gflops
from groundup.tracking.backends import BACKENDS
from groundup.tracking.base import Point, PointBuilder, RunInfo, TrackerType
from groundup.tracking.trackers import STEP_SECONDS, AsyncTracker, NullTracker

ROUNDS = 5
RECORDS = 1_000  # per round
GOAL = 0.01  # of the time of a step, and of a core
STEP_S = 0.01  # a short step: a model of 100,000 parameters on two cores
BARE = "no tracker"
FACTS = {"config": {"model": {"n_layer": 4, "n_embd": 128}, "train": {"device": "cpu"}}, "environment": {"cores": 2}}


class NullBackend:
    """No-op, to measure groundup's own work."""

    def log(self, point: Point) -> None:
        """No-op."""

    def close(self) -> None:
        """No-op."""


def run(options: Options) -> Result:
    """Microseconds per record: for the caller, and of processor time in this process and its children."""
    rounds = options.rounds_or(ROUNDS)
    installed = [kind for name, kind in BACKENDS.items() if (spec := find_spec(name)) and spec.origin]
    kinds = [TrackerType("nothing", lambda _: NullBackend(), ""), *installed]
    rows = [Row(f"{BARE}, caller", [_caller(NullTracker()) for _ in range(rounds)])]
    result = Result("tracking: a step's record", "us", rows, baseline="nothing, threads")
    for kind in kinds:
        rows.append(Row(f"{kind.name}, caller", []))
        rows.append(Row(f"{kind.name}, threads", []))
        for _ in range(rounds):
            caller, threads = _measure(kind)
            rows[-2].values.append(caller)
            rows[-1].values.append(threads)
    slowest = max((row for row in rows if row.name.endswith("caller")), key=lambda row: row.median)
    threads = sum(row.median for row in rows if row.name.endswith("threads") and not row.name.startswith("nothing"))
    _judge(result, slowest.median * 1e-6 / STEP_S, f"of a step of {STEP_S * 1e3:g} ms is spent in the caller, at most")
    _judge(
        result,
        threads * 1e-6 / STEP_SECONDS,
        f"of a core for {', '.join(k.name for k in installed)} together, at {1 / STEP_SECONDS:g} steps per second",
    )
    return result


def _judge(result: Result, share: float, what: str) -> None:
    note = f"{share:.2%} {what}"
    result.notes.append(note)
    if share > GOAL:
        result.failures.append(f"{note}, which is more than {GOAL:.0%}")


def _measure(kind: TrackerType) -> tuple[float, float]:
    """Microseconds per record in a new folder: the caller's wall time; processor time of all threads and children."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        run_ = RunInfo("bench", f"bench-{os.getpid()}-{time.time_ns()}", os.urandom(6).hex(), Path(folder), True, FACTS)
        tracker = AsyncTracker([kind], run_, PointBuilder(1e6, 1e12), print, first_steps=2 * RECORDS)
        tracker.record("start", {})
        _drain(tracker)
        before = _processor_s()
        caller = _caller(tracker)
        _drain(tracker)
        threads = (_processor_s() - before) / RECORDS * 1e6
        tracker.close()
    return caller, threads


def _processor_s() -> float:
    """Processor time of this process so far, and on Linux of its children: wandb has one."""
    spent = time.process_time()
    for listed in Path("/proc/self/task").glob("*/children"):
        for child in listed.read_text(encoding="utf-8").split():
            fields = Path(f"/proc/{child}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def _caller(tracker: NullTracker) -> float:
    spent = 0.0
    for n in range(RECORDS):
        values = {"step": n, "tokens": 8192 * n, "loss": 3.0 + 1 / (n + 1), "lr": 1e-3, "grad_norm": 0.5}
        values |= {"tokens_per_s": 1e5, "dt": 0.01, "elapsed": 0.01 * n, "cursor": n}
        started = time.perf_counter()
        tracker.record("step", values)
        spent += time.perf_counter() - started
    return spent / RECORDS * 1e6


def _drain(tracker: AsyncTracker) -> None:
    """Wait until a tracker is open and idle, without using processor time here."""
    while tracker.waiting:
        time.sleep(0.01)
    time.sleep(1.0)  # for the tracker's own threads; trackio writes twice a second


def main() -> int:
    """Run this subject alone; exit status 0 if the goal is met."""
    from rich.console import Console

    from bench.__main__ import show

    parser = argparse.ArgumentParser(prog="python -m bench.tracking", description=__doc__)
    parser.add_argument("--rounds", type=int)
    options = Options(None, None, 1, parser.parse_args().rounds)
    before = gemm_gflops()
    result = run(options)
    result.ceiling = [before, gemm_gflops()]
    show(result, Console())
    return int(bool(result.failures))


if __name__ == "__main__":
    raise SystemExit(main())
