"""All benchmarks for one GPU, within minutes. `python -m bench.gpu --text FILE`

    PYTHONPATH=src python -m bench.gpu --text FILE [--nanogpt DIR] [--build-nanogpt DIR] [--minutes 10] [--json FILE]

Each subject runs in a process of its own, which is killed when its time is up: a crash, a hang or too little memory
costs that subject alone, and of it only what was not measured yet. What one leaves of its time, the next ones share.
The file is rewritten after each. groundup need not be installed, but what it imports must be there: the first
subject, `can-run`, says what is missing.
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
TAIL = 2000  # characters that are kept of what a broken subject said
LEAST = 0.25  # of its share that a subject must have to begin
CLOSING = 2.0  # seconds that stay for the end


@dataclass(frozen=True)
class Subject:
    """Something to measure."""

    name: str
    share: float  # of the time, relative to the others
    about: str


# The most important first: what comes last may find no time left. Shares are caps: what is left goes to the next ones.
SUBJECTS = (
    Subject("can-run", 60, "whether all is here that measuring needs"),
    Subject("ceilings", 20, "matrix products and copies"),
    Subject("exact", 190, "a training step of GPT-2 124M, with peers"),
    Subject("prepare", 20, "the text as tokens, for what follows"),
    Subject("time-to-loss", 260, "fast-small against GPT-2's way"),
    Subject("loss", 40, "cross-entropy by chunks, by kernel, whole"),
    Subject("first-step", 80, "from the command to the end of step 1"),
    Subject("profile", 30, "the kernels of a step"),
    Subject("attention", 12, "torch's kernels, forward and backward"),
    Subject("eval", 15, "questions a second"),
    Subject("decode", 15, "tokens a second"),
    Subject("ladder", 90, "known speed-ups, one by one"),
    Subject("ablation", 20, "fast-small without its parts"),
)
APART = ("can-run", "ceilings")  # processes of their own in a rehearsal too; to begin one takes longer than the rest
NEED = {"prepare": ("time-to-loss", "first-step", "ablation")}  # and are needed by these


def main(argv: Sequence[str] | None = None) -> int:
    """0 measured, or no GPU to measure; 1 where something that measuring needs is missing."""
    asked = arguments().parse_args(argv)
    for option, path in (("text", asked.text), ("nanogpt", asked.nanogpt), ("build-nanogpt", asked.build_nanogpt)):
        if path and not path.exists():
            arguments().error(f"--{option}: there is no {path}")
    if not asked.minutes > 0:
        arguments().error(f"--minutes {asked.minutes:g}: must be more than 0")
    chosen = wanted(asked.only, text=bool(asked.text) or asked.rehearse)
    found: dict[str, Any] = {"command": "python -m bench.gpu", "arguments": vars(asked), "subjects": {}}
    with tempfile.TemporaryDirectory(prefix="groundup-gpu-") as folder:
        place = Place(Path(folder), asked)
        said = None
        with suppress(KeyboardInterrupt):  # what was found until then is shown
            said = measure(chosen, place, found, deadline=time.monotonic() + 60 * asked.minutes - CLOSING)
    if said is not None:
        print(said)
        return 0 if not found["subjects"] else 1
    print(table(found["subjects"]))
    if asked.rehearse:
        print("A rehearsal, on a CPU and at toy size: all of it ran, and none of its numbers means anything.")
    return 0


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, metavar="FILE", help="plain text to train on; 50 MB and more are good")
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a checkout of nanoGPT")
    parser.add_argument("--build-nanogpt", type=Path, metavar="DIR", help="a checkout of build-nanogpt")
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything together (default 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there, after each subject")
    names = [subject.name for subject in SUBJECTS[1:]]
    parser.add_argument("--only", nargs="+", choices=names, metavar="SUBJECT", help=f"of {', '.join(names)}")
    parser.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)  # all of it on a CPU, tiny
    return parser


def wanted(only: Sequence[str] | None, *, text: bool) -> list[Subject]:
    """What to measure, in order: what was asked for and what that needs; without a text, what does without."""
    names = set(only or (subject.name for subject in SUBJECTS)) | {"can-run"}
    for needed, by in NEED.items():
        names = names - {needed, *by} if not text else names | ({needed} if names & set(by) else set())
    return [subject for subject in SUBJECTS if subject.name in names]


class Place:
    """Where subjects work, and what they are told."""

    def __init__(self, folder: Path, asked: argparse.Namespace) -> None:
        self.folder, self.asked = folder, asked
        self.environment = dict(os.environ)
        paths = [str(path) for path in (ROOT / "src", ROOT, stand_in(folder / "metadata")) if path]
        if asked.rehearse:
            sys.path[:0] = [path for path in paths if path not in sys.path]
        before = self.environment.get("PYTHONPATH")
        self.environment["PYTHONPATH"] = os.pathsep.join([*paths, *([before] if before else [])])
        for kind in ("TORCHINDUCTOR", "TRITON"):  # what one subject compiled, the next need not; none comes from before
            self.environment[f"{kind}_CACHE_DIR"] = str(folder / "compiled" / kind.lower())
        if asked.rehearse:
            self.environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def run(self, subject: Subject, seconds: float) -> dict[str, Any]:
        """Let a subject work for so long in a process of its own; what it found."""
        asked, out = self.asked, self.folder / f"{subject.name}.json"
        out.unlink(missing_ok=True)
        job = {
            "name": subject.name, "seconds": seconds, "out": str(out), "work": str(self.folder),
            "text": asked.text and str(asked.text.resolve()), "toy": asked.rehearse,
            "nanogpt": asked.nanogpt and str(asked.nanogpt.resolve()),
            "build_nanogpt": asked.build_nanogpt and str(asked.build_nanogpt.resolve()),
        }  # fmt: skip
        if asked.rehearse and subject.name not in APART:
            return rehearsed(job)
        command = [sys.executable, "-m", "bench.gpu_child", json.dumps(job)]
        return supervise(command, out, self.folder / f"{subject.name}.log", seconds, self.environment)


def rehearsed(job: Mapping[str, Any]) -> dict[str, Any]:
    """The same in this process."""
    from bench import gpu_child

    began = time.monotonic()
    gpu_child.run(gpu_child.Job.of(json.dumps(job)))
    found = json.loads(Path(job["out"]).read_text(encoding="utf-8"))
    status = f"failed ({found['error']})" if "error" in found else "done"
    return found | {"status": status, "took": round(time.monotonic() - began, 1)}


def stand_in(folder: Path) -> Path | None:
    """The metadata of a groundup that is not installed, for `importlib.metadata` to find; None where it is."""
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
    """Run a process for so many seconds at most. What it wrote to `out` counts, however it ended."""
    began = time.monotonic()
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
            status = "done" if process.returncode == 0 else f"failed ({_how(process.returncode)})"
        finally:
            _end(process)
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if status.startswith("failed") and (reason := found.get("error")):
        status = f"failed ({reason})"
    kept = {} if status == "done" else {"said": log.read_text(encoding="utf-8", errors="replace")[-TAIL:]}
    return {"rows": [], "facts": {}, "notes": []} | found | {
        "status": status, "took": round(time.monotonic() - began, 1), **kept,
    }  # fmt: skip


def _how(returncode: int) -> str:
    return f"exit status {returncode}" if returncode > 0 else signal.Signals(-returncode).name


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and those that it began, which are a group by themselves."""
    with suppress(ProcessLookupError, PermissionError):  # all gone; on macOS the second, where it is a zombie
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def measure(
    chosen: Sequence[Subject],
    place: Place,
    found: dict[str, Any],
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
) -> str | None:
    """Let all work in turn, until `deadline`, and note in `found` what they find; a sentence where nothing can be."""
    results = found["subjects"]
    for i, subject in enumerate(chosen):
        left = deadline - clock()
        seconds = allowance(left, [other.share for other in chosen[i:]])
        if seconds < LEAST * subject.share * min(1.0, place.asked.minutes / 10):
            results[subject.name] = {"status": "skipped, no time left", "rows": []}
            print(f"{subject.name}: skipped, no time left", file=sys.stderr, flush=True)
            save(found, place.asked.json)
            continue
        print(f"{subject.name}: {subject.about}, {seconds:.0f} s at most ...", file=sys.stderr, flush=True)
        result = place.run(subject, seconds)
        if subject.name == "can-run":
            found["machine"] = result["facts"].get("machine")
            if result["status"] == "done" and not result["facts"]["gpu"] and not place.asked.rehearse:
                return "bench.gpu: torch finds no NVIDIA GPU here, so there is nothing to measure."
        results[subject.name] = result
        save(found, place.asked.json)
        tell(subject, result)
        if subject.name == "can-run" and result["status"] != "done":
            missing = "; ".join(result["notes"]) or result["status"]
            return f"bench.gpu: cannot run here: {missing}"
    return None


def allowance(left: float, shares: Sequence[float]) -> float:
    """Seconds for the first of those still to come."""
    return max(0.0, left) * shares[0] / sum(shares)


def tell(subject: Subject, result: Mapping[str, Any]) -> None:
    """What a subject found, as it comes."""
    lines = [f"{row['name']}: {number(row['ours'])} {row['unit']}" for row in result["rows"]]
    lines += result["notes"] if result["status"] == "done" else [*result["notes"], result["status"]]
    print("\n".join(f"  {line}" for line in lines), file=sys.stderr, flush=True)


def save(found: Mapping[str, Any], path: Path | None) -> None:
    """All that is known so far, whole or not at all."""
    if path:
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")
        part.replace(path)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a subject under way is ended too
    sys.exit(main())
