"""Checks of an import's arguments, before anything is read. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundup.checkpoint.files import read_config
from groundup.errors import CheckpointError, NewerFormatError, UsageError
from groundup.sources.hub_client import PREFIX
from groundup.utils.files import SUMS, checksums

SOURCES = (
    f"{PREFIX}OWNER/NAME, a folder of transformers (with its config.json), a ckpt.pt of nanoGPT or build-nanogpt, "
    "or a .bin of llm.c"
)


def check(source: str, out: Path, *, revision: str | None, overwrite: bool) -> None:
    """UsageError where there is nothing to import, or `out` may not be written."""
    check_output(out, overwrite=overwrite)
    if source.startswith(PREFIX):
        return
    if revision is not None:
        raise UsageError(f"--revision {revision}: is for models of the hub; leave it out for {source}")
    with _readable(source, f"give {SOURCES}"):
        path = Path(source).resolve()
        if not path.exists():
            raise UsageError(f"{source}: there is no such file or folder; give {SOURCES}")
        # Other programs' folders may hold a config.yaml or checksums of their own.
        if (path / "config.yaml").is_file() and (path / "checkpoints").is_dir():
            raise UsageError(f"{source}: already a groundup run; use it as it is")
        if (path / SUMS).is_file() and _is_ours(path):
            raise UsageError(f"{source}: already a groundup checkpoint; use it as it is")


def check_output(out: Path, *, overwrite: bool) -> None:
    """UsageError where `out` holds something that an import may not replace.

    An import replaces a checkpoint and nothing else: a file that the checkpoint's checksums do not list is the user's.
    """
    with _readable(str(out), "choose another folder with --out"):
        target = out.resolve()
        if target.is_file():
            raise UsageError(f"{out}: is a file; choose another folder with --out")
        if not target.is_dir() or not any(target.iterdir()):
            return
        listed = checksums(target)
        if listed is None or not _is_ours(target):
            raise UsageError(f"{out}: already holds files, and no checkpoint; choose another folder with --out")
        paths = [path for path in target.rglob("*") if path.is_symlink() or not path.is_dir()]
        files = {path.relative_to(target).as_posix() for path in paths}
        if foreign := sorted(files - listed.keys() - {SUMS}):
            raise UsageError(
                f"{out}: holds {foreign[0][:80]!r}, which is of no checkpoint; choose another folder with --out"
            )
        if not overwrite:
            raise UsageError(f"{out}: holds a checkpoint already; choose another --out, or replace it with --overwrite")


@contextmanager
def _readable(path: str, remedy: str) -> Iterator[None]:
    """UsageError where the system cannot look up `path`: too long a name, a zero byte, a circle of links."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path[:80]!r}: cannot be looked at ({reason}); {remedy}") from None


def _is_ours(folder: Path) -> bool:
    try:
        read_config(folder)
    except NewerFormatError:
        return True
    except CheckpointError:
        return False
    return True
