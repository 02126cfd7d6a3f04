"""Zip files, also those that EPUB, DOCX and ODT are, opened and read with bounds."""

import struct
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile, ZipInfo

from groundup.errors import DataError
from groundup.sources.compression import check_ratio

MAX_MEMBERS = 250_000
MAX_DIRECTORY_BYTES = 64 << 20  # names and sizes of all members, held in memory

_END = struct.Struct("<4s4H2LH")  # end of the central directory (APPNOTE 4.3.16)
_MAX_COMMENT = (1 << 16) - 1


def open_zip(file: BinaryIO, name: str) -> ZipFile:
    """A zip file. Raises DataError if it is damaged, or its list of members is too long."""
    size = file.seek(0, 2)
    file.seek(max(size - _END.size - _MAX_COMMENT, 0))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise DataError(f"{name}: damaged or cut short as a zip file (its end is missing); get a complete copy of it")
    *_, directory_bytes, _, _ = _END.unpack_from(tail, at)
    zip64 = tail.rfind(b"PK\6\6", 0, at)
    if zip64 >= 0 and len(tail) - zip64 >= 56:
        directory_bytes = max(directory_bytes % 0xFFFFFFFF, struct.unpack_from("<Q", tail, zip64 + 40)[0])
    if directory_bytes > MAX_DIRECTORY_BYTES:
        raise DataError(f"{name}: a zip file with too many members to read; unpack it, and give the folder")
    try:
        opened = ZipFile(file)
    except (BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise DataError(f"{name}: damaged or cut short as a zip file ({error}); get a complete copy of it") from None
    if len(opened.infolist()) > MAX_MEMBERS:
        raise DataError(f"{name}: a zip file with more than {MAX_MEMBERS:,} members; unpack it, and give the folder")
    return opened


def read_member(archive: ZipFile, member: str | ZipInfo, name: str, limit: int) -> bytes:
    """The content of a member of at most `limit` bytes. Raises DataError, also for one that is damaged or encrypted.

    KeyError if there is none of that name.
    """
    info = member if isinstance(member, ZipInfo) else archive.getinfo(member)
    label = f"{name}/{info.filename}"
    if info.flag_bits & 0x1:
        raise DataError(f"{label}: is encrypted; give a copy without a password")
    if info.file_size > limit:
        raise DataError(f"{label}: longer than {limit >> 20:,} MiB, the most that is read of it")
    check_ratio(info.file_size, info.compress_size, label)
    try:
        with archive.open(info) as file:
            data = file.read(limit + 1)
    except Exception as error:  # zlib, lzma and bz2 raise errors of their own, zipfile four kinds
        raise DataError(f"{label}: damaged in the zip file ({error}); get a complete copy of it") from None
    if len(data) > limit:
        raise DataError(f"{label}: longer than {limit >> 20:,} MiB, the most that is read of it")
    return data
