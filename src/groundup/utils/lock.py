"""One process at a time trains a run. The system lets go of the lock when that process ends, in whatever way."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundup.errors import UsageError

try:
    import fcntl
except ImportError:  # on Windows, where nothing guards against two processes at once
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
# What file systems answer that cannot lock: NFS without its lock daemon, Lustre mounted without `flock`, some FUSE.
CANNOT = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}  # EACCES: NFS, where flock becomes a POSIX lock
GLANCE = 0.05  # seconds; far longer than `holder` holds the lock


@contextmanager
def locked(folder: Path, what: str) -> Iterator[bool]:
    """Hold the lock of `folder`, made if missing, while the block runs; `what` says what for: `training this run`.

    Yields False where the system or file system cannot lock: then nothing guards, and the caller should say so.
    UsageError, naming process and machine, when another process holds it; and when the folder cannot be written.
    """
    handle = _open(folder)
    try:
        guarded = _take(handle, folder)
        try:
            os.truncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()} {socket.gethostname()} {what}\n".encode(), 0)
        except OSError:  # a full disk: the name tag is missing, the lock holds
            pass
        yield guarded
    finally:
        os.close(handle)  # the file stays: to delete it would let two processes hold locks on two files of one name


def holder(folder: Path) -> str | None:
    """`process 4711 on mymachine, training this run` while some process holds the lock; None when none does."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return _name_tag(handle) if error.errno in HELD else None
    finally:
        os.close(handle)
    return None


def _open(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written ({error.strerror}); give a folder that you may write to"
        ) from error


def _take(handle: int, folder: Path) -> bool:
    """Whether the lock was taken; False where there are no locks, UsageError where another process has it."""
    if fcntl is None:
        return False
    for last in (False, True):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in CANNOT:
                return False
            if error.errno not in HELD:
                raise UsageError(f"{folder}: cannot be locked ({error.strerror}); use another folder") from error
            if last:
                raise UsageError(
                    f"{folder}: in use right now by {_name_tag(handle)}; wait for it to end, or stop it first"
                ) from None
            time.sleep(GLANCE)  # it may be someone who only looks
        else:
            return True
    raise AssertionError("the second attempt returns or raises")


def _name_tag(handle: int) -> str:
    pid, _, rest = os.pread(handle, 200, 0).decode("utf-8", "replace").strip().partition(" ")
    host, _, what = rest.partition(" ")
    return f"process {pid} on {host}, {what}" if pid.isdigit() and host else "another process"
