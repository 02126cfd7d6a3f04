"""Where an export goes: a file or a folder that is there whole or not at all, and replaces only its like. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from groundup.errors import UsageError
from groundup.utils.files import atomic_output, restore_previous


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
        restore_previous(out.resolve())
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
    """Yield a hidden sibling of `out`, an empty folder or the path of a file, to fill; then it is renamed to `out`.

    If the block fails, what was at `out` stays. Raises UsageError as `check_output` does, and for errors of the disk.
    """
    check_output(out, like, overwrite=overwrite)
    try:
        # Checked again at the end: hours may have passed, and another export may have been faster.
        with atomic_output(out, lambda _: _check(out, like, overwrite), is_folder=bool(like.files)) as partial:
            yield partial
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError | ValueError) -> UsageError:
    what = error.strerror if isinstance(error, OSError) and error.strerror else error
    said = str(out)[:200]
    said = said if said.isprintable() else repr(said)
    return UsageError(f"{said}: cannot be written ({what}); give another --out, or make room")
