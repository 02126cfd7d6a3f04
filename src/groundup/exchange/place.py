"""Where an export goes: a file or a folder that is there whole or not at all, and replaces only its like. No torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from groundup.checkpoint.atomic import flush
from groundup.errors import UsageError

Files = frozenset[str]
"""The names that a folder may hold; none at all where the export is a single file."""


def check_output(out: Path, files: Files, *, overwrite: bool = False) -> None:
    """UsageError where something stands at `out` that an export may not replace."""
    if not out.name:
        raise UsageError(f"{out}: is no name for something new; give another --out")
    if not out.exists():
        return
    if not files:
        if out.is_dir():
            raise UsageError(f"{out}: is a folder; name a file with --out")
    elif not out.is_dir():
        raise UsageError(f"{out}: is a file; name a folder with --out")
    elif foreign := sorted({path.name for path in out.iterdir()} - files):
        raise UsageError(f"{out}: holds {foreign[0]}, which is of no such export; give another --out")
    elif not any(out.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{out}: is there already; give another --out, or --overwrite to replace it")


@contextmanager
def new_output(out: Path, files: Files, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a hidden place beside `out`, an empty folder or no file yet, to be filled and then renamed to `out`.

    If the block fails nothing is left of it, and what stood at `out` stands there still. UsageError as `check_output`,
    and where the disk refuses.
    """
    check_output(out, files, overwrite=overwrite)
    target = out.resolve()
    partial, former = (target.with_name(f".{target.name}.{what}") for what in ("partial", "former"))
    try:
        missing = [parent for parent in target.parents if not parent.exists()]
        _remove(partial)  # an earlier attempt was killed
        (partial if files else target.parent).mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            for path in (*partial.rglob("*"), partial) if files else (partial,):
                flush(path)
            if files and target.exists():  # a folder cannot be renamed onto one that holds something
                _remove(former)
                target.rename(former)
            try:
                partial.replace(target)
            except OSError:
                if former.exists():
                    former.rename(target)
                raise
        except BaseException:
            _remove(partial)
            with suppress(OSError):  # someone else put something there meanwhile
                for parent in missing:
                    parent.rmdir()
            raise
        flush(target.parent)
        _remove(former)
    except OSError as error:
        raise UsageError(
            f"{out}: cannot be written ({error.strerror or error}); give another --out, or make room"
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
