"""What must hold when a command has met a file that somebody else made."""

import hashlib
import os
import re
import signal
import stat
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from groundup.ui.format import visible

MAX_RESIDENT_BYTES = 2 << 30
MAX_LINE = 4000  # characters of an error
MAX_HASHED_BYTES = 64 << 20  # of larger files, which are sparse, only size and time are compared
TIMED_OUT = "timed out"
SECRET = "a text that is nobody's business"  # of the file outside

# What a command may change, besides `work/out`, where it succeeds.
WRITES = {
    "resume": ("in/run/",), "evaluate": ("in/run/log.jsonl",), "export": ("in/exported/", "in/space/"),
    "prepare": ("in/data/",),
}  # fmt: skip
LOCKS = re.compile(r"(^|/)\.[^/]*lock$")

State = dict[str, tuple]  # path -> kind, size, time, content


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int | str  # exit status, -n after signal n, or TIMED_OUT
    out: str
    err: str
    resident: int  # bytes, at most
    before: State
    after: State


def state_of(folder: Path) -> State:
    """All files below a folder, links not followed."""
    found: State = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            info = path.lstat()
            content = str(path.readlink()) if path.is_symlink() else ""
            if stat.S_ISREG(info.st_mode) and info.st_size <= MAX_HASHED_BYTES:
                content = hashlib.sha1(path.read_bytes()).hexdigest()
            regular = not stat.S_ISDIR(info.st_mode)
            found[str(path.relative_to(folder))] = (
                stat.S_IFMT(info.st_mode), info.st_size * regular, info.st_mtime_ns * regular, content,
            )  # fmt: skip
    return found


def violations(words: list[str], outcome: Outcome, *, broken: bool, folder: Path) -> list[str]:
    """The laws that a command broke; `broken`: it needed a file that nobody can read."""
    return [*ending(words[0], outcome, broken=broken), *output(words[0], outcome), *files(words[0], outcome, folder)]


def ending(command: str, outcome: Outcome, *, broken: bool) -> list[str]:
    found, status = [], outcome.status
    good = {0, 1, 2} if command == "fsck" else {0, 2}  # its 1 means that damage was found
    if status == TIMED_OUT:
        found.append("takes too long")
    elif isinstance(status, int) and status < 0:
        found.append(f"dies by {signal.Signals(-status).name}")
    elif "Traceback (most recent call last)" in outcome.err:
        found.append(f"traceback: {visible_end(outcome.err)}")
    elif status not in good:
        found.append(f"exit status {status}: {visible_end(outcome.err)}")
    elif broken and status == 0:
        found.append("accepts what nobody can read")
    if outcome.resident > MAX_RESIDENT_BYTES:
        found.append(f"takes {outcome.resident >> 20:,} MiB")
    return found


def output(command: str, outcome: Outcome) -> list[str]:
    found = []
    streams = {"standard error": outcome.err} | ({"standard output": outcome.out} if command != "generate" else {})
    for name, text in streams.items():
        if bad := sorted({character for character in text if visible(character) != character}):
            found.append(f"{name} has {', '.join(map(repr, bad[:5]))}")
        if SECRET in text:
            found.append(f"{name} shows a foreign file")
    if outcome.status == 2:
        lines = outcome.err.splitlines()
        if command == "prepare":  # which says before what it reads, and as what
            lines = [line for line in lines[:-1] if line.startswith("groundup: ")] + lines[-1:]
        if len(lines) != 1 or not lines[0].startswith("groundup: "):
            found.append(f"{len(lines)} lines instead of one sentence: {visible_end(outcome.err)}")
        elif len(lines[0]) > MAX_LINE:
            found.append(f"a sentence of {len(lines[0]):,} characters: {lines[0][:80]}")
    return found


def files(command: str, outcome: Outcome, folder: Path) -> list[str]:
    found = []
    before, after = outcome.before, outcome.after
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) == after.get(path) or LOCKS.search(path):
            continue
        top, may_write = path.partition("/")[0], outcome.status in (0, TIMED_OUT)
        if top == "outside" or path == "work/ran":
            found.append(f"writes {path}")
        elif top == "home" or path == top:
            continue
        elif top == "tmp" or (top == "work" and not may_write and path in after):
            found.append(f"leaves {path}")
        elif top == "in" and not (may_write and path.startswith(WRITES.get(command, ()))):
            found.append(f"changes {path}")
    if command == "resume" and outcome.status == 0:
        for weights in sorted((folder / "in/run/checkpoints").glob("step-00000003/*.safetensors")):
            if not all(torch.isfinite(tensor).all() for tensor in load_file(weights).values()):
                found.append(f"saves numbers that are not finite in {weights.name}")
    return found


def visible_end(text: str) -> str:
    return repr((text.strip().splitlines() or [""])[-1][:200])
