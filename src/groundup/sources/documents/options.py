"""How documents are read: what a caller may choose, and the bounds of what a file may ask for."""

from collections import Counter
from dataclasses import dataclass
from typing import BinaryIO

from groundup.errors import DataError
from groundup.sources.encodings import Errors
from groundup.sources.text import MARK, MARKS, REPLACED, count_replaced, decode_utf8


@dataclass(frozen=True)
class ReadOptions:
    """Options of a reader."""

    column: str = "text"  # column or field that holds the text, in formats that have such
    errors: Errors = "strict"
    encoding: str | None = None  # of text that does not declare its own; None: UTF-8
    max_bytes: int = 256 << 20  # of one document, or of one part of it, in memory
    max_depth: int = 100  # of elements in each other, as in HTML, XML and JSON


class MissingColumnError(DataError):
    """A file is readable, but nothing in it is called as the column asked for; of a folder, it is left out."""


def read_bytes(file: BinaryIO, name: str, options: ReadOptions) -> bytes:
    """The rest of a file that is held in memory. Raises DataError if it is longer than `options.max_bytes`."""
    data = file.read(options.max_bytes + 1)
    if len(data) > options.max_bytes:
        raise DataError(
            f"{name}: longer than {options.max_bytes >> 20:,} MiB, the most that is read of one such document; split "
            "it, or convert it to plain text, which may have any length"
        )
    return data


def decode(data: bytes, name: str, options: ReadOptions, found: Counter[str]) -> str:
    """The text of `data`, without a byte order mark: UTF-8, or as `options.encoding` says.

    Raises DataError, with the place, for what is not valid, unless it is to be replaced, which is counted in `found`.
    """
    if options.encoding:
        try:
            text = data.decode(options.encoding, options.errors)
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{name}: byte {error.start} (line {line}) is 0x{data[error.start]:02X}, which is not "
                f"{options.encoding}; name another --encoding, or replace what is not valid with --errors replace"
            ) from None
        n_replaced = text.count("\N{REPLACEMENT CHARACTER}") if options.errors == "replace" else 0
    else:
        text = decode_utf8(data, name, options.errors)
        n_replaced = count_replaced(data, text)
    text = text.removeprefix(MARK)
    for finding, n in ((REPLACED, n_replaced), (MARKS, text.count(MARK))):
        if n:
            found[finding] += n
    return text
