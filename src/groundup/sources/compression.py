"""Files read as bytes, decompressed if they are .gz or .zst, and how much of them has been read."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from typing_extensions import override

from groundup.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

COMPRESSED = (".gz", ".zst")

# The farthest that a frame may look back (`zstd --long=31`): the memory that it takes is what its writer asked for.
ZSTD_MAX_WINDOW_BYTES = 1 << 31

# Compressed bytes given to zstd at a time. Four of them can stand for a block of 128 kB (RFC 8878, section 3.1.1.2), so
# this bounds what one step decompresses, whatever the file holds, to 32 MB.
ZSTD_STEP_BYTES = 1024


class ReadProgress:
    """Bytes read of a corpus, as they lie on disk: of compressed files, compressed bytes."""

    def __init__(self) -> None:
        self.before = 0  # size of the files before the current one
        self.position: Callable[[], int] = lambda: 0  # in the current one

    @property
    def bytes_read(self) -> int:
        """Bytes up to the current position."""
        return self.before + self.position()


@contextmanager
def open_decompressed(path: Path, progress: ReadProgress | None = None) -> Iterator[io.BufferedIOBase]:
    """Open a file for reading bytes, decompressed if it is a `.gz` or `.zst`; errors of reading become DataError."""
    progress = progress or ReadProgress()
    try:
        with path.open("rb") as raw, _decompressed(raw, path.suffix.lower()) as file:
            progress.position = raw.tell
            try:
                yield file
            finally:
                end = raw.tell()
                progress.position = lambda: end
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        kind = "gzip" if path.suffix.lower() == ".gz" else "zstd"
        raise DataError(f"{path}: damaged or cut short as a {kind} file ({error}); get a complete copy of it") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from None


def _decompressed(raw: BinaryIO, suffix: str) -> io.BufferedIOBase:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if suffix == ".zst":
        return io.BufferedReader(_Zstd(raw), buffer_size=1 << 16)
    return raw  # type: ignore[return-value]  # a buffered file is a BinaryIO to the library's types


class _Zstd(io.RawIOBase):
    """A file of any number of zstd frames. EOFError if the last one is incomplete.

    The library's own stream reader takes a file that was cut short for one that ends there.
    """

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        self._raw, self._error = raw, zstandard.ZstdError
        self._frame = zstandard.ZstdDecompressor(max_window_size=ZSTD_MAX_WINDOW_BYTES).decompressobj
        self._decompressor, self._ready = self._frame(), memoryview(b"")
        self._in_frame = False  # the end of a frame is still to come

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._ready:
            compressed = self._decompressor.unused_data if self._decompressor.eof else b""
            if self._decompressor.eof:
                self._decompressor, self._in_frame = self._frame(), False
            compressed = compressed or self._raw.read(ZSTD_STEP_BYTES)
            if not compressed and self._in_frame:
                raise EOFError("it ends in the middle of a frame")
            if not compressed:
                return 0
            try:
                self._ready, self._in_frame = memoryview(self._decompressor.decompress(compressed)), True
            except self._error as error:
                raise EOFError(str(error)) from None
        view = memoryview(buffer).cast("B")
        n = min(len(view), len(self._ready))
        view[:n], self._ready = self._ready[:n], self._ready[n:]
        return n
