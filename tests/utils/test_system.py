"""Memory limits of this process, not of the machine."""

import mmap
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from groundup.utils import system
from groundup.utils.system import free_disk, limited_groups, main_memory, peak_gpu_memory, process_memory


def cgroups(root: Path, membership: str, **files: str) -> None:
    (root / "self").write_text(membership)
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("limit", "memory.limit_in_bytes").replace("max", "memory.max")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")


@pytest.mark.parametrize(
    ("membership", "files", "limits"),
    [
        ("0::/\n", {"max": "1000"}, [1000]),
        ("0::/\n", {"max": "max"}, []),
        ("0::/job/step\n", {"job__step__max": "max", "job__max": "500", "max": "900"}, [500, 900]),
        ("0::/not/visible/in/here\n", {"max": "700"}, [700]),
        ("4:memory:/box\n0::/\n", {"memory__limit": "9000", "memory__box__limit": "300"}, [300, 9000]),
        ("4:cpu,memory:/\n3:cpuset:/\n", {"memory__limit": "800", "limit": "1"}, [800]),
        ("3:cpuset:/\n", {"memory__limit": "800"}, []),
    ],
)
def test_every_enclosing_cgroup_limits_memory(membership, files, limits, tmp_path, monkeypatch):
    cgroups(tmp_path, membership, **files)
    assert [limit for _, limit in limited_groups(tmp_path, tmp_path / "self")] == limits
    monkeypatch.setattr(system, "CGROUPS", tmp_path)
    monkeypatch.setattr(system, "MEMBERSHIP", tmp_path / "self")
    if limits:
        assert main_memory() == min(limits)


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="the system does not say how much memory it has")
def test_without_cgroups_it_is_the_machines_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "MEMBERSHIP", tmp_path / "missing")
    assert main_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_the_real_cgroups_can_be_read():
    assert 0 < main_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_free_disk_space_is_known_for_a_future_folder(tmp_path):
    assert free_disk(tmp_path / "not" / "yet") > 0


def test_memory_of_this_process():
    before = process_memory()
    with mmap.mmap(-1, 64_000_000) as ballast:  # new pages; memory that was freed before may serve a bytearray
        ballast.write(b"x" * len(ballast))
        assert process_memory() - before > 50_000_000


def test_memory_of_gpus(monkeypatch):
    cuda = SimpleNamespace(
        is_initialized=lambda: True, device_count=lambda: 2, max_memory_allocated=lambda i: [3_000_000_000, 0][i]
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert peak_gpu_memory() == 3_000_000_000
    cuda.is_initialized = lambda: False
    assert peak_gpu_memory() is None
