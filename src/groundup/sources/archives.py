"""Members of zip and tar files, in bounds: nothing is unpacked to a path that a file names.

Links and devices are left out, as are members that are encrypted. The number of bytes that an archive and those in it
may unpack to is bounded by the size of the outermost.
"""

import stat
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO, NamedTuple, cast
from zipfile import ZipFile, ZipInfo

from groundup.errors import DataError
from groundup.sources.compression import check_ratio
from groundup.sources.documents.zips import open_zip

MAX_DEPTH = 8  # archives in each other
MAX_HEADER_BYTES = 1 << 20  # of one tar header with its long names
MAX_REMEMBERED_NAMES = 1_000_000  # of a tar file, to see which come again
_TAR_BLOCK = 512

LINKS = "links and devices are left out"
UNREADABLE = "members packed in a way that is not read are left out"


class Budget:
    """Bytes that an archive of `packed` bytes, and those in it, may still unpack to."""

    def __init__(self, packed: int) -> None:
        self._packed, self._spent = packed, 0

    def spend(self, n: int, name: str) -> None:
        """Count `n` more bytes, unpacked of `name`. DataError if they are too many."""
        self._spent += n
        check_ratio(self._spent, self._packed, name)


class Member(NamedTuple):
    """A file in an archive. It must be read before the next is asked for."""

    name: str  # parts with `/` between them, none of which leads out of the archive
    open: Callable[[], IO[bytes]]


def zip_members(file: BinaryIO, name: str, found: Counter[str]) -> Iterator[Member]:
    """The members of a zip file in order of their names. Raises DataError for a damaged one."""
    with open_zip(file, name) as archive:
        members: dict[str, ZipInfo] = {}
        encrypted = ""  # the first
        for info in archive.infolist():
            if info.is_dir():
                continue
            inside = inner_name(_zip_name(info))
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                found[LINKS] += 1
            elif info.flag_bits & 0x1:
                encrypted = encrypted or inside
                found[f"encrypted members such as {encrypted} are left out"] += 1
            else:
                found["of members of one name, only the last is read"] += inside in members
                members[inside] = info
        for inside in sorted(members):
            yield Member(inside, _zip_opener(archive, members[inside]))


def tar_members(file: BufferedIOBase, name: str, budget: Budget, found: Counter[str]) -> Iterator[Member]:
    """The members of a tar file in its order, read forward only. Raises DataError for a damaged one."""
    forward = _Forward(file, name, budget)
    seen: set[int] = set()
    with _naming_damage(name), tarfile.open(fileobj=cast("IO[bytes]", forward), mode="r:") as archive:
        while (info := archive.next()) is not None:
            cast("Any", archive).members = []  # all would be kept
            if info.isdir():
                continue
            inside = inner_name(info.name)
            if not info.isreg() or info.issparse():
                found[LINKS] += 1
            elif hash(inside) in seen:
                found["of members of one name, only the first is read"] += 1
            else:
                if len(seen) < MAX_REMEMBERED_NAMES:
                    seen.add(hash(inside))
                yield Member(inside, _tar_opener(archive, info))
        if forward.last_block.strip(b"\0"):
            raise tarfile.ReadError("no header where one should be")


def inner_name(name: str) -> str:
    """The name of a member as text, without a root and without parts that lead out of the archive."""
    text = name.replace("\\", "/").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    parts = [part for part in text.split("/") if part not in ("", ".", "..")]
    return str(PurePosixPath(*parts)) if parts else "unnamed"


def _zip_name(info: ZipInfo) -> str:
    """Its name; where no flag says that it is UTF-8, many programs write UTF-8 all the same."""
    if info.flag_bits & 0x800:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def _zip_opener(archive: ZipFile, info: ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(info)


def _tar_opener(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        file = archive.extractfile(info)
        assert file is not None  # of a regular file
        return file

    return opened


@contextmanager
def _naming_damage(name: str) -> Iterator[None]:
    try:
        yield
    except (DataError, OSError):
        raise
    except Exception as error:  # of a header that is none, tarfile raises anything
        raise DataError(f"{name}: damaged or cut short as a tar file ({error}); get a complete copy of it") from None


class _Forward:
    """A file as `tarfile` reads it: forward only, as it may be compressed, and never much at once."""

    def __init__(self, file: BufferedIOBase, name: str, budget: Budget) -> None:
        self._file, self._name, self._budget = file, name, budget
        self._position = 0
        self.last_block = b""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        if whence or position < self._position:
            raise tarfile.ReadError("a size that leads back")
        if self._file.seekable():
            self._position = self._file.seek(position)
        while self._position < position and self.read(min(position - self._position, MAX_HEADER_BYTES)):
            pass
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError("a header that is too long")
        data = self._file.read(size)
        self._position += len(data)
        self._budget.spend(len(data), self._name)
        if size == _TAR_BLOCK:
            self.last_block = data
        return data
