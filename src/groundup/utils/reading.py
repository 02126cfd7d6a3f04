"""Files that others may have put there: no pipe, no device; bounded reading, JSON of limited depth; no link is written.

OSError means that a file could not be read, ValueError that its content is not acceptable.
"""

import errno
import json
import math
import os
import stat
import struct
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

MAX_BYTES = 16 << 20  # of a JSON or text file, unless the caller names another limit
MAX_HEADER_BYTES = 16 << 20  # of a safetensors file; a model of 1,000 blocks with optimizer state needs 5 MB
MAX_DIMENSIONS = 64  # as in torch; the product of millions of numbers would take hours


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a safetensors header describes it."""

    dtype: str  # such as `F32`
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; anything else is a ValueError."""
    # Without O_NONBLOCK, opening a named pipe waits for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise ValueError("not a regular file")


def open_own(path: Path, flags: int, mode: int = 0o666) -> int:
    """A handle to write one of groundup's own files, made if missing; a link, pipe or device is a ValueError."""
    if path.is_symlink():  # for systems without O_NOFOLLOW
        raise ValueError("a link, which is not followed")
    flags |= os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags, mode)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError("no regular file")
    return handle


def read_bytes(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file of at most `limit` bytes."""
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"larger than {limit:,} bytes, the most that such a file may have")
    return content


def read_text(path: Path, *, limit: int = MAX_BYTES) -> str:
    """The content of a regular UTF-8 file of at most `limit` bytes."""
    return read_bytes(path, limit=limit).decode()


def read_json(path: Path, *, limit: int = MAX_BYTES) -> Any:
    """The value in a JSON file of at most `limit` bytes."""
    return parse_json(read_bytes(path, limit=limit))


def parse_json(text: str | bytes) -> Any:
    """`json.loads` whose only error is ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Names, dtypes and shapes in a safetensors file, before any tensor is loaded."""
    with open_regular(path) as file:
        head = file.read(8)
        size = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= size <= MAX_HEADER_BYTES:
            raise ValueError(f"not a safetensors file, or its header is larger than {MAX_HEADER_BYTES:,} bytes")
        entries = parse_json(file.read(size))
        rest = os.fstat(file.fileno()).st_size - 8 - size
    if not isinstance(entries, dict):
        raise ValueError("its header is no JSON object")
    found = {name: _tensor_info(name, entry) for name, entry in entries.items() if name != "__metadata__"}
    offsets = [entry.get("data_offsets") for name, entry in entries.items() if name in found]
    if rest > max((end for pair in offsets if isinstance(pair, list) for end in pair if type(end) is int), default=0):
        raise ValueError("more bytes follow its tensors")  # any number of which the library would map
    return found


def _tensor_info(name: str, entry: Any) -> TensorInfo:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(n) is int and 0 <= n < 2**63 for n in shape)
    ):
        raise ValueError(f"its header gives no shape for {name}")
    return TensorInfo(str(entry.get("dtype")), tuple(shape))
