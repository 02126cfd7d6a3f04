"""Folders that are either whole or not there, and can prove it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SUMS = "SHA256SUMS"  # in the format of sha256sum, so that `sha256sum -c SHA256SUMS` checks a folder by hand


@contextmanager
def atomic_folder(target: Path, replaceable: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yield an empty sibling of `target` to fill; on leaving, checksum it, flush it to disk and rename it into place.

    A crash at any moment leaves either no `target` or a whole one. An error removes what was begun. `replaceable` is
    asked at the last moment, and raises what is to be raised where the `target` that is there must stay.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # an earlier attempt was cut off
    partial.mkdir(parents=True)
    try:
        yield partial
        lines = [f"{sha256(path)}  {path.relative_to(partial).as_posix()}\n" for path in files_below(partial)]
        (partial / SUMS).write_text("".join(lines), encoding="utf-8")
        for path in [*files_below(partial), *(p for p in partial.rglob("*") if p.is_dir()), partial]:
            flush(path)
        if target.exists():
            if replaceable is not None:
                replaceable(target)
            remove_folder(target)  # a damaged one that was rejected, and is now written again
        partial.rename(target)
        flush(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def checksums(folder: Path) -> dict[str, str] | None:
    """The digest of each file listed in a folder's SHA256SUMS; None if that is missing or unreadable."""
    try:
        lines = (folder / SUMS).read_bytes().decode().removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def replace_text(path: Path, text: str) -> None:
    """Write a small file so that a crash leaves either the old or the new text."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a small file so that a crash leaves either the old or the new content."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(content)
    flush(temporary)
    temporary.replace(path)
    flush(path.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder under another name first: half-deleted never looks like damaged."""
    doomed = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    """All files of a folder and of the folders in it, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
