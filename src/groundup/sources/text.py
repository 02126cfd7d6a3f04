"""Documents and their text: UTF-8 decoding with located errors, JSON lines, and chunks that leave tokens unchanged."""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from io import BufferedIOBase, BufferedReader
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from groundup.errors import DataError
from groundup.sources.compression import ReadProgress, open_decompressed
from groundup.sources.encodings import Errors, Recoded, advice, mark_of, offer, utf16_without_mark

# Read at a time: long enough that the cost of a call vanishes. Preparations that were begun with another number cannot
# resume, since they count such chunks: `Journal.format` of groundup.preprocess.records changes with it.
CHUNK_BYTES = 1 << 20

# Characters without a single position to cut are cut anyway from this length on: what a tokenizer keeps of each may be
# half a kilobyte, and memory must not depend on what a file holds. Changed like the number above.
MAX_UNCUT_CHARS = 1 << 16

# A JSON lines row is held in memory, several times over while it is parsed. Each value takes up to 100 bytes more.
MAX_ROW_BYTES = 128 << 20
MAX_ROW_VALUES = 4_000_000
_VALUE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{,]', re.DOTALL)  # a text, or what begins or parts other values

# Where a text may be cut without changing a single token: before a space that follows a visible character, and before
# a line end that follows a letter or a digit. The patterns of published tokenizers never join across such a point, and
# look neither before nor beyond it; some do join a line end with a punctuation mark before it. (What counts as white
# space is not quite the same everywhere; a space and line ends are, and so is whatever `\S` matches.)
# These patterns are for reversed text, whose first match is the last cut: `.*` at the front of a pattern would find it
# by backtracking, ten times as slowly where there is none.
_LAST_CUT = re.compile(r" (?=\S)|[\r\n](?=[^\W_])")

# Where a text without such a position is cut, the best first: before any line end, as GPT-2's pattern allows, and where
# a word ends at a punctuation mark.
_FORCED_CUTS = [re.compile(r"[\r\n](?=\S)"), re.compile(r"(?:[^\w\s]|_)(?=[^\W_])")]

Reopen: TypeAlias = Callable[[], AbstractContextManager[Iterable[bytes]]]  # the blocks of a file from its beginning

REPLACEMENT, MARK = "\N{REPLACEMENT CHARACTER}", "\N{ZERO WIDTH NO-BREAK SPACE}"
REPLACED = "characters that are not valid were replaced by U+FFFD"
MARKS = "byte order marks (U+FEFF) stand inside the text and are kept"


@dataclass(frozen=True)
class Document:
    """One text of a corpus. Each call of `chunks()` reads it from its beginning."""

    source: str  # short name of its file
    offset: int  # bytes (of a table: rows) from the beginning of that source to the document
    chunks: Callable[[], Iterator[str]]


@contextmanager
def open_text(
    path: Path, progress: ReadProgress | None = None, encoding: str | None = None, errors: Errors = "strict"
) -> Iterator[BufferedIOBase]:
    """Open a text file for reading UTF-8, whatever its `encoding` is on disk; a byte order mark takes precedence."""
    with open_decompressed(path, progress) as file:
        yield recode(file, str(path), encoding, errors, (progress or ReadProgress()).count)


def recode(
    file: BufferedIOBase, label: str, encoding: str | None, errors: Errors, count: Callable[[str, int], None]
) -> BufferedIOBase:
    """An opened text file as UTF-8, whatever its `encoding` is; `count` gets what was replaced."""
    if encoding is None:
        return file
    start = file.read(len(codecs.BOM_UTF32_LE))
    if not encoding.startswith(("utf-16", "utf-32")):
        _refuse_other_encoding(start, label)
    if start.startswith(codecs.BOM_UTF8):
        encoding = "utf-8"
    return BufferedReader(Recoded(file, start, encoding, errors, label, lambda n: count(REPLACED, n)))


def decode_file(
    path: Path,
    errors: Errors,
    chunk_bytes: int = CHUNK_BYTES,
    progress: ReadProgress | None = None,
    encoding: str | None = None,
) -> Iterator[str]:
    """The text of a file in pieces, wherever its blocks end. Raises DataError, with the place, for what is not text."""
    progress = progress or ReadProgress()
    with open_text(path, progress, encoding, errors) as file:
        yield from decode_opened(file, path, errors, chunk_bytes, progress.count)


