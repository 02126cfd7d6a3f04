"""Read files that torch pickled, without running anything that they name.

The opcodes are checked first (`groundup.interop.pickle_scan`); then `torch.load(weights_only=True)` builds tensors and
plain containers and refuses all else. One exception is made: a class that calls itself `GPTConfig`, in which
karpathy/build-nanogpt keeps a model's sizes, is replaced by `PickledSettings`, which only holds the numbers.
"""

import io
import math
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.serialization import safe_globals

from groundup.errors import CheckpointError
from groundup.interop.imported import printable
from groundup.interop.pickle_scan import PickleContents, UnsupportedPickleError, scan_pickle
from groundup.utils.reading import open_regular

ZIP_MAGIC = b"PK\x03\x04"  # torch writes zip archives since 1.6
LEGACY_MAGIC = b"\x80\x02"  # older files are pickles one after another, then the numbers
LEGACY_PICKLES = 5  # magic number, version, kind of machine, contents, keys of the storages
MAX_PICKLE_BYTES = 4 << 20  # without the numbers; a model of 20,000 tensors has as much
MAX_SHARING = 2  # bytes of all tensors per byte of the file: tied weights stand in it once
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
        with open_regular(path) as file:
            head = file.read(len(ZIP_MAGIC))
        zipped = head == ZIP_MAGIC  # as torch tells the two formats apart
        contents = _scan_zip(path) if zipped else _scan_legacy(path)
        size = path.stat().st_size
        if (needed := sum(contents.storages.values())) > size:
            raise ValueError(f"its tensors need {needed:,} bytes, and it has {size:,}")
        with safe_globals([(PickledSettings, name) for name in contents.settings]):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        _check_complete(path, found, size)
        return found
    except CheckpointError:
        raise
    except UnsupportedPickleError as error:
        raise CheckpointError(
            f"{path.name}: asks for {printable(error, 200)}, not only for tensors and plain values; {NO_CODE}"
        ) from None
    except Exception as error:  # a foreign pickle can fail in any way
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"{path.name}: cannot be read as a file of torch, or is cut short ({printable(line, 120)}); get it again"
        ) from None


def is_state_dict(found: object) -> TypeGuard[dict[str, Tensor]]:
    """Whether it is a dict of tensors by name."""
    return isinstance(found, dict) and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in found.items())


def _scan_zip(path: Path) -> PickleContents:
    _check_stored(path)
    reader, contents = torch._C.PyTorchFileReader(str(path)), PickleContents()  # the reader that torch.load uses
    if "constants.pkl" in reader.get_all_records():  # as torch knows it
        raise CheckpointError(f"{path.name}: is a TorchScript program; {NO_CODE}")
    if reader.get_record_size("data.pkl") > MAX_PICKLE_BYTES:
        raise ValueError(f"its pickle is larger than {MAX_PICKLE_BYTES:,} bytes")
    scan_pickle(io.BytesIO(reader.get_record("data.pkl")), contents)
    return contents


def _scan_legacy(path: Path) -> PickleContents:
    with open_regular(path) as file:
        pickles = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    if not pickles.getvalue().startswith(LEGACY_MAGIC):
        raise ValueError("it is neither a zip archive nor a pickle")
    contents = PickleContents()
    for _ in range(LEGACY_PICKLES):
        scan_pickle(pickles, contents)
    return contents


def _check_stored(path: Path) -> None:
    """CheckpointError where a member of the archive is compressed: a few bytes could expand to any amount of memory."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise CheckpointError(
                    f"{path.name}: {printable(member.filename)} in it is compressed, unlike torch files; save it again"
                )


def _check_complete(path: Path, found: object, size: int) -> None:
    """CheckpointError where a tensor is expanded or many share their numbers: a small file could ask for any memory."""
    todo, seen, total = [found], set(), 0
    while todo:  # no recursion: containers may hold one another, and be of any depth
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            needed = math.prod(value.shape) * value.element_size()
            total += needed
            if needed > value.untyped_storage().nbytes() or total > MAX_SHARING * size:
                raise CheckpointError(
                    f"{path.name}: holds a tensor whose numbers are not all in the file (expanded or shared by many); "
                    "save plain ones"
                )
        elif isinstance(value, OrderedDict) and vars(value).keys() - {"_metadata"}:
            raise CheckpointError(
                f"{path.name}: holds an OrderedDict with other attributes than torch gives it; {NO_CODE}"
            )
        elif isinstance(value, Mapping):
            todo += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            todo += value
        elif isinstance(value, PickledSettings):
            todo.append(value.values)
