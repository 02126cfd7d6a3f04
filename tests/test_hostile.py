"""A sample of the files that others could have made, and planted faults; `make hostile` tries thousands of files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOSTILE = Path(__file__).with_name("hostile")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does"),
]


def hostile(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(HOSTILE), *words]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environ)


FOUND_FAULTS = {
    "traceback": "traceback: 'RecursionError",
    "two lines": "2 lines instead of one sentence",
    "control characters": r"standard error has '\x1b'",
    "accepts everything": "accepts what nobody can read",
    "writes outside": "writes outside/precious.txt",
    "follows a link": "writes outside/moved",
    "changes its input": "changes in/data/manifest.json",
    "leaves something": "leaves work/.out.partial2",
    "leaves a partial output": "leaves work/.out.partial",
    "saves NaN": "saves numbers that are not finite in model.safetensors",
    "takes memory": "MiB",
    "dies": "dies by SIGABRT",
    "waits": "takes too long",
    "computes for ever": "takes too long",
}


def test_a_sample_of_hostile_files_is_refused_in_one_line_and_each_planted_fault_is_found():
    """In one process, which writes the valid files once."""
    case = "run log | a link to the same elsewhere | resume in/run --train.max_steps 3"
    broken = "weights | half | resume in/run"
    words = [word for fault in FOUND_FAULTS for word in ("--fault", fault)]
    done = hostile("--cases", "30", "--seed", "7", *words, case, broken)
    sample, *parts = done.stdout.split("fault: ")
    assert sample.endswith("; 0 failed\n"), sample + done.stderr
    parts = dict(part.split("\n", 1) for part in parts)
    for fault, law in FOUND_FAULTS.items():
        assert law in parts[fault], f"{fault}: {parts[fault]}{done.stderr}"
    assert done.returncode == 1
