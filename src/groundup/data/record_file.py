"""Files of records, read piece by piece. Were they mapped, one that is cut short would end the process by SIGBUS."""

import os
import threading
import weakref
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from groundup.errors import DataError

REMEDY = "copy it again, or prepare again with --overwrite"

_SEEKING = threading.Lock()  # where the system cannot read at an offset, as on Windows


class RecordFile:
    """A file of `n` records, read as a one-dimensional array is: `len(file)`, `file[start:stop]`, `file[i]`."""

    def __init__(self, path: Path, dtype: np.dtype[Any], n: int) -> None:
        """OSError where the file cannot be opened."""
        self._path, self._dtype, self._n = path, dtype, n
        # Without O_NONBLOCK, opening a named pipe waits for a writer.
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._handle)
        if hasattr(os, "posix_fadvise"):  # a sequence is some kilobytes anywhere in gigabytes: no read-ahead
            os.posix_fadvise(self._handle, 0, 0, os.POSIX_FADV_RANDOM)

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: slice) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, index: int) -> Any: ...

    def __getitem__(self, index: slice | int) -> Any:
        """Records `start` to before `stop`, read-only, or one. DataError where they cannot be read any more."""
        if isinstance(index, int):
            return self[index : index + 1][0]
        start, stop, _ = index.indices(self._n)
        size = self._dtype.itemsize
        return np.frombuffer(self._read(max(0, stop - start) * size, start * size), self._dtype)

    def _read(self, n: int, offset: int) -> bytes:
        parts = []
        try:
            while n:  # one call reads 2 GB at most
                parts.append(part := _read_at(self._handle, n, offset))
                n, offset = n - len(part), offset + len(part)
                if not part:
                    found, expected = os.fstat(self._handle).st_size, self._n * self._dtype.itemsize
                    raise DataError(
                        f"{self._path}: {found} bytes now, and {expected} when it was opened: someone is changing the "
                        f"prepared data; {REMEDY}"
                    )
        except OSError as error:
            raise unreadable(self._path, error) from error
        return b"".join(parts)


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file of prepared data that the system cannot read."""
    return DataError(f"{path}: cannot be read ({error.strerror}); {REMEDY}")


def _read_at(handle: int, n: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, n, offset)
    with _SEEKING:
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, n)
