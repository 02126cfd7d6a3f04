"""Facts about the machine: memory, disk and cores a process may use, versions of libraries. No torch here."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

DEVICE_PATTERN = r"auto|cpu|mps|cuda(:\d{1,3})?"

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
STATM = Path("/proc/self/statm")


def main_memory() -> int | None:
    """Bytes of main memory: the machine's, or the limit of a container or batch job; None where unknown."""
    try:
        machine = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):  # Windows
        machine = []
    limits = (limit for _, limit in limited_groups(CGROUPS, MEMBERSHIP))
    return min([*machine, *limits], default=None)


def free_memory() -> int | None:
    """Bytes of main memory that can be allocated right now without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux
        return None
    machine = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([*machine, *_cgroup_free(CGROUPS, MEMBERSHIP)], default=None)


def process_memory() -> int | None:
    """Bytes of main memory this process holds; on macOS the most it held so far, None on Windows."""
    if STATM.is_file():
        return int(STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform != "darwin":
        return None
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes there, kilobytes elsewhere


def peak_gpu_memory() -> int | None:
    """Most bytes that torch's tensors filled on this process's GPUs; None unless torch is loaded and uses CUDA."""
    torch = sys.modules.get("torch")  # not imported for this: a process that trains has loaded it
    if torch is None or not torch.cuda.is_initialized():
        return None
    return sum(int(torch.cuda.max_memory_allocated(i)) for i in range(torch.cuda.device_count()))


def cpu_quota(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """Number of cores whose time the control groups around this process allow (version 2); None: no limit."""
    limits = []
    for folder in (folder for controllers, folder in _groups(root, membership) if not controllers):
        with suppress(OSError, ValueError):  # none here, or `max`
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def _cgroup_free(root: Path, membership: Path) -> Iterator[int]:
    """Bytes that each limited group has left; its cache of files counts as free."""
    for folder, limit in limited_groups(root, membership):
        for used, cached in (("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file")):
            try:
                usage = int((folder / used).read_text(encoding="ascii"))
                stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            except (OSError, ValueError):
                continue
            yield max(0, limit - usage + int(stat.get(cached, 0)))


def limited_groups(root: Path, membership: Path) -> Iterator[tuple[Path, int]]:
    """Each control group around this process with a memory limit, in both versions: its folder, its limit in bytes."""
    for controllers, folder in _groups(root, membership):
        if controllers and "memory" not in controllers:
            continue
        try:
            limit = (folder / ("memory.limit_in_bytes" if controllers else "memory.max")).read_text(encoding="utf-8")
        except OSError:
            continue
        if limit.strip().isdigit():  # or `max`
            yield folder, int(limit)


def _groups(root: Path, membership: Path) -> Iterator[tuple[list[str], Path]]:
    """Version 1 controllers (none in version 2) and folder of each control group around this process.

    As in Linux's cgroups(7): `membership` lists the groups by path, `root` holds their folders. A group may use no more
    than those above it. From within a container its own group is the root, and the path may name nothing.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names = [name for name in controllers.split(",") if name]
        group = PurePosixPath(path.lstrip("/"))
        for folder in dict.fromkeys([group, *group.parents]):
            yield names, (root / "memory" if "memory" in names else root) / folder


def cache_folder() -> Path:
    """groundup's folder among the user's cached files; OSError where no variable and no user database names a home."""
    return _user_folder("XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """groundup's folder among what programs note for the user; OSError as of `cache_folder`."""
    return _user_folder("XDG_STATE_HOME", ".local/state")


def _user_folder(variable: str, below_home: str) -> Path:
    folders = [Path(os.environ.get(variable, ""))]
    with suppress(RuntimeError):  # the user has no home
        folders.append(Path.home() / below_home)
    for folder in folders:
        if folder.is_absolute():  # others would depend on the current folder
            return folder / "groundup"
    raise FileNotFoundError(errno.ENOENT, "there is no home folder", f"~/{below_home}")


def free_disk(path: Path) -> int:
    """Bytes free where `path` is, or would be."""
    existing = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    return shutil.disk_usage(existing).free


def usable_cores() -> int:
    """Number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def splits_evenly(items: int, workers: int) -> bool:
    """Whether no worker gets much more to do than another when `items` are divided among them."""
    return items % workers == 0 or items >= 4 * workers  # then one more or less hardly matters


def requirements(extra: str = "") -> list[Requirement]:
    """Libraries that groundup, or only one of its extras, requires; none where it was never installed."""
    from packaging.requirements import Requirement

    def applies(requirement: Requirement, extra: str) -> bool:
        return requirement.marker is None or requirement.marker.evaluate({"extra": extra})

    try:
        listed = [Requirement(line) for line in metadata.requires("groundup") or ()]
    except metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
        return []
    return [each for each in listed if applies(each, extra) and not (extra and applies(each, ""))]


def installed_version(name: str) -> str | None:
    """The version of an installed library; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def own_version() -> str:
    """The version of groundup."""
    return installed_version("groundup") or "0+checkout"  # on PYTHONPATH, never installed


def is_supported(version: str, specifier: SpecifierSet) -> bool:
    """Whether a version meets a requirement, 2.9.0rc1 and 2.9.0+cu126 as 2.9.0; True for one that cannot be read."""
    from packaging.version import InvalidVersion, Version

    try:
        return specifier.contains(Version(version).base_version)
    except InvalidVersion:
        return True
