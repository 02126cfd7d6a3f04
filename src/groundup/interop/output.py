"""Where an export goes: a file or a folder that is there whole or not at all, and replaces only its like. No torch."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from groundup.errors import UsageError
from groundup.utils.files import flush


@dataclass(frozen=True)
class Like:
    """What may be replaced: an earlier export of the same format."""

    files: frozenset[str]  # names or patterns of what the folder may hold; none where the export is a single file
    stands_at: Callable[[Path], bool]  # whether what is there is one; OSError where it cannot be read


def is_gguf(path: Path) -> bool:
    """Whether the file begins as every GGUF does."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def is_hf(files: frozenset[str], folder: Path) -> bool:
    """Whether the folder holds all `files`, and a card with our tag."""
    if {path.name for path in folder.iterdir()} != files:
        return False
    _, _, rest = (folder / "README.md").read_text(encoding="utf-8", errors="replace").partition("---\n")
    return "\n- groundup\n" in rest.partition("\n---")[0] + "\n"


def is_space(pattern: str, folder: Path) -> bool:
    """Whether the folder holds a wheel, of a name of that `pattern`, that says what was written beside it.

    UsageError where someone has changed or added a file since: what they wrote is nowhere else.
    """
    for wheel in folder.glob(pattern):
        try:
            with ZipFile(wheel) as archive:  # what it holds is not read, and may be damaged
                written = json.loads(archive.comment)
        except (FileNotFoundError, BadZipFile, ValueError, NotImplementedError):
            continue
        if not isinstance(written, dict):
            continue
        others = {name: digest for name, digest in digests(folder).items() if not Path(name).match(pattern)}
        if changed := [name for name, digest in others.items() if written.get(name) != digest]:
            raise UsageError(
                f"{folder}: since it was exported someone changed {', '.join(changed)}; give another --out"
            )
        return (folder / "model").is_dir()
    return False


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in the folder, by its name from there."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = file_digest(file, "sha256").hexdigest()
    return found


def check_output(out: Path, like: Like, *, overwrite: bool = False) -> None:
    """UsageError where something stands at `out` that an export may not replace.

    What an export that was killed had moved out of the way is put back first.
    """
    try:
        target = out.resolve()
        if _former(target).exists() and not target.exists():
            _former(target).rename(target)
        _check(out, like, overwrite)
    except (OSError, ValueError) as error:
        raise _unwritable(out, error) from error


def _check(out: Path, like: Like, overwrite: bool) -> None:
    if not out.name:
        raise UsageError(f"{out}: is no name for something new; give another --out")
    if not out.exists():
        return
    if not like.files:
        if out.is_dir():
            raise UsageError(f"{out}: is a folder; name a file with --out")
    elif not out.is_dir():
        raise UsageError(f"{out}: is a file; name a folder with --out")
    elif foreign := sorted(path.name for path in out.iterdir() if not any(map(path.match, like.files))):
        raise UsageError(f"{out}: holds {foreign[0]}, which is of no such export; give another --out")
    elif not any(out.iterdir()):
        return
    if not like.stands_at(out):
        raise UsageError(f"{out}: is there already, and is no such export of groundup's; give another --out")
    if not overwrite:
        raise UsageError(f"{out}: is there already; give another --out, or --overwrite to replace it")


@contextmanager
def new_output(out: Path, like: Like, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a hidden place beside `out`, an empty folder or no file yet, to be filled and then renamed to `out`.

    If the block fails nothing is left of it, and what stood at `out` stands there still. UsageError as `check_output`,
    and where the disk refuses.
    """
    check_output(out, like, overwrite=overwrite)
    target = out.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        missing = [parent for parent in target.parents if not parent.exists()]
        _remove_scraps(target)
        (partial if like.files else target.parent).mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            for path in (*partial.rglob("*"), partial) if like.files else (partial,):
                flush(path)
            _check(out, like, overwrite)  # hours may have gone by, and another export with them
            _move(partial, target)
        except BaseException:
            _remove(partial)
            with suppress(OSError):  # someone else put something there meanwhile
                for parent in missing:
                    parent.rmdir()
            raise
        flush(target.parent)
        _remove(_former(target))
    except OSError as error:
        raise _unwritable(out, error) from error


def _move(partial: Path, target: Path) -> None:
    """Rename; a folder cannot take the place of one that holds something, so that steps aside until it is done."""
    former = _former(target)
    try:
        if target.is_dir():
            _remove(former)
            target.rename(former)
        partial.replace(target)
    except BaseException:
        if former.exists() and not target.exists():
            former.rename(target)
        raise


def _former(target: Path) -> Path:
    return target.with_name(f".{target.name}.former")


def _remove_scraps(target: Path) -> None:
    """What attempts that were killed have left: of this process's number, or of one that is no longer there."""
    if not target.parent.is_dir():
        return
    name = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.partial", re.ASCII)
    for path in list(target.parent.iterdir()):
        if (found := name.fullmatch(path.name)) and not _runs(int(found[1])):
            _remove(path)


def _runs(pid: int) -> bool:
    """Whether another process of that number is there."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _unwritable(out: Path, error: OSError | ValueError) -> UsageError:
    what = error.strerror if isinstance(error, OSError) and error.strerror else error
    said = str(out)[:200]
    said = said if said.isprintable() else repr(said)
    return UsageError(f"{said}: cannot be written ({what}); give another --out, or make room")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
