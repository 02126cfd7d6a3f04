"""An output folder that is there whole, or not at all, and what must not stand in its place."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from groundup.data.shards import MANIFEST
from groundup.errors import DataError
from groundup.utils.files import flush


def check_place(out: Path, *, prepared: bool = False) -> None:
    """Raise DataError where something stands at `out` but an empty folder, or a `prepared` one if that is allowed."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; choose another folder with --out")
    if out.is_dir() and any(out.iterdir()) and not (prepared and (out / MANIFEST).is_file()):
        raise DataError(f"{out}: already holds files; choose another folder with --out, or remove this one")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty hidden folder beside `out`; it is flushed to disk and renamed to `out` when the block ends well.

    If the block fails it is removed, and if the machine fails the next attempt removes it: in neither case is there
    an `out`. Raises DataError when `out` already holds something, or cannot be written.
    """
    try:
        check_place(out)
        target = out.resolve()
        partial = target.with_name(f".{target.name}.partial")
        if partial.exists():  # a former attempt was killed
            shutil.rmtree(partial)
        missing = [parent for parent in target.parents if not parent.exists()]
        partial.mkdir(parents=True)
        try:
            yield partial
            for path in [*partial.rglob("*"), partial]:
                flush(path)
            if target.exists():
                target.rmdir()  # an empty folder; Windows does not rename onto one
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            with suppress(OSError):  # someone else put something there meanwhile
                for parent in missing:
                    parent.rmdir()
            raise
        flush(target.parent)
    except OSError as error:
        raise DataError(
            f"{error.filename or out}: cannot be written ({error.strerror or error}); choose another place with --out"
        ) from error
