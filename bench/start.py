"""Subject `start`: start-up time of Python, `import groundup` and the command line."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

from bench.measure import Options, Result, interleaved, seconds

ROUNDS = 9
GOAL = 0.5  # seconds until help is printed; about when waiting becomes noticeable
BARE = "python -c pass"


def run(options: Options) -> Result:
    """Wall time of fresh processes, and whether importing groundup imports torch."""
    groundup = str(Path(sysconfig.get_path("scripts")) / "groundup")
    commands = {
        BARE: [sys.executable, "-c", "pass"],
        "import groundup": [sys.executable, "-c", "import groundup"],
        "groundup --help": [groundup, "--help"],
        "groundup train --help": [groundup, "train", "--help"],
    }
    rows = interleaved(
        {name: partial(seconds, partial(_output, command)) for name, command in commands.items()},
        options.rounds_or(ROUNDS),
    )
    slowest = max(rows, key=lambda row: row.median)
    verdict = "met" if slowest.median <= GOAL else "missed"
    result = Result("start: until help is printed", "s", rows, baseline=BARE)
    result.notes.append(f"goal of {GOAL} s {verdict}: {slowest.name} takes {slowest.median:.2f} s")
    if _output([sys.executable, "-c", "import groundup, sys; print('torch' in sys.modules)"]).strip() == "True":
        result.failures.append("`import groundup` imported torch")
    else:
        result.notes.append("`import groundup` does not import torch")
    return result


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
