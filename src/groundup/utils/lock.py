"""File lock: one process at a time uses a folder. The system releases it when the process ends, however it ends."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from groundup.errors import UsageError
from groundup.utils.reading import open_own

try:
    import fcntl
except ImportError:  # on Windows, where nothing guards against two processes at once
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
# Errors of file systems that cannot lock: NFS without its lock daemon, Lustre mounted without `flock`, some FUSE.
UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}  # EACCES: NFS, where flock becomes a POSIX lock
RETRY_SECONDS = 0.05  # far longer than `holder` holds the lock


@contextmanager
def locked(folder: Path, purpose: str, *, shown: Path | None = None) -> Iterator[bool]:
    """Hold the lock of `folder`, made if missing, while the block runs; `purpose` is such as `training this run`.

    Yields False where the system or file system cannot lock: then nothing guards, and the caller should log it.
    UsageError, naming process and machine, when another process holds it; and when the folder cannot be written.
    Messages name `shown` instead of a hidden `folder`.
    """
    while True:
        handle = _open(folder, shown or folder)
        if handle is None:
            yield False
            return
        try:
            guarded = _acquire(handle, shown or folder)
            if guarded and not _is_current(handle, folder / LOCK):
                continue  # the previous holder has renamed the folder, and this is its lock
            with suppress(OSError):  # a full disk: the name tag is missing, the lock holds
                os.truncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()} {socket.gethostname()} {purpose}\n".encode(), 0)
            yield guarded
            return
        finally:
            os.close(handle)  # the file stays: to delete it would let two processes hold locks on two files of one name


def holder(folder: Path) -> str | None:
    """`process 4711 on mymachine, training this run` while some process holds the lock; None when none does."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return _name_tag(handle) if error.errno in HELD else None
    finally:
        os.close(handle)
    return None


def _open(folder: Path, shown: Path) -> int | None:
    """Make the folder and open its lock; None on Windows, which has no locks of this kind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return None
        return open_own(folder / LOCK, os.O_RDWR, 0o644)
    except ValueError as error:
        raise UsageError(f"{folder / LOCK}: is {error}; remove it") from error
    except OSError as error:
        remedy = "give a folder that you may write to"
        raise UsageError(f"{shown}: cannot be written ({error.strerror}); {remedy}") from error


def _acquire(handle: int, shown: Path) -> bool:
    """Whether the lock was acquired; False where there are no locks, UsageError where another process holds it."""
    for is_last in (False, True):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno in UNSUPPORTED:
                return False
            if error.errno not in HELD:
                raise UsageError(f"{shown}: cannot be locked ({error.strerror}); use another folder") from error
            if is_last:
                raise UsageError(
                    f"{shown}: in use right now by {_name_tag(handle)}; wait for it to end, or stop it first"
                ) from None
            time.sleep(RETRY_SECONDS)  # `holder` may hold it
    return True


def _is_current(handle: int, path: Path) -> bool:
    try:
        return os.fstat(handle).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _name_tag(handle: int) -> str:
    pid, _, rest = os.pread(handle, 200, 0).decode("utf-8", "replace").strip().partition(" ")
    host, _, purpose = rest.partition(" ")
    return f"process {pid} on {host}, {purpose}" if pid.isdigit() and host else "another process"
