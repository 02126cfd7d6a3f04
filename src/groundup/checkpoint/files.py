"""JSON files and checksums of a checkpoint. No torch here."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from groundup.config.merge import describe_error
from groundup.config.schema import Config
from groundup.errors import CheckpointError, NewerFormatError, UnreadableError
from groundup.utils import reading
from groundup.utils.files import PREVIOUS, SUMS, checksums, files_below, leads_out, sha256

FORMAT = 2  # of a checkpoint: 2 has the config keys of today, 1 their previous names
CONFIG, PROGRESS = "config.json", "progress.json"
MODEL, AVERAGE, TOKENIZER = "model.safetensors", "average.safetensors", "tokenizer"
OPTIMIZER = "optimizer/state.safetensors"
SYSTEM_FILE = re.compile(r"\.DS_Store|\._.+|\.nfs[0-9a-f]+")  # which macOS and NFS put into folders of others


def final_name(checkpoint: Path) -> str:
    """The name of a checkpoint's folder; of one that a process was killed over while it replaced it, the one it had."""
    name = checkpoint.name
    return name[1 : -len(PREVIOUS)] if name.startswith(".") and name.endswith(PREVIOUS) else name


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(final_name(checkpoint).removeprefix("step-"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError when there is none."""
    try:
        values = reading.read_json(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; give the folder of a run or of a complete checkpoint") from error
    except (ValueError, IsADirectoryError, NotADirectoryError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); use another checkpoint") from error
    except OSError as error:
        raise unreadable(error, path) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: damaged (no JSON object); use another checkpoint")
    return values


def read_field(path: Path, key: str) -> str | None:
    """A value of a JSON object in a file, as text; None if it is missing or cannot be read."""
    try:
        value = read_json(path).get(key)
    except CheckpointError:
        return None
    return None if value is None else str(value)


def read_config(folder: Path) -> dict[str, Any]:
    """The values in a checkpoint's config.json, without the format number.

    CheckpointError when it is missing or damaged, NewerFormatError when a newer groundup wrote it.
    """
    path = folder / CONFIG
    values = read_json(path)
    found = values.pop("format", None)
    if isinstance(found, int) and found > FORMAT:
        raise NewerFormatError(
            f"{path}: of format {found}, which a newer groundup wrote (this one reads up to {FORMAT}); update groundup"
        )
    if found not in range(1, FORMAT + 1):
        raise CheckpointError(
            f"{path}: damaged (its format is {found!r}, not {FORMAT} or less); use another checkpoint"
        )
    return values


def load_config(folder: Path) -> Config:
    """The config in a checkpoint; CheckpointError if missing or damaged, NewerFormatError if of a newer groundup."""
    try:
        return Config.model_validate(read_config(folder))
    except ValidationError as error:
        raise CheckpointError(f"{folder / CONFIG}: damaged ({describe_error(error)}); use another checkpoint") from None


def verify(folder: Path, presence_only: Sequence[str] = ()) -> None:
    """Raise CheckpointError with the first file of a checkpoint that is missing or does not match its checksum.

    `presence_only`: files that are not about to be read, whose checksums are skipped. UnreadableError where the system
    fails to read it.
    """
    try:
        for file, problem in damage(folder, presence_only):
            raise CheckpointError(f"{folder / file}: {problem}; use another checkpoint")
    except OSError as error:
        raise unreadable(error, folder) from error


def unreadable(error: OSError, path: Path) -> UnreadableError:
    """The sentence for what the system failed to read."""
    return UnreadableError(
        f"{error.filename or path}: cannot be read ({error.strerror or error}); nothing was changed: make it readable "
        "(its permissions, the disk or the mount), and try again"
    )


def damage(folder: Path, presence_only: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Each file of a checkpoint that is missing, unlisted, elsewhere or does not match its checksum, with the problem.

    OSError where the system fails to read it, which is no damage.
    """
    listed = None if leads_out(folder / SUMS, folder) else checksums(folder)
    if listed is None:
        yield SUMS, "missing or damaged, so this is no complete checkpoint"
        return
    present = {path.relative_to(folder).as_posix(): path for path in files_below(folder) if path != folder / SUMS}
    foreign = present.keys() - listed.keys()
    if unlisted := sorted(name for name in foreign if not SYSTEM_FILE.fullmatch(present[name].name)):
        yield SUMS, f"damaged (it does not list {', '.join(unlisted)})"
    for name in sorted(listed.keys() - present.keys()):
        yield name, "missing"
    for name in sorted(listed.keys() & present.keys()):
        if leads_out(present[name], folder):
            yield name, "a link, and a checkpoint holds its files itself"
        elif not present[name].is_file():
            yield name, "no regular file"
        elif name not in presence_only and sha256(present[name]) != listed[name]:
            yield name, f"damaged (its checksum is not the one in {SUMS})"
