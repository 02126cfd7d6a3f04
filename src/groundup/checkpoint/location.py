"""Folder of a run's checkpoints: in the run's folder, or another one, as `--checkpoints` names it. No torch here.

RUN/checkpoints   the folder itself, or a file with the path of the other one
OTHER/.run        the path of the run

Both must agree: a run that comes from others must not name a folder whose checkpoints it would then delete.
"""

import os
from pathlib import Path

from groundup.checkpoint.files import unreadable
from groundup.errors import CheckpointError, UsageError
from groundup.utils.files import replace_bytes
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
        if owner(folder) == run.resolve():
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


def assign(run: Path, folder: Path, *, new: bool) -> None:
    """Let `folder` hold the checkpoints of `run`: none yet if the run is `new`, else those that were moved there.

    UsageError where it holds anything else or belongs to another run, and where `run` has checkpoints of its own.
    """
    folder, pointer, option = folder.resolve(), run / POINTER, f"--checkpoints {folder}"
    if folder == (run.resolve() / POINTER):
        return
    previous = owner(folder)
    if previous not in (None, run.resolve()) and ((previous or run) / "config.yaml").exists():
        raise UsageError(f"{option}: holds the checkpoints of {previous}; give another folder")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    for name in names:
        if not name.startswith(OWNER if new else (OWNER, "step-", ".step-")):
            raise UsageError(f"{option}: holds {name} already; give a new folder")
    if pointer.is_dir() and not pointer.is_symlink():
        if any(pointer.iterdir()):
            raise UsageError(f"{option}: {pointer} holds checkpoints; move them there and remove {pointer} first")
        pointer.rmdir()
    folder.mkdir(parents=True, exist_ok=True)
    replace_bytes(folder / OWNER, os.fsencode(run.resolve()) + b"\n")
    replace_bytes(pointer, os.fsencode(folder) + b"\n")


def _path_in(file: Path) -> Path:
    return Path(os.fsdecode(read_bytes(file, limit=1 << 16).removesuffix(b"\n")))