def chunk_text(text: str, chunk_chars: int = CHUNK_BYTES) -> Iterator[str]:
    """A text in memory, in chunks of about `chunk_chars` characters, cut where tokens do not change."""
    return rechunk(text[i : i + chunk_chars] for i in range(0, len(text), chunk_chars))


def rechunk(pieces: Iterable[str]) -> Iterator[str]:
    """Shift the borders between `pieces` of a text back to positions that tokens cannot depend on.

    Memory holds one piece and what follows the last such position, and no character is searched twice; a stretch of
    more than `MAX_UNCUT_CHARS` characters without such a position is cut at the next best one, or where it happens to
    be.
    """
    held: list[str] = []
    length = 0  # of what is held
    before = " "  # the character before the piece
    for piece in pieces:
        forced = length + len(piece) > MAX_UNCUT_CHARS
        after = _chars_after_cut(before + piece, forced)
        if after is None:
            held.append(piece)
            length += len(piece)
        else:
            cut = len(piece) - after
            if chunk := "".join([*held, piece[:cut]]):
                yield chunk
            held, length = [piece[cut:]], len(piece) - cut
        before = piece[-1:] or before
    if rest := "".join(held):
        yield rest


def _chars_after_cut(text: str, forced: bool) -> int | None:
    """How many characters of `text` follow the last position to cut; None if there is none, 0 if `forced`."""
    spaced = any(char in text for char in " \r\n")  # much faster to see than that no pattern matches
    patterns = [_LAST_CUT] if spaced else []
    if forced:
        patterns += [*(_FORCED_CUTS[:1] if spaced else ()), *(() if text.isalnum() else _FORCED_CUTS[1:])]
    reverse = text[::-1] if patterns else ""
    matches = (pattern.search(reverse) for pattern in patterns)
    return next((match.start() + 1 for match in matches if match), 0 if forced else None)


