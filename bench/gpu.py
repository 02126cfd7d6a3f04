"""All benchmarks on one GPU within minutes. `python -m bench.gpu --text FILE`

    PYTHONPATH=src python -m bench.gpu --text FILE [--nanogpt DIR] [--build-nanogpt DIR] [--minutes 10] [--json FILE]

Each subject runs in its own process, which is killed when its time is up: a crash, a hang or too little memory costs
only this subject, and only the part that was not measured yet. The next subjects share the time that one leaves.
The file is rewritten after each. groundup need not be installed, but its dependencies must be: the first subject,
`can-run`, reports missing ones.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu_table import number, table

ROOT = Path(__file__).parents[1]
LOG_TAIL = 2000  # characters kept of a failed subject's output
MIN_SHARE = 0.25  # fraction of its share that must be left to start a subject
CLOSING_SECONDS = 2.0  # reserved for the end


@dataclass(frozen=True)
class Subject:
    """A benchmark."""

    name: str
    share: float  # of the time, relative to the others
    about: str


# Most important first: the last ones may have no time left. Shares are limits: unused time goes to the next ones.
SUBJECTS = (
    Subject("can-run", 60, "check of the installation"),
    Subject("ceilings", 20, "matrix products and copies"),
    Subject("exact", 190, "a training step of GPT-2 124M, with peers"),
    Subject("prepare", 20, "the text as tokens, for the next subjects"),
    Subject("time-to-loss", 260, "fast-small against GPT-2's way"),
    Subject("loss", 40, "cross-entropy in chunks, by kernel, all at once"),
    Subject("first-step", 80, "from the command to the end of step 1"),
    Subject("profile", 30, "the kernels of a step"),
    Subject("attention", 12, "torch's kernels, forward and backward"),
    Subject("eval", 15, "questions per second"),
    Subject("decode", 45, "tokens per second, with CUDA graphs and without, beside transformers"),
    Subject("ladder", 90, "known speed-ups, one by one"),
    Subject("ablation", 20, "fast-small without one of its parts"),
)
SEPARATE = ("can-run", "ceilings")  # separate processes in a dry run too, where starting one takes most of the time
NEEDED_BY = {"prepare": ("time-to-loss", "first-step", "ablation")}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 if measured, or without a GPU; 1 if a dependency is missing."""
    args = arguments().parse_args(argv)
    for option, path in (("text", args.text), ("nanogpt", args.nanogpt), ("build-nanogpt", args.build_nanogpt)):
        if path and not path.exists():
            arguments().error(f"--{option}: there is no {path}")
    if not args.minutes > 0:
        arguments().error(f"--minutes {args.minutes:g}: must be more than 0")
    chosen = wanted(args.only, text=bool(args.text) or args.dry_run)
    found: dict[str, Any] = {"command": "python -m bench.gpu", "arguments": vars(args), "subjects": {}}
    with tempfile.TemporaryDirectory(prefix="groundup-gpu-") as folder:
        workspace = Workspace(Path(folder), args)
        message = None
        with suppress(KeyboardInterrupt):  # the results so far are printed
            message = measure(chosen, workspace, found, deadline=time.monotonic() + 60 * args.minutes - CLOSING_SECONDS)
    if message is not None:
        print(message)
        return 0 if not found["subjects"] else 1
    print(table(found["subjects"]))
    if args.dry_run:
        print("A dry run, on a CPU and at toy size: everything ran, and the numbers mean nothing.")
    return 0


def arguments() -> argparse.ArgumentParser:
    """Command-line options."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, metavar="FILE", help="plain text to train on, preferably 50 MB or more")
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a checkout of nanoGPT")
    parser.add_argument("--build-nanogpt", type=Path, metavar="DIR", help="a checkout of build-nanogpt")
    parser.add_argument("--minutes", type=float, default=10.0, help="total time (default 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there, after each subject")
    names = [subject.name for subject in SUBJECTS[1:]]
    parser.add_argument("--only", nargs="+", choices=names, metavar="SUBJECT", help=f"some of {', '.join(names)}")
    parser.add_argument("--dry-run", action="store_true", help=argparse.SUPPRESS)  # everything on a CPU, tiny
    return parser


def wanted(only: Sequence[str] | None, *, text: bool) -> list[Subject]:
    """Subjects to measure, in order: the selected ones and those they need; without a text, those that need none."""
    names = set(only or (subject.name for subject in SUBJECTS)) | {"can-run"}
    for needed, by in NEEDED_BY.items():
        names = names - {needed, *by} if not text else names | ({needed} if names & set(by) else set())
    return [subject for subject in SUBJECTS if subject.name in names]


class Workspace:
    """Folder, environment and options of the subjects."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.folder, self.args = folder, args
        self.environment = dict(os.environ)
        paths = [str(path) for path in (ROOT / "src", ROOT, write_metadata(folder / "metadata")) if path]
        if args.dry_run:
            sys.path[:0] = [path for path in paths if path not in sys.path]
        before = self.environment.get("PYTHONPATH")
        self.environment["PYTHONPATH"] = os.pathsep.join([*paths, *([before] if before else [])])
        for kind in ("TORCHINDUCTOR", "TRITON"):  # shared by the subjects, and empty at the start
            self.environment[f"{kind}_CACHE_DIR"] = str(folder / "compiled" / kind.lower())
        if args.dry_run:
            self.environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def run(self, subject: Subject, seconds: float) -> dict[str, Any]:
        """Run a subject in its own process for at most `seconds`; returns its results."""
        args, out = self.args, self.folder / f"{subject.name}.json"
        out.unlink(missing_ok=True)
        job = {
            "name": subject.name, "seconds": seconds, "out": str(out), "work": str(self.folder),
            "text": args.text and str(args.text.resolve()), "toy": args.dry_run,
            "nanogpt": args.nanogpt and str(args.nanogpt.resolve()),
            "build_nanogpt": args.build_nanogpt and str(args.build_nanogpt.resolve()),
        }  # fmt: skip
        if args.dry_run and subject.name not in SEPARATE:
            return run_in_process(job)
        command = [sys.executable, "-m", "bench.gpu_child", json.dumps(job)]
        return supervise(command, out, self.folder / f"{subject.name}.log", seconds, self.environment)


