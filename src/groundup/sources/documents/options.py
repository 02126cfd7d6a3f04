"""How documents are read: what a caller may choose, and the bounds of what a file may ask for."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import BinaryIO, cast

from groundup.errors import DataError
from groundup.sources.encodings import Errors
from groundup.sources.text import (
    CHUNK_BYTES,
    MARK,
    MARKS,
    MAX_ROW_BYTES,
    REPLACED,
    count_replaced,
    decode_opened,
    decode_utf8,
    recode,
)


@dataclass(frozen=True)
class ReadOptions:
    """Options of a reader."""

    column: str = "text"  # column or field that holds the text, in formats that have such
    errors: Errors = "strict"
    encoding: str | None = None  # of text that does not declare its own; None: UTF-8
    max_bytes: int = 256 << 20  # of one document, or of one part of it, in memory
    max_depth: int = 100  # of elements in each other, as in HTML, XML and JSON


class NoTextError(DataError):
    """The text of a file cannot be had: a scan, a password, DRM, an old format; of a folder, it is left out."""


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
    count(found, REPLACED, n_replaced)
    count(found, MARKS, text.count(MARK))
    return text


def decode_pieces(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """Like `decode`, of a file of any length, in pieces. Memory holds one of them."""

    @contextmanager
    def reopen() -> Iterator[Iterable[bytes]]:
        file.seek(0)
        yield iter(lambda: file.read(CHUNK_BYTES), b"")

    add = partial(count, found)
    opened = recode(cast("io.BufferedIOBase", file), name, options.encoding, options.errors, add)
    yield from decode_opened(opened, name, options.errors, CHUNK_BYTES, add, reopen)


def split_lines(pieces: Iterable[str], name: str) -> Iterator[str]:
    """The lines of a text with their ends, each of them LF: CRLF and CR count as one, other characters do not.

    Raises DataError for a line of more than `MAX_ROW_BYTES` characters.
    """
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    held: list[str] = []  # the beginning of a line
    length = number = 0
    for piece in chain(pieces, [None]):
        text = newlines.decode(piece or "", final=piece is None)
        if n := text.count("\n"):
            end = text.rindex("\n") + 1
            yield from io.StringIO("".join([*held, text[:end]]), newline="\n")
            held, length, number, text = [], 0, number + n, text[end:]
        held.append(text)
        length += len(text)
        if length > MAX_ROW_BYTES:
            raise DataError(f"{name}, line {number + 1}: longer than {MAX_ROW_BYTES:,} characters; split it")
    if last := "".join(held):
        yield last


def join(parts: Iterable[str], name: str, options: ReadOptions) -> str:
    """One document of its parts. Raises DataError for more than `options.max_bytes` characters."""
    kept, length = list[str](), 0
    for part in parts:
        kept.append(part)
        length += len(part)
        if length > options.max_bytes:
            raise DataError(
                f"{name}: a document of more than {options.max_bytes:,} characters, the most that is held in memory; "
                "split it, or convert it to plain text, which may have any length"
            )
    return "".join(kept)


def count(found: Counter[str], finding: str, n: int = 1) -> None:
    """Add `n` to a finding, which is not named where there is nothing to tell."""
    if n:
        found[finding] += n
