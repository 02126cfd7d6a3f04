"""The C++ beside this file, compiled for this very machine at first use and kept for the next.

A compiler takes two seconds for it, once; where there is none, torch does the same arithmetic in more passes over
memory. The result lies in the user's cache folder, under a name that changes with the source, the compiler's options
and the CPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("cpu.cpp")
OPTIONS = ("-std=c++17", "-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fopenmp", "-fPIC")
# Linked without -ffast-math, with which the library would round small numbers of all of torch to zero.
LINKED = ("-shared", "-fopenmp")
PATIENCE = 120  # seconds for the compiler
VARIABLE = "GROUNDUP_KERNELS"  # torch: leave the C++ alone


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where they cannot be had, and torch is to do it all.

    Linux alone: there, the OpenMP that g++ links is the one that torch has loaded already, so that both share threads.
    """
    if platform.system() != "Linux" or os.environ.get(VARIABLE) == "torch":
        return None
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, RuntimeError, subprocess.SubprocessError):  # a user without a home is a RuntimeError
        return None


def _built() -> Path:
    """The shared library's file, made first where it is not there yet; OSError or SubprocessError where it cannot."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise FileNotFoundError("no C++ compiler")
    makings = (SOURCE.read_text("utf-8"), compiler, *OPTIONS, *LINKED, _cpu())
    key = hashlib.sha256("\0".join(makings).encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundup"
    library = folder / f"kernels-{key[:16]}.so"
    if not library.is_file():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:  # several processes may build at once
            made, parts = Path(aside) / library.name, str(Path(aside) / "cpu.o")
            for command in (
                [compiler, *OPTIONS, "-c", str(SOURCE), "-o", parts],
                [compiler, *LINKED, parts, "-o", str(made)],
            ):
                subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
            made.replace(library)
    for path in (folder, library):
        if path.stat().st_uid != os.getuid() or path.stat().st_mode & 0o022:
            raise PermissionError(f"{path}: others could have written it")
    return library


def _cpu() -> str:
    """What tells CPUs apart: a home folder may be shared by machines of several kinds."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    wanted = ("model name", "cpu family", "model\t", "flags", "Features", "CPU part")
    return platform.machine() + "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
