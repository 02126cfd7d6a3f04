"""One subject of `bench.gpu`, in this process: `python -m bench.gpu_child JOB`, the job as JSON. Internal."""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.gpu_table import Row

FUNCTIONS = {
    "can-run": "bench.gpu_machine:can_run",
    "ceilings": "bench.gpu_arithmetic:ceilings",
    "loss": "bench.gpu_arithmetic:losses",
    "attention": "bench.gpu_arithmetic:attention",
    "exact": "bench.gpu_steps:exact",
    "profile": "bench.gpu_steps:profile",
    "prepare": "bench.gpu_training:prepare",
    "first-step": "bench.gpu_training:first_step",
    "time-to-loss": "bench.gpu_training:time_to_loss",
    "ablation": "bench.gpu_training:ablation",
    "ladder": "bench.gpu_ladder:ladder",
    "eval": "bench.gpu_serving:questions",
    "decode": "bench.gpu_serving:decode",
}


@dataclass
class Job:
    """Options of a subject and its results so far, which are saved at once, as the process may be killed."""

    name: str
    seconds: float
    out: Path
    work: Path  # folder shared by all subjects
    toy: bool = False  # on a CPU at the smallest size, to test that it runs
    text: Path | None = None
    nanogpt: Path | None = None
    build_nanogpt: Path | None = None
    rows: list[Row] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, text: str) -> Job:
        """Job from the JSON that `bench.gpu` passes."""
        fields = json.loads(text)
        paths = {
            name: fields[name] and Path(fields[name]) for name in ("out", "work", "text", "nanogpt", "build_nanogpt")
        }
        return cls(**fields | paths)

    @property
    def left(self) -> float:
        """Seconds until this process is killed."""
        return self.seconds - (time.monotonic() - self.started)

    def add(self, *rows: Row) -> None:
        """Add rows and save."""
        self.rows += rows
        self.save()

    def show(self, rows: Sequence[Row]) -> None:
        """Replace the rows and save."""
        self.rows = list(rows)
        self.save()

    def note(self, line: str) -> None:
        """Add a line for the user and save."""
        self.notes.append(line)
        self.save()

    def fact(self, name: str, value: Any) -> None:
        """Add a value for the file only and save."""
        self.facts[name] = value
        self.save()

    def save(self, **more: str) -> None:
        """Write the results atomically."""
        found = {"rows": [row.as_dict() for row in self.rows], "facts": self.facts, "notes": self.notes, **more}
        part = self.out.with_suffix(".part")
        part.write_text(json.dumps(found, default=str), encoding="utf-8")
        part.replace(self.out)

    def attempt(self, name: str, work: Callable[[], Any]) -> Any:
        """Result of `work`; None and a note if it raises, so that the rest continues."""
        try:
            return work()
        except Exception as error:  # drivers and compilers can raise anything
            traceback.print_exc()
            self.note(f"{name}: left out ({reason(error)})")
            return None


def reason(error: Exception) -> str:
    """Exception as one line."""
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {message}"[:160]


def run(job: Job) -> int:
    """Run the job; returns 0, or 1 with the reason in the file."""
    module, _, name = FUNCTIONS[job.name].partition(":")
    try:
        getattr(importlib.import_module(module), name)(job)
    except Exception as error:
        traceback.print_exc()
        job.save(error=reason(error))
        return 1
    job.save()
    return 0


def main(argv: Sequence[str]) -> int:
    """Run the job given as the only argument."""
    return run(Job.of(argv[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
