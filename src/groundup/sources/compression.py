"""Files read as bytes, decompressed if their first bytes are those of gzip or zstd, and what was found in them."""

from __future__ import annotations

import errno
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import TYPE_CHECKING, Any, BinaryIO

from typing_extensions import override

from groundup.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}

# First bytes of a file: the content decides, whatever it is called, and a pipe has no name. (zstd may begin with a
# frame that is skipped.)
_MAGIC = {
    "gzip": (b"\x1f\x8b",),
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + i, 0x2A, 0x4D, 0x18)) for i in range(16))),
}

# The farthest that a frame may look back (`zstd --long=31`): the memory that it takes is what its writer asked for.
ZSTD_MAX_WINDOW_BYTES = 1 << 31

# Compressed bytes given to a library at a time. In zstd four of them can stand for a block of 128 kB (RFC 8878, section
# 3.1.1.2), in gzip one for 1032 bytes, so this bounds what one step decompresses, whatever the file holds, to 32 MB.
STEP_BYTES = {"gzip": 1 << 14, "zstd": 1 << 10}

# What is copied while it is unpacked may be this much larger than it is packed, from this size on.
MAX_RATIO = 250
MIN_RATIO_BYTES = 16 << 20

MAX_PADDING_BYTES = 1 << 20  # zeros after gzip members, as the blocks of tapes leave them


class ReadProgress:
    """Bytes of a corpus read so far, as on disk (of compressed files, compressed bytes), and findings about them.

    A file may be read several times; what is counted of it is what one reading found.
    """

    def __init__(self) -> None:
        self.before = 0  # size of the files before the current one
        self.position: Callable[[], int] = lambda: 0  # in the current one
        self.found: dict[Path, Counter[str]] = {}  # file -> a finding, as a clause without its number -> how often
        self._path, self._counts = Path(), Counter[str]()  # of the current reading

    @property
    def bytes_read(self) -> int:
        """Bytes up to the current position."""
        return self.before + self.position()

    def begin(self, path: Path) -> None:
        """Start to count what a reading of `path` finds."""
        self._path, self._counts = path, Counter()

    def take(self, found: Counter[str]) -> None:
        """Move all that a reader has `found` to the current reading."""
        for finding, n in found.items():
            self.count(finding, n)
        found.clear()

    def count(self, finding: str, n: int) -> None:
        """Add `n` to a finding of the current reading."""
        if n:
            self._counts[finding] += n
            self.found[self._path] = self.found.get(self._path, Counter()) | self._counts


@contextmanager
def open_decompressed(path: Path, progress: ReadProgress | None = None) -> Iterator[io.BufferedIOBase]:
    """Open a file for reading bytes, decompressed if it is packed; errors of reading become DataError."""
    progress, kind = progress or ReadProgress(), None
    progress.begin(path)
    try:
        with path.open("rb") as raw:
            kind = compression_kind(raw.peek(4)[:4])
            _check_suffix(path, kind, is_empty=not raw.peek(1))
            with _decompressed(raw, kind) as file:
                progress.position = raw.tell
                try:
                    yield file
                finally:
                    end = raw.tell()
                    progress.position = lambda: end
    except EOFError as error:
        raise DataError(f"{path}: damaged or cut short as a {kind} file ({error}); get a complete copy of it") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from None


@contextmanager
def open_unpacked(path: Path, progress: ReadProgress | None = None) -> Iterator[BinaryIO]:
    """`open_decompressed` for readers that seek: what is packed is unpacked to a temporary file."""
    with open_decompressed(path, progress) as file:
        if file.seekable():
            yield file  # type: ignore[misc]  # a buffered file is a BinaryIO to the library's types
            return
        with TemporaryFile(prefix="groundup-") as copy:
            copy_bounded(file, copy, str(path), path.stat().st_size)
            copy.seek(0)
            yield copy


