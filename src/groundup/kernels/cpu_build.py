"""Compilation of the C++ kernels for this machine, at first use; the results are cached.

Each source becomes a library of its own: `cpu.cpp` for training, `decode.cpp` for generation. It takes about two
seconds, once; without a compiler, torch computes the same in more passes over memory. A library lies in the user's
cache folder, under a name made of two checksums: of the source, the compiler's options and the CPU; and of its own
content.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

from groundup.utils.files import move_into_place, replace_text, sha256
from groundup.utils.subprocesses import run_bounded
from groundup.utils.system import cache_folder

MAX_HEAD_WIDTH = 256  # of attention in training, in numbers
OPTIONS = ("-O3", "-march=native", "-fopenmp", "-fPIC")
SOURCE_OPTIONS = {
    "cpu": ("-std=c++17", "-ffast-math", "-fno-finite-math-only", f"-DMAX_HEAD_WIDTH={MAX_HEAD_WIDTH}"),
    # Neither -ffast-math nor contraction, by which results would depend on the number of tokens in a step.
    "decode": ("-std=gnu++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
}
"""Names of the sources, and the compiler's options for each."""

# Linked without -ffast-math, with which the library would round small numbers of all of torch to zero.
LINK_OPTIONS = ("-shared", "-fopenmp")
MAX_BUILD_SECONDS = 120
RETRY_SECONDS = 3600  # after a failure, whose reason may be gone by then, such as a full disk
VARIABLE = "GROUNDUP_KERNELS"  # `torch` disables the C++ kernels


class Kernels(NamedTuple):
    """The compiled functions, or the reason why there are none and torch must compute everything."""

    library: ctypes.CDLL | None
    identity: str = ""  # checksum of the machine code
    reason: str = ""
    remedy: str = ""  # empty where nothing is wrong


def library() -> ctypes.CDLL | None:
    """The compiled functions for training; None where torch must compute everything."""
    return kernels().library


@cache
def kernels(source: str = "cpu") -> Kernels:
    """The compiled functions of a source, compiled now unless they are cached.

    Linux only: there the OpenMP that g++ links is the one that torch has already loaded, so that both share threads.
    """
    if platform.system() != "Linux":
        return Kernels(None, reason="compiled on Linux only")
    if os.environ.get(VARIABLE) == "torch":
        return Kernels(None, reason=f"switched off by {VARIABLE}=torch")
    try:
        path = _cached_or_built(source)
        return Kernels(ctypes.CDLL(str(path)), path.stem.rpartition("-")[2])
    except _UnavailableError as error:
        return Kernels(None, reason=str(error), remedy=error.remedy)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return Kernels(None, reason=reason, remedy="name a folder that can be written in XDG_CACHE_HOME")


class _UnavailableError(Exception):
    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


def _cached_or_built(source: str) -> Path:
    """Path of a source's shared library; OSError or _UnavailableError where there is none."""
    named = os.environ.get("CXX", "g++")
    compiler = shutil.which(named)
    if compiler is None:
        raise _UnavailableError(f"no C++ compiler ({named})", "install one (Debian: apt install g++)")
    path, options = Path(__file__).with_name(f"{source}.cpp"), (*OPTIONS, *SOURCE_OPTIONS[source])
    ingredients = (path.read_text("utf-8"), compiler, *options, *LINK_OPTIONS, _cpu_model())
    key = hashlib.sha256("\0".join(ingredients).encode()).hexdigest()[:16]
    folder = cache_folder() / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_if_writable_by_others(folder)
    for library in sorted(folder.glob(f"kernels-{key}-*.so")):
        _refuse_if_writable_by_others(library)
        if library.stem.endswith(sha256(library)[:16]):
            return library
        library.unlink()  # damaged
    failed = folder / f"failed-{key}.txt"
    if not failed.is_file() or time.time() - failed.stat().st_mtime > RETRY_SECONDS:
        print(f"compiling CPU kernels, once (about 2 s, at most {MAX_BUILD_SECONDS})", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # several processes may build at once
            compiled, linked = Path(scratch) / "compiled.o", Path(scratch) / "linked.so"
            reason = _build(
                [compiler, *options, "-c", str(path), "-o", str(compiled)],
                [compiler, *LINK_OPTIONS, str(compiled), "-o", str(linked)],
            )
            if not reason:
                linked.chmod(0o700)  # the linker follows the umask
                library = folder / f"kernels-{key}-{sha256(linked)[:16]}.so"
                move_into_place(linked, library)
                return library
        replace_text(failed, reason)
    remedy = f"it is tried again an hour later, or at once when {failed} is deleted"
    raise _UnavailableError(failed.read_text("utf-8", "replace"), remedy)


def _build(*commands: list[str]) -> str:
    """Compile and link; the reason if the compiler fails or takes too long, else an empty text."""
    deadline = time.monotonic() + MAX_BUILD_SECONDS
    for command in commands:
        try:
            done = run_bounded(command, deadline - time.monotonic())
        except subprocess.TimeoutExpired:
            return f"{command[0]} did not end within {MAX_BUILD_SECONDS} s"
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()]
            return f"{command[0]} failed: {(lines or [f'exit status {done.returncode}'])[0][:200]}"
    return ""


def _refuse_if_writable_by_others(path: Path) -> None:
    status = path.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise _UnavailableError(f"{path}: other users could have written it", f"delete {path}")


def _cpu_model() -> str:
    """Identifies the kind of CPU: machines of several kinds may share a home folder."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    wanted = ("model name", "cpu family", "model\t", "flags", "Features", "CPU part")
    return platform.machine() + "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
