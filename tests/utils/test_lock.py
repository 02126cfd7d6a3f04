"""Two processes never train one run, and a lock never outlives its process."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.errors import UsageError
from groundup.utils import lock
from groundup.utils.lock import LOCK, holder, locked

CHILD = """
import sys, time
from pathlib import Path
from groundup.utils.lock import locked
with locked(Path(sys.argv[1]), "training this run") as guarded:
    print(guarded, flush=True)
    time.sleep(60)
"""


def start(folder: Path) -> subprocess.Popen:
    """Start a process that holds the lock of `folder`."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "True\n"
    return child


@pytest.fixture
def child(tmp_path):
    """The process that holds the lock of `tmp_path / "run"`."""
    process = start(tmp_path / "run")
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_with_the_owner(child, tmp_path):
    with pytest.raises(UsageError) as caught, locked(tmp_path / "run", "training this run"):
        pass
    message = str(caught.value)
    assert f"process {child.pid} on {socket.gethostname()}, training this run" in message
    assert message.endswith("wait for it to end, or stop it first")
    assert "\n" not in message


def test_sigkill_releases_the_lock_at_once(child, tmp_path):
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=300)
    with locked(tmp_path / "run", "training this run") as guarded:
        assert guarded


def test_the_lock_is_released_at_the_end_and_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path, "training this run"):
        raise ZeroDivisionError
    for _ in range(2):
        with locked(tmp_path, "training this run") as guarded:
            assert guarded
            assert (tmp_path / LOCK).read_text().split()[0] == str(os.getpid())


def test_one_process_cannot_train_a_run_twice_concurrently(tmp_path):
    with locked(tmp_path, "training this run"):
        with pytest.raises(UsageError, match=f"process {os.getpid()} on"), locked(tmp_path, "training this run"):
            pass
        assert holder(tmp_path).startswith(f"process {os.getpid()} on")


def test_two_runs_have_independent_locks(child, tmp_path):
    with locked(tmp_path / "other", "training this run") as guarded:
        assert guarded


def test_reading_the_owner_takes_no_lock_and_writes_nothing(child, tmp_path):
    assert holder(tmp_path / "run") == f"process {child.pid} on {socket.gethostname()}, training this run"
    assert holder(tmp_path) is None
    assert not (tmp_path / LOCK).exists()
    child.kill()
    child.wait(timeout=300)
    assert holder(tmp_path / "run") is None


def test_a_child_that_outlives_the_process_does_not_keep_the_lock(tmp_path):
    """Programs started while the lock is held, `git` for one, do not inherit it."""
    with locked(tmp_path, "training this run"):
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        with locked(tmp_path, "training this run") as guarded:
            assert guarded
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_used_with_a_message(number, tmp_path, monkeypatch):
    def refuse(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with locked(tmp_path, "training this run") as guarded:
        assert not guarded
    assert holder(tmp_path) is None


def test_windows_has_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    for name in ("pread", "pwrite"):  # neither are there
        monkeypatch.delattr(os, name)
    folder = tmp_path / "new"
    with locked(folder, "training this run") as guarded, locked(folder, "training this run"):
        assert not guarded
        assert list(folder.iterdir()) == [], "Windows renames no folder with an open file"
    assert holder(folder) is None
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"), locked(tmp_path / "file" / "run", "training this run"):
        pass


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_one_sentence(number, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UsageError, match="cannot be written") as caught, locked(tmp_path, "training this run"):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_sentence(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(UsageError, match="cannot be written"), locked(tmp_path, "training this run"):
        pass
    tmp_path.chmod(0o755)


def test_an_owner_file_that_cannot_be_written_or_read_is_ignored(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    with (
        locked(tmp_path, "training this run") as guarded,
        pytest.raises(UsageError, match="another process"),
        locked(tmp_path, "training this run"),
    ):
        pass
    assert guarded
