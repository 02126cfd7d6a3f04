"""Machine facts: main memory a process may use, free disk, usable cores, names of devices. No torch here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

DEVICE_PATTERN = r"auto|cpu|mps|cuda(:\d+)?"
EVEN_ITEMS_PER_WORKER = 4  # from which one more or less per worker hardly matters

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def main_memory() -> int | None:
    """Bytes of main memory: the machine's, or what a container or a batch job is held to; None where unknown."""
    try:
        machine = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):  # Windows
        machine = []
    return min([*machine, *cgroup_limits(CGROUPS, MEMBERSHIP)], default=None)


def free_memory() -> int | None:
    """Bytes of main memory that could be had right now without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux
        return None
    fields = dict(line.split(":", 1) for line in lines)
    machine = [int(fields["MemAvailable"].split()[0]) * 1024] if "MemAvailable" in fields else []
    return min([*machine, *cgroup_room(CGROUPS, MEMBERSHIP)], default=None)


def cgroup_room(root: Path, membership: Path) -> Iterator[int]:
    """Bytes that each of the control groups around this process has left, its cache of files counted as free."""
    for folder, limit in _limited(root, membership):
        for used, cache in (("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file")):
            try:
                usage = int((folder / used).read_text(encoding="ascii"))
                stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            except (OSError, ValueError):
                continue
            yield limit - usage + int(stat.get(cache, 0))


def cgroup_limits(root: Path, membership: Path) -> Iterator[int]:
    """Bytes that each of the control groups around this process allows, in both versions; none where there are none."""
    return (limit for _, limit in _limited(root, membership))


def _limited(root: Path, membership: Path) -> Iterator[tuple[Path, int]]:
    """The folder of each limited group, and its limit.

    As in Linux's cgroups(7): `membership` lists the groups by path, `root` holds their folders. A group may use no more
    than those above it. From within a container its own group is the root, and the path may name nothing.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = PurePosixPath(path.lstrip("/"))
        for folder in dict.fromkeys([group, *group.parents]):
            try:
                limit = (base / folder / name).read_text(encoding="utf-8").strip()
            except OSError:
                continue
            if limit.isdigit():  # or `max`
                yield base / folder, int(limit)


def free_disk(place: Path) -> int:
    """Bytes free where `place` is, or would be."""
    there = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def usable_cores() -> int:
    """Number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def splits_evenly(items: int, workers: int) -> bool:
    """Whether `workers` can share so many items without one of them having much more to do than another."""
    return items % workers == 0 or items >= EVEN_ITEMS_PER_WORKER * workers
