"""What an import asks for, as far as it can be checked at once; no torch here."""

from __future__ import annotations

from pathlib import Path

from groundup.checkpoint.atomic import SUMS
from groundup.errors import UsageError

PREFIX = "hf:"  # of a model of the hub
SOURCES = (
    f"{PREFIX}OWNER/NAME, a folder of transformers (with its config.json), a ckpt.pt of nanoGPT or build-nanogpt, "
    "or a .bin of llm.c"
)


def check(source: str, out: Path, *, revision: str | None, overwrite: bool) -> None:
    """UsageError where there is nothing to import, or no place for it."""
    if out.is_file():
        raise UsageError(f"{out}: is a file; choose another folder with --out")
    if out.is_dir() and any(out.iterdir()):
        if not (out / SUMS).is_file():
            raise UsageError(f"{out}: already holds files, and no checkpoint; choose another folder with --out")
        if not overwrite:
            raise UsageError(f"{out}: holds a checkpoint already; choose another --out, or replace it with --overwrite")
    if source.startswith(PREFIX):
        return
    if revision is not None:
        raise UsageError(f"--revision {revision}: is for models of the hub; leave it out for {source}")
    path = Path(source)
    if not path.exists():
        raise UsageError(f"{source}: there is no such file or folder; give {SOURCES}")
    for file, what in (("config.yaml", "run"), (SUMS, "checkpoint")):
        if (path / file).is_file():
            raise UsageError(f"{source}: already a groundup {what}; use it as it is")
