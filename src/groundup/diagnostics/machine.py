"""Cores, memory, Python, libraries, disk. No torch here: it may be what is broken."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath

from groundup.diagnostics.finding import Finding, Status
from groundup.utils.system import CGROUPS, MEMBERSHIP, free_disk, main_memory, usable_cores
from groundup.utils.versions import installed, needed, satisfies

ABOUT = "machine"
LITTLE_MEMORY = (300e6, 1.5e9)  # bytes; Python and torch take 0.35 GB before the first weight
LITTLE_DISK = (200e6, 2e9)  # bytes
SLOW_DISK = 20e6  # bytes a second: a checkpoint of GPT-2 takes more than a minute
FILE = 64 << 20  # bytes written and read
EXTRAS = (None, "data", "track")  # those that people use; None: what groundup always needs


def cores() -> Finding:
    """How many cores this process may use, by affinity and by the container's quota."""
    usable = usable_cores()
    quota, load = cpu_quota(CGROUPS, MEMBERSHIP), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    values = {"cores": usable, "quota": quota, "load": load}
    many = "1 core" if usable == 1 else f"{usable} cores"
    if quota is not None and quota < 0.9 * usable:
        sentence = f"{many} to be seen, but this container may use the time of {quota:g}"
        return Finding(ABOUT, "cores", "warning", sentence, f"give --train.threads {max(1, int(quota))}", values)
    if load > usable + 0.5:
        remedy = "wait for other programs to end: timings, and speeds below, are not what this machine can do"
        return Finding(ABOUT, "cores", "warning", f"{many}, and {load:.1f} programs that want one", remedy, values)
    return Finding(ABOUT, "cores", "ok", f"{many} usable", values=values)


def cpu_quota(root: Path, membership: Path) -> float | None:
    """The cores' worth of time that the control groups around this process allow (version 2); None: no limit."""
    limits = []
    for folder in _groups(root, membership):
        try:
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            limits.append(int(quota) / int(period))
        except (OSError, ValueError):  # none here, or `max`
            continue
    return min(limits, default=None)


def memory() -> Finding:
    """What is free, and what there is."""
    total, free = main_memory(), free_memory()
    if total is None or free is None:
        return Finding(ABOUT, "memory", "ok", "not known on this system")
    values = {"bytes": total, "free_bytes": free}
    status = _little(free, LITTLE_MEMORY)
    remedy = "end other programs, or take a small model: `groundup plan` says what one needs" if status != "ok" else ""
    return Finding(ABOUT, "memory", status, f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB", remedy, values)


def free_memory() -> int | None:
    """Bytes that a new program could get: the machine's, and what its container has left. None where unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    left = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for folder in _groups(CGROUPS, MEMBERSHIP):
        try:
            limit = int((folder / "memory.max").read_text(encoding="ascii"))
            used = int((folder / "memory.current").read_text(encoding="ascii"))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):
            continue
        left.append(max(0, limit - used + int(stat.get("inactive_file", 0))))  # files read long ago make room
    return min(left, default=None)


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """Folders of the control groups around this process, version 2; see `groundup.utils.system.cgroup_limits`."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for path in (line[3:] for line in lines if line.startswith("0::")):
        group = PurePosixPath(path.lstrip("/"))
        yield from (root / folder for folder in dict.fromkeys([group, *group.parents]))


def libraries() -> Iterator[Finding]:
    """Python and the libraries, against what this version of groundup asks for."""
    about = metadata.metadata("groundup")
    asked = about["Requires-Python"] or ""
    yield version("Python", platform.python_version(), asked)
    found: dict[str | None, dict[str, str]] = {extra: {} for extra in EXTRAS}
    for name, spec, extra in needed():
        if extra not in EXTRAS:
            continue
        if (have := installed(name)) is None:
            if extra is None:
                yield Finding(ABOUT, name, "problem", "not installed", f"pip install '{name}{spec}'")
            continue
        if satisfies(have, spec):
            found[extra][name] = have
        else:
            yield version(name, have, spec)
    for extra, good in found.items():
        if good or extra is None:
            listed = ", ".join(f"{name} {have}" for name, have in good.items())
            yield Finding(ABOUT, f"extra {extra}" if extra else "libraries", "ok", listed, values=good)


def version(name: str, have: str, spec: str) -> Finding:
    """Whether a version is one of those asked for."""
    if satisfies(have, spec):
        return Finding(ABOUT, name.lower(), "ok", f"{name} {have}", values={"version": have})
    remedy = f"install {name} {spec}" if name == "Python" else f"pip install '{name}{spec}'"
    return Finding(ABOUT, name.lower(), "problem", f"{have}, but groundup needs {spec}", remedy, {"version": have})


def disk(place: Path) -> Finding:
    """Room where `place` is, and how fast a file is written there to the last byte, and read again."""
    free = free_disk(place)
    there = next(path for path in (place.absolute(), *place.absolute().parents) if path.is_dir())
    status: Status = _little(free, LITTLE_DISK)
    remedy = "make room, or take another disk with --out" if status != "ok" else ""
    sentence, values = f"{free / 1e9:,.1f} GB free at {there}", {"place": str(there), "free_bytes": free}
    if free < 4 * FILE:
        return Finding(ABOUT, "disk", status, sentence, remedy, values)
    try:
        write, read = disk_speed(there)
    except OSError as error:
        remedy = "fine for data to read; runs need another place"
        return Finding(ABOUT, "disk", "warning", f"{there}: cannot be written ({error.strerror})", remedy, values)
    if write < SLOW_DISK and status == "ok":
        status, remedy = "warning", "keep runs on a local disk; give --checkpoint.every_steps a larger number"
    sentence += f"; writes {write / 1e6:,.0f} MB/s, reads {read / 1e6:,.0f} MB/s"
    values |= {"write_bytes_per_s": round(write), "read_bytes_per_s": round(read)}
    return Finding(ABOUT, "disk", status, sentence, remedy, values)


def disk_speed(folder: Path) -> tuple[float, float]:
    """Bytes a second, written and then read, of a file that has no name and is gone when it is closed."""
    block = os.urandom(1 << 20)
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(FILE // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter()
        if hasattr(os, "posix_fadvise"):  # else what is read comes from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        reading = time.perf_counter()
        while file.read(len(block)):
            pass
        return FILE / (written - began), FILE / (time.perf_counter() - reading)


def _little(free: float, limits: tuple[float, float]) -> Status:
    return "problem" if free < limits[0] else "warning" if free < limits[1] else "ok"
