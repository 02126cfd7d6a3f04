"""Checks of the machine: cores, memory, Python, libraries, disk. No torch here: it may be what is broken."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

from groundup.diagnostics.finding import Finding, Status
from groundup.utils.system import (
    cpu_quota,
    free_disk,
    free_memory,
    installed_version,
    is_supported,
    main_memory,
    requirements,
    usable_cores,
)

ABOUT = "machine"
LOW_MEMORY_BYTES = (300e6, 1.5e9)  # problem, warning; Python and torch take 0.35 GB before the first weight
LOW_DISK_BYTES = (200e6, 2e9)  # problem, warning
SLOW_DISK_BYTES_PER_S = 20e6  # a checkpoint of GPT-2 takes more than a minute
SPEED_TEST_BYTES = 64 << 20
EXTRAS = ("", "data", "track")  # "": the libraries that groundup always needs


def cores() -> Finding:
    """How many cores this process may use, by affinity and by the container's quota."""
    usable = usable_cores()
    quota, load = cpu_quota(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    values = {"cores": usable, "quota": quota, "load": load}
    count = "1 core" if usable == 1 else f"{usable} cores"
    if quota is not None and quota < 0.9 * usable:
        sentence = f"{count} visible, but this container may use the time of {quota:g}"
        return Finding(ABOUT, "cores", "warning", sentence, f"give --train.threads {max(1, int(quota))}", values)
    if load > usable + 0.5:
        remedy = "wait for other programs to end: until then, speeds and timings are too low"
        return Finding(ABOUT, "cores", "warning", f"{count}, but a load of {load:.1f}", remedy, values)
    return Finding(ABOUT, "cores", "ok", f"{count} usable", values=values)


def memory() -> Finding:
    """Free and total main memory."""
    total, free = main_memory(), free_memory()
    if total is None or free is None:
        return Finding(ABOUT, "memory", "ok", "not known on this system")
    values = {"bytes": total, "free_bytes": free}
    status = _status(free, LOW_MEMORY_BYTES)
    remedy = "end other programs, or use a small model: `groundup plan` computes its memory" if status != "ok" else ""
    return Finding(ABOUT, "memory", status, f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB", remedy, values)


def libraries() -> Iterator[Finding]:
    """Versions of Python and the libraries, against those this version of groundup needs."""
    python = SpecifierSet(metadata.metadata("groundup")["Requires-Python"] or "")
    yield version("Python", platform.python_version(), python)
    found: dict[str, dict[str, str]] = {extra: {} for extra in EXTRAS}
    for extra in EXTRAS:
        for requirement in requirements(extra):
            name, specifier = requirement.name, requirement.specifier
            installed = installed_version(name)
            if installed is None and not extra:
                yield Finding(ABOUT, name, "problem", "not installed", f"pip install '{name}{specifier}'")
            elif installed is not None and is_supported(installed, specifier):
                found[extra][name] = installed
            elif installed is not None:
                yield version(name, installed, specifier)
    for extra, good in found.items():
        if good or not extra:
            listed = ", ".join(f"{name} {installed}" for name, installed in good.items())
            yield Finding(ABOUT, f"extra {extra}" if extra else "libraries", "ok", listed, values=good)


def version(name: str, installed: str, specifier: SpecifierSet) -> Finding:
    """Whether an installed version meets `specifier`."""
    if is_supported(installed, specifier):
        return Finding(ABOUT, name.lower(), "ok", f"{name} {installed}", values={"version": installed})
    remedy = f"install {name} {specifier}" if name == "Python" else f"pip install '{name}{specifier}'"
    sentence = f"{installed}, but groundup needs {specifier}"
    return Finding(ABOUT, name.lower(), "problem", sentence, remedy, {"version": installed})


def disk(folder: Path) -> Finding:
    """Free space where `folder` is or would be, and the speed of writing and reading a file there."""
    free = free_disk(folder)
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    status: Status = _status(free, LOW_DISK_BYTES)
    remedy = "make room, or choose another disk with --out" if status != "ok" else ""
    sentence, values = f"{free / 1e9:,.1f} GB free at {existing}", {"place": str(existing), "free_bytes": free}
    if free < 4 * SPEED_TEST_BYTES:
        return Finding(ABOUT, "disk", status, sentence, remedy, values)
    try:
        write, read = disk_speed(existing)
    except OSError as error:
        remedy = "fine for data to read; write runs to another folder"
        return Finding(ABOUT, "disk", "warning", f"{existing}: cannot be written ({error.strerror})", remedy, values)
    if write < SLOW_DISK_BYTES_PER_S and status == "ok":
        status, remedy = "warning", "keep runs on a local disk; give --checkpoint.every_steps a larger number"
    sentence += f"; writes {write / 1e6:,.0f} MB/s, reads {read / 1e6:,.0f} MB/s"
    values |= {"write_bytes_per_s": round(write), "read_bytes_per_s": round(read)}
    return Finding(ABOUT, "disk", status, sentence, remedy, values)


def disk_speed(folder: Path) -> tuple[float, float]:
    """Bytes per second of writing a temporary file to disk, and of reading it."""
    block = os.urandom(1 << 20)
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(SPEED_TEST_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter()
        if hasattr(os, "posix_fadvise"):  # otherwise it is read from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        reading = time.perf_counter()
        while file.read(len(block)):
            pass
        return SPEED_TEST_BYTES / (written - began), SPEED_TEST_BYTES / (time.perf_counter() - reading)


def _status(free: float, limits: tuple[float, float]) -> Status:
    return "problem" if free < limits[0] else "warning" if free < limits[1] else "ok"
