"""Documents and their text: UTF-8 decoding with located errors, JSON lines, and chunks that leave tokens unchanged."""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

from groundup.errors import DataError
from groundup.sources.compression import ReadProgress, open_decompressed

Errors: TypeAlias = Literal["strict", "replace"]

# Read at a time: long enough that the cost of a call vanishes. Preparations that were begun with another number cannot
# resume, since they count such chunks: `Journal.format` of groundup.preprocess.records changes with it.
CHUNK_BYTES = 1 << 20

# Characters without a single position to cut are cut anyway from this length on: what a tokenizer keeps of each may be
# half a kilobyte, and memory must not depend on what a file holds. Changed like the number above.
MAX_UNCUT_CHARS = 1 << 16

# Where a text may be cut without changing a single token: before a space that follows a visible character, and before
# a line end that follows a letter or a digit. The patterns of published tokenizers never join across such a point, and
# look neither before nor beyond it; some do join a line end with a punctuation mark before it. (What counts as white
# space is not quite the same everywhere; a space and line ends are, and so is whatever `\S` matches.)
_LAST_CUT = re.compile(r".*(?:\S(?= )|[^\W_](?=[\r\n]))", re.DOTALL)

# Where a text without such a position is cut, the best first: before any line end, as GPT-2's pattern allows, and where
# a word ends at a punctuation mark.
_FORCED_CUTS = [re.compile(r".*\S(?=[\r\n])", re.DOTALL), re.compile(r".*[^\W_](?=[^\w\s]|_)", re.DOTALL)]

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Document:
    """One text of a corpus. Each call of `chunks()` reads it from its beginning."""

    source: str  # short name of its file
    offset: int  # bytes (of a table: rows) from the beginning of that source to the document
    chunks: Callable[[], Iterator[str]]


def has_text(path: Path) -> bool:
    """Whether a file holds anything but a byte order mark."""
    with open_decompressed(path) as file:
        return file.read(len(codecs.BOM_UTF8) + 1) not in (b"", codecs.BOM_UTF8)


def read_text(
    path: Path, errors: Errors, chunk_bytes: int = CHUNK_BYTES, progress: ReadProgress | None = None
) -> Iterator[str]:
    """The text of a file in chunks of about `chunk_bytes`, cut where tokens do not change."""
    with open_decompressed(path, progress) as file:
        yield from rechunk(_decode(file, path, errors, chunk_bytes))


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
        text, forced = before + piece, length + len(piece) > MAX_UNCUT_CHARS
        matches = (pattern.match(text) for pattern in (_LAST_CUT, *(_FORCED_CUTS if forced else ())))
        cut = next((match.end() for match in matches if match), len(text) if forced else None)
        if cut is None:
            held.append(piece)
            length += len(piece)
        else:
            cut -= len(before)
            if chunk := "".join([*held, piece[:cut]]):
                yield chunk
            held, length = [piece[cut:]], len(piece) - cut
        before = piece[-1:] or before
    if rest := "".join(held):
        yield rest


def read_json_lines(
    path: Path, errors: Errors = "strict", start: int = 0, progress: ReadProgress | None = None
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The objects of a JSON lines file, each with its byte offset and a label (path and line number) for messages.

    Empty lines are skipped, lines before byte `start` not parsed. Raises DataError for a line that is no object.
    """
    offset = 0
    with open_decompressed(path, progress) as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if offset >= start and (stripped := text.rstrip()):
                label = f"{path}, line {number}"
                yield offset, label, _parse_object(stripped, errors, label)
            offset += len(line)


def read_jsonl(
    path: Path, column: str, errors: Errors, start: int = 0, progress: ReadProgress | None = None
) -> Iterator[tuple[int, str]]:
    """The field `column` of each line of a JSON lines file, with the line's byte offset, from byte `start` on.

    Lines whose field is empty or null are left out. Raises DataError for a line without such text.
    """
    for offset, label, record in read_json_lines(path, errors, start, progress):
        if text := _field(record, column, errors, label):
            yield offset, text


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`did you mean 'X'? ` for the closest of `names`; empty where none is close."""
    close = get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _decode(file: BufferedIOBase, path: Path, errors: Errors, chunk_bytes: int) -> Iterator[str]:
    """Decode UTF-8 block by block, without its byte order mark."""
    start = file.read(len(codecs.BOM_UTF8))
    _refuse_utf16(start, str(path))
    offset, line = 0, 1  # of the next block
    if start == codecs.BOM_UTF8:
        offset, start = len(start), b""
    start += file.read(chunk_bytes)  # together, so that a picture is called a picture before its first odd byte
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    rest = iter(lambda: file.read(chunk_bytes), b"")
    for block in chain([start], rest, [b""]):
        if b"\0" in block:
            raise DataError(
                f"{path}: byte {offset + block.index(0)} is NUL, so this is no text file; give text, as UTF-8"
            )
        pending, _ = decoder.getstate()  # the beginning of a character that the last block cut
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            at = line + error.object.count(b"\n", 0, error.start)
            _refuse_bytes(error, f"{path}: byte {offset - len(pending) + error.start} (line {at})")
        offset, line = offset + len(block), line + block.count(b"\n")
        if text:
            yield text


def _parse_object(line: bytes, errors: Errors, label: str) -> dict[str, Any]:
    _refuse_utf16(line, label)
    try:
        record = json.loads(line.decode("utf-8", errors))
    except UnicodeDecodeError as error:
        _refuse_bytes(error, f"{label}: byte {error.start} of the line")
    except json.JSONDecodeError as error:
        raise DataError(
            f"{label}: not valid JSON ({error.msg}, column {error.colno}); fix or remove the line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{label}: JSON that cannot be read ({error}); fix or remove the line") from None
    if not isinstance(record, dict):
        raise DataError(f"{label}: a JSON {type(record).__name__}; write an object, {{…}}")
    return record


def _field(record: dict[str, Any], column: str, errors: Errors, label: str) -> str | None:
    if column not in record:
        fields = ", ".join(map(repr, record)) or "none"
        hint = did_you_mean(column, record)
        raise DataError(f"{label}: no field {column!r}; {hint}fields are {fields}: choose one with --column")
    text = record[column]
    if text is None:
        return None
    if not isinstance(text, str):
        raise DataError(
            f"{label}: field {column!r} is not text but {type(text).__name__}; choose another with --column, "
            "or fix the line"
        )
    if found := _SURROGATE.search(text):
        if errors == "strict":
            raise DataError(
                f"{label}: the text holds U+{ord(found[0]):04X}, half of a surrogate pair, which is not a character; "
                "fix the line, or replace what is not valid with --errors replace"
            )
        text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
    return text


def _refuse_utf16(start: bytes, label: str) -> None:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{label}: this is UTF-16, not UTF-8; convert it with: iconv -f UTF-16 -t UTF-8")


def _refuse_bytes(error: UnicodeDecodeError, label: str) -> NoReturn:
    raise DataError(
        f"{label} is 0x{error.object[error.start]:02X}, which is not UTF-8 here ({error.reason}); "
        "convert the text with iconv, or replace what is not valid with --errors replace"
    ) from None
