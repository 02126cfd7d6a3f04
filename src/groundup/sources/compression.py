"""The bytes of a file, unpacked where it is packed, and how far into it one has read."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from groundup.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PACKED = (".gz", ".zst")

# The farthest that a frame may look back (`zstd --long=31`): the memory that it takes is what its writer asked for.
ZST_WINDOW = 1 << 31

# Packed bytes given to zstd at a time. Four of them can stand for a block of 128 kB (RFC 8878, section 3.1.1.2), so
# this bounds what one step unpacks, whatever the file holds, to 32 MB.
ZST_STEP = 1024


class ReadProgress:
    """How many bytes of a corpus have been read: the size of the files before this one, and the place in this one."""

    def __init__(self) -> None:
        self.before = 0
        self._tell: Callable[[], int] = lambda: 0

    def follow(self, tell: Callable[[], int]) -> None:
        """From now on `tell` knows the place in the file at hand."""
        self._tell = tell

    @property
    def at(self) -> int:
        """Bytes as they lie on disk, packed ones counted packed."""
        return self.before + self._tell()


@contextmanager
def open_decompressed(path: Path, gauge: ReadProgress | None = None) -> Iterator[io.BufferedIOBase]:
    """The bytes of a file, unpacked if it is a `.gz` or `.zst`. What goes wrong while reading becomes a DataError."""
    try:
        with path.open("rb") as raw, _unpacked(raw, path.suffix.lower()) as file:
            if gauge:
                gauge.follow(raw.tell)
            try:
                yield file
            finally:
                if gauge:
                    end = raw.tell()
                    gauge.follow(lambda: end)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        kind = "gzip" if path.suffix.lower() == ".gz" else "zstd"
        raise DataError(f"{path}: damaged or cut short as a {kind} file ({error}); get a whole copy of it") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from None


def _unpacked(raw: BinaryIO, suffix: str) -> io.BufferedIOBase:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if suffix == ".zst":
        return io.BufferedReader(_Zst(raw), buffer_size=1 << 16)
    return raw  # type: ignore[return-value]  # a buffered file is a BinaryIO to the library's types


class _Zst(io.RawIOBase):
    """A file of any number of zstd frames. EOFError where the last one is not whole.

    The library's own stream reader takes a file that was cut short for one that ends there.
    """

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        self._raw, self._error = raw, zstandard.ZstdError
        self._frame = zstandard.ZstdDecompressor(max_window_size=ZST_WINDOW).decompressobj
        self._unpacker = self._frame()
        self._begun = False  # a frame of which the end is still to come
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` with what comes next; returns how many bytes that were, 0 at the end."""
        while not self._ready:
            packed = self._unpacker.unused_data if self._unpacker.eof else b""
            if self._unpacker.eof:
                self._unpacker, self._begun = self._frame(), False
            packed = packed or self._raw.read(ZST_STEP)
            if not packed and self._begun:
                raise EOFError("it ends in the middle of a frame")
            if not packed:
                return 0
            try:
                self._ready, self._begun = memoryview(self._unpacker.decompress(packed)), True
            except self._error as error:
                raise EOFError(str(error)) from None
        display = memoryview(buffer).cast("B")
        n = min(len(display), len(self._ready))
        display[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n
