"""Folder of a run's checkpoints: in the run's folder, or another one, as `--checkpoints` names it. No torch here.

RUN/checkpoints   the folder itself, or a file with the path of the other one
OTHER/.run        the path of the run

Both must agree: a run that comes from others must not name a folder whose checkpoints it would then delete.
"""

import os
from contextlib import suppress
from pathlib import Path

from groundup.checkpoint.files import SYSTEM_FILE, unreadable
from groundup.errors import CheckpointError, UsageError
from groundup.utils.files import replace_bytes, resolved
from groundup.utils.reading import read_bytes

POINTER, OWNER = "checkpoints", ".run"


def checkpoints_of(run: Path) -> Path:
    """The folder of a run's checkpoints, whether it exists or not.

    CheckpointError for a link, and for a folder that does not name this run; UnreadableError.
    """
    pointer = run / POINTER
    try:
        if pointer.is_symlink():
            raise CheckpointError(
                f"{pointer}: is a link, which is not followed; if you made it, give its folder once by "
                "`groundup resume RUN --checkpoints DIR`"
            )
        if not pointer.is_file():
            return pointer
        folder = _path_in(pointer)
        if (named := owner(folder)) and _is_same(named, run):
            return folder
        what = "which names another run" if folder.is_dir() else "and there is no such folder now"
    except OSError as error:
        raise unreadable(error, pointer) from error
    except ValueError as error:
        raise CheckpointError(f"{pointer}: no folder, and no path of one ({error}); put it back") from error
    raise CheckpointError(
        f"{pointer}: names {folder}, {what}; mount it or put it back, or if run or folder have moved, resume with "
        "--checkpoints DIR"
    )


def owner(folder: Path) -> Path | None:
    """The run that a folder outside of runs holds checkpoints of; None for any other folder."""
    try:
        return _path_in(folder / OWNER)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def refuse_unsuitable(run: Path, folder: Path, *, new: bool) -> None:
    """UsageError where `folder` cannot hold the checkpoints of `run`: none yet if it is `new`, else those moved there.

    It belongs to another run or holds anything else, or the run's own folder holds checkpoints.
    """
    if _is_own(run, folder):
        return
    option, own, previous = f"--checkpoints {folder}", run / POINTER, owner(folder)
    if previous and not _is_same(previous, run) and (previous / "config.yaml").exists():
        raise UsageError(f"{option}: holds the checkpoints of {previous}; give another folder")
    names = [path.name for path in folder.iterdir() if not SYSTEM_FILE.fullmatch(path.name)] if folder.is_dir() else []
    for name in names:
        if not name.startswith(OWNER if new else (OWNER, "step-", ".step-")):
            raise UsageError(f"{option}: holds {name} already; give a new folder")
    if not (new or names):
        raise UsageError(f"{option}: holds no checkpoint; give the folder that they have been moved to")
    if own.is_dir() and not own.is_symlink() and any(own.iterdir()):
        raise UsageError(f"{option}: {own} holds checkpoints; move them there and remove {own} first")


def assign(run: Path, folder: Path, *, new: bool) -> None:
    """Let `folder` hold the checkpoints of `run`; UsageError as of `refuse_unsuitable`."""
    refuse_unsuitable(run, folder, new=new)
    if _is_own(run, folder):
        return
    folder, pointer = resolved(folder), run / POINTER
    if pointer.is_dir() and not pointer.is_symlink():
        pointer.rmdir()
    folder.mkdir(parents=True, exist_ok=True)
    replace_bytes(folder / OWNER, os.fsencode(resolved(run)) + b"\n")
    replace_bytes(pointer, os.fsencode(folder) + b"\n")


def _is_own(run: Path, folder: Path) -> bool:
    """Whether `folder` is the one in the run's folder."""
    own = resolved(run) / POINTER
    return not own.is_symlink() and _is_same(resolved(folder), own)


def _is_same(a: Path, b: Path) -> bool:
    """Whether both are one folder, whichever links and mounts lead there."""
    with suppress(OSError):  # one is missing
        return a == b or a.samefile(b)
    return False


def _path_in(file: Path) -> Path:
    return Path(os.fsdecode(read_bytes(file, limit=1 << 16).removesuffix(b"\n")))