def copy_bounded(source: BinaryIO | io.BufferedIOBase, copy: BinaryIO, name: str, packed: int | None = None) -> None:
    """Copy a stream to a temporary file. DataError where that is full, or the stream unpacks to far too much."""
    size = 0
    with writing_copy(name):
        while block := source.read(1 << 20):
            size += len(block)
            if packed is not None:
                check_ratio(size, packed, name)
            copy.write(block)
        copy.flush()


@contextmanager
def writing_copy(name: str) -> Iterator[None]:
    """DataError where there is no room for a temporary copy of `name`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            f"{name}: a copy of it does not fit into {gettempdir()} ({error.strerror}); name a folder with more room "
            "in the environment variable TMPDIR"
        ) from None


def check_ratio(size: int, packed: int, name: str) -> None:
    """DataError if what is unpacked of a file so far is too large for its packed size, as in a decompression bomb."""
    if size > MIN_RATIO_BYTES and size > MAX_RATIO * packed:
        raise DataError(
            f"{name}: unpacks to more than {MAX_RATIO} times its size, as no text does; remove it from the sources"
        )


def compression_kind(start: bytes) -> str | None:
    """`gzip`, `zstd` or None, from the first bytes of a file."""
    return next((kind for kind, magic in _MAGIC.items() if start.startswith(magic)), None)


def _check_suffix(path: Path, kind: str | None, *, is_empty: bool) -> None:
    expected = COMPRESSED.get(path.suffix.lower())
    if expected and kind is None and not is_empty:
        raise DataError(
            f"{path}: not packed with {expected}, or damaged at its beginning; if it is plain text, take "
            f"{path.suffix} off its name, otherwise get a complete copy of it"
        )


def _decompressed(raw: BinaryIO, kind: str | None) -> io.BufferedIOBase:
    if kind:
        return io.BufferedReader(_Frames(raw, kind), buffer_size=1 << 16)
    return raw  # type: ignore[return-value]  # a buffered file is a BinaryIO to the library's types


class _Frames(io.RawIOBase):
    """A file of any number of zstd frames or gzip members. EOFError if the last one is incomplete.

    zstandard's own stream reader takes a file that was cut short for one that ends there, and Python's GzipFile skips
    zeros after the last member, which tapes have there, one byte at a time.
    """

    def __init__(self, raw: BinaryIO, kind: str) -> None:
        self._raw, self._step_bytes = raw, STEP_BYTES[kind]
        self._padding, self._error, self._frame = _codec(kind)
        self._decompressor, self._ready = self._frame(), memoryview(b"")
        self._in_frame = False  # the end of a frame is still to come
        self._n_padding = 0  # bytes between frames

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._ready:
            compressed = self._decompressor.unused_data if self._decompressor.eof else b""
            if self._decompressor.eof:
                self._decompressor, self._in_frame = self._frame(), False
            compressed = compressed or self._raw.read(self._step_bytes)
            if not compressed and self._in_frame:
                raise EOFError("it ends in the middle of a frame")
            if not compressed:
                return 0
            if not self._in_frame:
                n, compressed = len(compressed), compressed.lstrip(self._padding)
                self._n_padding += n - len(compressed)
                if self._n_padding > MAX_PADDING_BYTES:
                    raise EOFError(f"more than {MAX_PADDING_BYTES:,} zeros follow its end")
                if not compressed:
                    continue
            try:
                self._ready, self._in_frame = memoryview(self._decompressor.decompress(compressed)), True
            except self._error as error:
                raise EOFError(str(error)) from None
        view = memoryview(buffer).cast("B")
        n = min(len(view), len(self._ready))
        view[:n], self._ready = self._ready[:n], self._ready[n:]
        return n


def _codec(kind: str) -> tuple[bytes, type[Exception], Callable[[], Any]]:
    """Bytes that may stand between frames, the library's error, and what makes a decompressor of one frame."""
    if kind == "gzip":
        return b"\0", zlib.error, partial(zlib.decompressobj, wbits=16 + zlib.MAX_WBITS)
    import zstandard

    frame = zstandard.ZstdDecompressor(max_window_size=ZSTD_MAX_WINDOW_BYTES).decompressobj
    return b"", zstandard.ZstdError, frame
