"""The C++ kernels are compiled once, for their owner alone, and whoever has none is told why."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from groundup.kernels import cpu_build

compiles = pytest.mark.skipif(cpu_build.library() is None, reason="no C++ compiler that works here")
MESSAGE = "compiling CPU kernels, once (about 2 s, at most 120)\n"


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "groundup/kernels"


@pytest.fixture
def cached(folder):
    """A cache that holds this machine's library."""
    source = Path(cpu_build.kernels().library._name)
    folder.mkdir(mode=0o700, parents=True)
    return shutil.copy2(source, folder / source.name)


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Use a script instead of the compiler."""
    path = tmp_path / "compiler"

    def make(lines: str):
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o700)
        monkeypatch.setenv("CXX", str(path))

    return make


def load() -> cpu_build.Kernels:
    """What a new process gets."""
    return cpu_build.kernels.__wrapped__()


def test_without_a_compiler_there_is_no_library(folder, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert load()[:3] == (None, "", "no C++ compiler (no-such-compiler)")


def test_the_variable_disables_the_kernels(monkeypatch):
    monkeypatch.setenv(cpu_build.VARIABLE, "torch")
    assert load() == (None, "", "switched off by GROUNDUP_KERNELS=torch", "")


@pytest.mark.skipif(sys.platform != "linux", reason="compiled on Linux only")
def test_a_compiler_that_fails_is_asked_once(folder, compiler, tmp_path, capsys):
    compiler(f"echo again >> {tmp_path}/calls; echo 'x.cpp: fatal error: omp.h is missing' >&2; exit 1")
    for _ in range(2):
        found = load()
        assert found.library is None
        assert found.reason.endswith("compiler failed: x.cpp: fatal error: omp.h is missing")
        (remembered,) = folder.iterdir()
        assert found.remedy == f"it is tried again an hour later, or at once when {remembered} is deleted"
    assert capsys.readouterr().err == MESSAGE
    assert (tmp_path / "calls").read_text() == "again\n"
    os.utime(remembered, (0, time.time() - cpu_build.RETRY_SECONDS - 1))
    load()
    load()
    remembered.unlink()
    load()
    assert (tmp_path / "calls").read_text() == "again\n" * 3


@pytest.mark.skipif(sys.platform != "linux", reason="compiled on Linux only")
@pytest.mark.parametrize("end", ["wait", "exit"])
def test_a_compiler_that_hangs_is_ended_with_what_it_started(end, folder, compiler, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cpu_build, "MAX_BUILD_SECONDS", 0.2)
    compiler(f"sleep 1000 & echo $! > {tmp_path}/child; {end}")
    assert load().reason.endswith("compiler did not end within 0.2 s")
    assert capsys.readouterr().err.startswith("compiling CPU kernels, once")
    state = Path("/proc") / (tmp_path / "child").read_text().strip() / "stat"
    for _ in range(6000):
        if not state.exists() or " Z " in state.read_text():
            return
        time.sleep(0.01)  # killed, but not yet gone
    pytest.fail("goes on after a minute")


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(cpu_build.platform, "system", lambda: "Linux")
    found = load()
    assert str(tmp_path / "file") in found.reason
    assert "XDG_CACHE_HOME" in found.remedy


@pytest.mark.parametrize("variables", [{}, {"HOME": "here"}, {"HOME": "here", "XDG_CACHE_HOME": "here"}])
def test_a_user_without_a_home_gets_no_cache_in_the_current_folder(monkeypatch, tmp_path, variables):
    def no_entry(uid):
        raise KeyError(uid)

    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    monkeypatch.setattr(cpu_build.shutil, "which", lambda name: "/usr/bin/g++")
    with pytest.raises(OSError, match="there is no home folder"):  # so that torch computes everything
        cpu_build._cached_or_built("cpu")
    assert list(tmp_path.iterdir()) == []


@compiles
def test_the_library_is_built_once_with_a_message_and_for_its_owner_alone(folder, capsys, monkeypatch):
    flushed, fsync = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (flushed.add(os.fstat(handle).st_ino), fsync(handle)))
    before = os.umask(0o002)  # of an ordinary user of Debian, Fedora or RHEL
    try:
        built = load()
    finally:
        os.umask(before)
    assert built.library is not None
    assert capsys.readouterr().err == MESSAGE
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o700]
    assert {path.stat().st_ino for path in (folder, *folder.iterdir())} <= flushed
    monkeypatch.setattr(cpu_build, "run_bounded", lambda *_: pytest.fail("built again"))
    assert load().identity == built.identity
    assert capsys.readouterr().err == ""


@compiles
def test_a_library_that_other_users_could_have_written_is_not_loaded(cached):
    assert load().library is not None
    for path in (cached, cached.parent):
        path.chmod(0o770)
        assert load()[::2] == (None, f"{path}: other users could have written it")
        path.chmod(0o700)


@compiles
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_library_is_never_loaded_and_built_again(damage, cached, monkeypatch):
    content = bytearray(cached.read_bytes())
    content[len(content) // 2] ^= 1
    cached.write_bytes({"cut": content[:5000], "flipped": content, "empty": b""}[damage])
    monkeypatch.setattr(cpu_build, "_build", lambda *_: "built again")
    assert load()[::2] == (None, "built again")
    assert not cached.exists()