def read_json_lines(
    path: Path,
    errors: Errors = "strict",
    start: int = 0,
    progress: ReadProgress | None = None,
    encoding: str | None = None,
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The objects of a JSON lines file, each with its byte offset and a label (path and line number) for messages.

    Empty lines are skipped, lines before byte `start` not parsed. Raises DataError for a line that is no object, or
    has more than `MAX_ROW_BYTES` or `MAX_ROW_VALUES`.
    """
    for offset, label, value in read_json_values(path, errors, start, progress, encoding):
        if not isinstance(value, dict):
            raise DataError(f"{label}: a JSON {type(value).__name__}; write an object, {{…}}")
        yield offset, label, value


def read_json_values(
    path: Path,
    errors: Errors = "strict",
    start: int = 0,
    progress: ReadProgress | None = None,
    encoding: str | None = None,
) -> Iterator[tuple[int, str, Any]]:
    """Like `read_json_lines`, for lines of any JSON value."""
    offset, progress = 0, progress or ReadProgress()
    with open_text(path, progress, encoding, errors) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_ROW_BYTES + 1), b""), start=1):
            label = f"{path}, line {number}"
            if len(line) > MAX_ROW_BYTES:
                raise DataError(
                    f"{label}: longer than {MAX_ROW_BYTES:,} bytes, the most that a row may have; split it, or write "
                    "its text to a file of its own, which may have any length"
                )
            row = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if offset >= start and (stripped := row.rstrip()):
                if has_too_many_values(stripped):
                    raise DataError(
                        f"{label}: more than {MAX_ROW_VALUES:,} values, the most that a row may have; split it, or "
                        "leave out what is not its text"
                    )
                text = _decode_line(stripped, errors, label, path)
                progress.count(REPLACED, count_replaced(stripped, text))
                yield offset, label, _parse_json(text, label)
            offset += len(line)


def decode_utf8(data: bytes, label: str, errors: Errors) -> str:
    """UTF-8 in memory as text, its byte order mark included. Raises DataError that names byte and line."""
    _refuse_other_encoding(data, label)
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        place = f"{label}: byte {error.start} (line {data.count(10, 0, error.start) + 1})"
        _refuse_bytes(error, place, lambda: nullcontext([data]))


def count_replaced(data: bytes, text: str) -> int:
    """How many characters of `text`, decoded from `data`, stand for bytes that are not UTF-8."""
    n = text.count(REPLACEMENT)
    return n and n - data.count(REPLACEMENT.encode())


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`did you mean 'X'? ` for the closest of `names`; empty where none is close."""
    close = get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def decode_opened(
    file: BufferedIOBase,
    path: Path | str,
    errors: Errors,
    chunk_bytes: int,
    count: Callable[[str, int], None],
    reopen: Reopen | None = None,
) -> Iterator[str]:
    """Decode UTF-8 block by block, without its byte order mark; `count` gets what was replaced.

    Raises DataError, with the place in `path` and, from `reopen`, an advice about the encoding.
    """
    start = file.read(len(codecs.BOM_UTF32_LE))
    _refuse_other_encoding(start, str(path))
    offset = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
    start = start[offset:] + file.read(chunk_bytes)  # together, so that a picture is called a picture before a byte
    blocks = chain([start], iter(lambda: file.read(chunk_bytes), b""))
    yield from decode_blocks(blocks, path, errors, count, offset, reopen=reopen)


def decode_blocks(
    blocks: Iterable[bytes],
    path: Path | str,
    errors: Errors,
    count: Callable[[str, int], None],
    offset: int = 0,
    line: int = 1,
    reopen: Reopen | None = None,
) -> Iterator[str]:
    """Decode UTF-8 that comes in blocks, the first of which begins at byte `offset` of a file, in `line`."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    begins = offset
    for block in chain(blocks, [b""]):
        if b"\0" in block:
            _refuse_nul(block, offset, path, is_first=offset == begins)
        pending, _ = decoder.getstate()  # the beginning of a character that the last block cut
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            at = line + error.object.count(b"\n", 0, error.start)
            place = f"{path}: byte {offset - len(pending) + error.start} (line {at})"
            _refuse_bytes(error, place, reopen or (lambda: _pieces(Path(path))))
        offset, line = offset + len(block), line + block.count(b"\n")
        count(REPLACED, count_replaced(pending + block, text))
        count(MARKS, text.count(MARK))
        if text:
            yield text


def has_too_many_values(line: bytes) -> bool:
    """Whether JSON, complete or cut, has more than `MAX_ROW_VALUES`."""
    return len(line) > MAX_ROW_VALUES and any(islice(_VALUE.finditer(line), MAX_ROW_VALUES, None))


def _decode_line(line: bytes, errors: Errors, label: str, path: Path) -> str:
    _refuse_other_encoding(line, label)
    try:
        return line.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        _refuse_bytes(error, f"{label}: byte {error.start} of the line", lambda: _pieces(path))


def _parse_json(line: str, label: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        remedy = "fix or remove the line"
        if "\r" in line[: error.pos + 1]:
            remedy = "lines must end in LF and not in CR alone: convert them with: tr '\\r' '\\n'"
        raise DataError(f"{label}: not valid JSON ({error.msg}, column {error.colno}); {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{label}: JSON that cannot be read ({error}); fix or remove the line") from None


@contextmanager
def _pieces(path: Path) -> Iterator[Iterable[bytes]]:
    with open_decompressed(path) as file:
        yield iter(lambda: file.read(CHUNK_BYTES), b"")


def _refuse_other_encoding(start: bytes, label: str) -> None:
    if codec := mark_of(start):
        raise DataError(f"{label}: not UTF-8; {offer(codec)}")


def _refuse_nul(block: bytes, offset: int, path: Path | str, *, is_first: bool) -> NoReturn:
    """Raise DataError for a block that holds NUL; `offset` is its position in the file."""
    at = offset + block.index(0)
    codec = utf16_without_mark(block) if is_first else None
    if codec:
        raise DataError(f"{path}: byte {at} is NUL, which text in UTF-8 has not; {offer(codec)}")
    raise DataError(
        f"{path}: byte {at} is NUL, so this is no text file; give text, or remove the NULs of a damaged one with: "
        "tr -d '\\000'"
    )


def _refuse_bytes(error: UnicodeDecodeError, label: str, reopen: Reopen) -> NoReturn:
    raise DataError(
        f"{label} is 0x{error.object[error.start]:02X}, which is not UTF-8 here ({error.reason}); {advice(reopen)}, "
        "or replace what is not valid with --errors replace"
    ) from None
