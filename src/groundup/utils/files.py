"""Files and folders on disk: atomic replacement, flushing, checksums."""

import errno
import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from groundup.utils.reading import open_regular, read_text

SUMS = "SHA256SUMS"  # in the format of sha256sum, so that `sha256sum -c SHA256SUMS` checks a folder by hand

# Ends of hidden names: of what is being replaced, now and by earlier versions, and of what is being deleted.
PREVIOUS, FORMER, DELETED = ".previous", ".former", ".deleted"


SUMS_LINE = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<name>.+)")
MAX_SUMS_BYTES = 1 << 20  # a checkpoint's has some ten lines


def resolved(path: Path) -> Path:
    """`path` without links; OSError where they lead in a circle, for which Python before 3.13 has a RuntimeError."""
    try:
        return path.resolve()
    except RuntimeError:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None


@contextmanager
def atomic_output(
    target: Path, check: Callable[[Path], None] | None = None, *, is_folder: bool = True
) -> Iterator[Path]:
    """Yield a hidden sibling of `target` to fill, an empty folder or the path of a file; on leaving, move it there.

    A crash at any moment leaves the previous `target` or the complete new one (between two renames the previous one is
    under another name, see `restore_previous`). An error removes everything that was created. If `target` exists by
    then, `check` is called with it, and raises if it must stay.
    """
    target = resolved(target)
    restore_previous(target)
    missing = [parent for parent in target.parents if not parent.exists()]
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")  # processes may export to one path at once
    try:
        _remove_abandoned(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_folder:
            partial.mkdir()
        yield partial
        if check is not None and target.exists():
            check(target)
        move_into_place(partial, target)
    except BaseException:
        remove(partial)
        with suppress(OSError):  # another process has put something there
            for parent in missing:
                parent.rmdir()
        raise


def move_into_place(partial: Path, target: Path) -> None:
    """Flush `partial`, a file or folder, to disk and rename it to `target`, replacing what is there."""
    for path in [*partial.rglob("*"), partial]:
        flush(path)
    _swap(partial, target)
    flush(target.parent)
    for end in (PREVIOUS, FORMER, DELETED):
        remove(hidden(target, end))


def restore_previous(target: Path) -> None:
    """Put back the previous `target` if a process was killed between the two renames that replace it."""
    for end in (PREVIOUS, FORMER):
        previous = hidden(target, end)
        if previous.exists() and not previous.is_symlink() and not target.exists():
            previous.rename(target)


def _swap(partial: Path, target: Path) -> None:
    # A folder cannot be renamed onto one that holds something (nor, on Windows, onto any).
    try:
        if target.is_dir():
            remove(hidden(target, PREVIOUS))
            target.rename(hidden(target, PREVIOUS))
        partial.replace(target)
    except BaseException:
        restore_previous(target)
        raise


def hidden(target: Path, end: str) -> Path:
    """The hidden sibling of `target` whose name ends with `end`."""
    return target.with_name(f".{target.name}{end}")


def _remove_abandoned(target: Path) -> None:
    """Remove the partial outputs of killed processes, and any of this process ID."""
    if not target.parent.is_dir():
        return
    name = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.partial", re.ASCII)
    for path in list(target.parent.iterdir()):
        if (found := name.fullmatch(path.name)) and not _is_other_process(int(found[1])):
            remove(path)


def _is_other_process(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 would interrupt it
        return pid != os.getpid()
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path in a folder is a link out of it; those of a snapshot in the hub's cache to its files are not."""
    real = Path(os.path.realpath(folder))
    inside = [real, *(parent.parent / "blobs" for parent in real.parents if parent.name == "snapshots")]
    return not any(Path(os.path.realpath(path)).is_relative_to(place) for place in inside)


def remove(path: Path) -> None:
    """Delete a file, a folder or a link, if it is there; never what a link points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS, which lists the files of `folder`, into it."""
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files_below(folder)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def checksums(folder: Path) -> dict[str, str] | None:
    """The digest of each file listed in a folder's SHA256SUMS; None if that is missing or damaged.

    OSError where it cannot be read.
    """
    try:
        lines = read_text(folder / SUMS, limit=MAX_SUMS_BYTES).removesuffix("\n").split("\n")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return None
    found = [SUMS_LINE.fullmatch(line) for line in lines]
    return {line["name"]: line["digest"] for line in found if line} if all(found) else None


def replace_text(path: Path, text: str) -> None:
    """Write a small file so that a crash leaves either the old or the new text."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a small file so that a crash leaves either the old or the new content. `mode`: permissions, less umask."""
    temporary = path.with_name(f".{path.name}.partial")
    remove(temporary)
    # "x": never through a link that has just been put there
    with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    flush(path.parent)


def unused(path: Path) -> Path:
    """`path`, or where there is something, the first of `path`1, `path`2 …"""
    names = (f"{path.name}{n or ''}" for n in count())
    return next(found for found in map(path.with_name, names) if not os.path.lexists(found))


def remove_folder(folder: Path) -> None:
    """Delete a folder under another name first: half-deleted never looks like damaged.

    What cannot be deleted now, such as a file that is open over NFS, stays under that name.
    """
    doomed = unused(hidden(folder, DELETED))
    folder.rename(doomed)
    remove(doomed)


def sha256(path: Path) -> str:
    """Hex digest of a regular file's content; ValueError for anything else."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def distinct_names(lengths: Mapping[Path, int]) -> dict[Path, str]:
    """Names of absolute paths: of each path as many last parts as given, more where these are the same."""
    while True:
        names = {path: "/".join(path.parts[-n:]) for path, n in lengths.items()}
        counts = Counter(names.values())
        if len(counts) == len(names):
            return {path: _name_as_text(name) for path, name in names.items()}
        lengths = {path: n + (counts[names[path]] > 1) for path, n in lengths.items()}


def _name_as_text(name: str) -> str:
    """A file name as UTF-8, whatever the locale took its bytes for; `?` for each byte that is none."""
    return os.fsencode(name).decode("utf-8", "surrogateescape").encode(errors="replace").decode()


def flush(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders, and orders their changes itself
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows flushes only what it may write
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and of the folders in it, in order; links are listed and not followed.

    OSError where a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        found += [Path(parent, name) for name in (*names, *links)]
    return sorted(found)