def run_in_process(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run a subject in this process."""
    from bench import gpu_child

    started = time.monotonic()
    gpu_child.run(gpu_child.Job.of(json.dumps(job)))
    found = json.loads(Path(job["out"]).read_text(encoding="utf-8"))
    status = f"failed ({found['error']})" if "error" in found else "done"
    return found | {"status": status, "took": round(time.monotonic() - started, 1)}


def write_metadata(folder: Path) -> Path | None:
    """Write groundup's metadata into `folder` for `importlib.metadata` to find; None if groundup is installed."""
    try:
        importlib.metadata.version("groundup")
    except importlib.metadata.PackageNotFoundError:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines = ["Metadata-Version: 2.4", "Name: groundup", f"Version: {project['version']}"]
        lines += [f"Requires-Dist: {line}" for line in project["dependencies"]]
        info = folder / f"groundup-{project['version']}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder
    return None


def supervise(
    command: Sequence[str], out: Path, log: Path, seconds: float, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Run a process for at most `seconds`; its results are read from `out`, however it ended."""
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            status = f"stopped after {seconds:.0f} s"
        else:
            status = "done" if process.returncode == 0 else f"failed ({_exit_reason(process.returncode)})"
        finally:
            _end(process)
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if status.startswith("failed") and (reason := found.get("error")):
        status = f"failed ({reason})"
    kept = {} if status == "done" else {"log_tail": log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]}
    return {"rows": [], "facts": {}, "notes": []} | found | {
        "status": status, "took": round(time.monotonic() - started, 1), **kept,
    }  # fmt: skip


def _exit_reason(returncode: int) -> str:
    return f"exit status {returncode}" if returncode > 0 else signal.Signals(-returncode).name


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its children, which form a process group."""
    with suppress(ProcessLookupError, PermissionError):  # all ended; PermissionError: a zombie on macOS
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def measure(
    chosen: Sequence[Subject],
    workspace: Workspace,
    found: dict[str, Any],
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
) -> str | None:
    """Run all in turn until `deadline`, adding results to `found`; returns a message if nothing can be measured."""
    results = found["subjects"]
    for i, subject in enumerate(chosen):
        left = deadline - clock()
        seconds = allowance(left, [other.share for other in chosen[i:]])
        if seconds < MIN_SHARE * subject.share * min(1.0, workspace.args.minutes / 10):
            results[subject.name] = {"status": "skipped, no time left", "rows": []}
            print(f"{subject.name}: skipped, no time left", file=sys.stderr, flush=True)
            save(found, workspace.args.json)
            continue
        print(f"{subject.name}: {subject.about}, {seconds:.0f} s at most ...", file=sys.stderr, flush=True)
        result = workspace.run(subject, seconds)
        if subject.name == "can-run":
            found["machine"] = result["facts"].get("machine")
            if result["status"] == "done" and not result["facts"]["gpu"] and not workspace.args.dry_run:
                return "bench.gpu: torch finds no NVIDIA GPU here, so there is nothing to measure."
        results[subject.name] = result
        save(found, workspace.args.json)
        print_result(subject, result)
        if subject.name == "can-run" and result["status"] != "done":
            missing = "; ".join(result["notes"]) or result["status"]
            return f"bench.gpu: cannot run here: {missing}"
    return None


def allowance(left: float, shares: Sequence[float]) -> float:
    """Seconds for the first of the remaining subjects."""
    return max(0.0, left) * shares[0] / sum(shares)


def print_result(subject: Subject, result: Mapping[str, Any]) -> None:
    """Print the results of a subject to standard error."""
    lines = [f"{row['name']}: {number(row['ours'])} {row['unit']}" for row in result["rows"]]
    lines += result["notes"] if result["status"] == "done" else [*result["notes"], result["status"]]
    print("\n".join(f"  {line}" for line in lines), file=sys.stderr, flush=True)


def save(found: Mapping[str, Any], path: Path | None) -> None:
    """Write the results so far, atomically."""
    if path:
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")
        part.replace(path)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a running subject is ended too
    sys.exit(main())
