"""Read files that torch pickled, without running anything that they name.

`torch.load(weights_only=True)` builds tensors and plain containers and refuses all else. One exception is made: a class
that calls itself `GPTConfig`, in which karpathy/build-nanogpt keeps a model's sizes, is replaced by `PickledSettings`,
which holds the numbers and does nothing.
"""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from groundup.errors import CheckpointError
from groundup.interop.imported import printable

SETTINGS_CLASS = ".GPTConfig"
ZIP_MAGIC = b"PK\x03\x04"  # torch writes zip archives since 1.6
NO_CODE = "groundup runs no code from a file, so save its weights alone (a dict of tensors), and try again"


class PickledSettings:
    """Replaces a pickled class: keeps its values, and does nothing."""

    values: Mapping[str, Any] = MappingProxyType({})  # on the class, as unpickling may skip `__init__`

    def __init__(self, *ignored: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.values = dict(state) if isinstance(state, Mapping) else {}


def unpickle(path: Path) -> object:
    """The contents of a torch file, tensors mapped from it where its format allows that.

    CheckpointError where it is no such file, is damaged, or asks for anything but tensors and plain values.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC  # as torch tells the two formats apart
        if zipped:
            _check_stored(path)
        classes = get_unsafe_globals_in_checkpoint(path) if zipped else []  # an older file is refused on reading
        if code := sorted(name for name in classes if not name.endswith(SETTINGS_CLASS)):
            raise CheckpointError(f"{path.name}: asks for {printable(', '.join(code), 200)}, which is code; {NO_CODE}")
        with safe_globals([(PickledSettings, name) for name in classes]):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        _check_complete(path, found)
        return found
    except CheckpointError:
        raise
    except Exception as error:  # a foreign pickle can fail in any way
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise CheckpointError(f"{path.name}: asks for more than tensors and plain values; {NO_CODE}") from None
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"{path.name}: cannot be read as a file of torch, or is cut short ({printable(line, 120)}); get it again"
        ) from None


def is_state_dict(found: object) -> TypeGuard[dict[str, Tensor]]:
    """Whether it is a dict of tensors by name."""
    return isinstance(found, dict) and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in found.items())


def _check_stored(path: Path) -> None:
    """CheckpointError where a member of the archive is compressed: a few bytes could expand to any amount of memory."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise CheckpointError(
                    f"{path.name}: {printable(member.filename)} in it is compressed, unlike torch files; save it again"
                )


def _check_complete(path: Path, found: object) -> None:
    """CheckpointError where any tensor is sparse, meta or expanded: a small file could ask for any amount of memory."""
    todo, seen = [found], set()
    while todo:  # no recursion: containers may hold one another, and be of any depth
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            dense = value.layout == torch.strided and value.device.type == "cpu"
            if not dense or math.prod(value.shape) * value.element_size() > value.untyped_storage().nbytes():
                raise CheckpointError(
                    f"{path.name}: holds a tensor whose numbers are not all in the file (sparse, expanded or meta); "
                    "save plain ones"
                )
        elif isinstance(value, Mapping):
            todo += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            todo += value
        elif isinstance(value, PickledSettings):
            todo.append(value.values)
