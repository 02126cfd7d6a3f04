"""Compilation of the C++ kernels (`cpu.cpp`) for this machine, at first use; the result is cached.

It takes about two seconds, once; without a compiler, torch computes the same in more passes over memory. The library
lies in the user's cache folder, under a name that depends on the source, the compiler's options and the CPU.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("cpu.cpp")
MAX_HEAD_WIDTH = 256  # of attention, in numbers
OPTIONS = (
    "-std=c++17", "-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fopenmp", "-fPIC",
    f"-DMAX_HEAD_WIDTH={MAX_HEAD_WIDTH}",
)  # fmt: skip
# Linked without -ffast-math, with which the library would round small numbers of all of torch to zero.
LINK_OPTIONS = ("-shared", "-fopenmp")
TIMEOUT_SECONDS = 120  # for each run of the compiler
VARIABLE = "GROUNDUP_KERNELS"  # `torch` disables the C++ kernels


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where they are not available and torch must compute everything.

    Linux only: there the OpenMP that g++ links is the one that torch has already loaded, so that both share threads.
    """
    if platform.system() != "Linux" or os.environ.get(VARIABLE) == "torch":
        return None
    try:
        return ctypes.CDLL(str(_build()))
    except (OSError, RuntimeError, subprocess.SubprocessError):  # a user without a home is a RuntimeError
        return None


def _build() -> Path:
    """Path of the shared library, compiled unless it is cached; OSError or SubprocessError where that fails."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise FileNotFoundError("no C++ compiler")
    ingredients = (SOURCE.read_text("utf-8"), compiler, *OPTIONS, *LINK_OPTIONS, _cpu_model())
    key = hashlib.sha256("\0".join(ingredients).encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundup"
    library = folder / f"kernels-{key[:16]}.so"
    if not library.is_file():
        print("compiling CPU kernels, once (about 2 s)", file=sys.stderr)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # several processes may build at once
            linked, compiled = Path(scratch) / library.name, str(Path(scratch) / "cpu.o")
            for command in (
                [compiler, *OPTIONS, "-c", str(SOURCE), "-o", compiled],
                [compiler, *LINK_OPTIONS, compiled, "-o", str(linked)],
            ):
                subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_SECONDS)
            linked.replace(library)
    for path in (folder, library):
        if path.stat().st_uid != os.getuid() or path.stat().st_mode & 0o022:
            raise PermissionError(f"{path}: other users could have written it")
    return library


def _cpu_model() -> str:
    """Identifies the kind of CPU: machines of several kinds may share a home folder."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    wanted = ("model name", "cpu family", "model\t", "flags", "Features", "CPU part")
    return platform.machine() + "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
