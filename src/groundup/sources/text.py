"""Bytes on disk to text: decoding that says where it failed, and cuts that no tokenizer notices."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

from groundup.errors import DataError
from groundup.sources.compression import ReadProgress, open_decompressed

Errors: TypeAlias = Literal["strict", "replace"]

# Read at a time: long enough that the cost of a call vanishes. Preparations that were begun with another number cannot
# go on, since they count such chunks: `FORMAT` in groundup.preprocess.journal changes with it.
CHUNK_BYTES = 1 << 20

# Characters without a single place to cut are cut all the same from this length on: what a tokenizer keeps of each may
# be half a kilobyte, and memory must not depend on what a file holds. Changed like the number above.
LONGEST_UNCUT = 1 << 16

# Where a text may be cut without changing a single token: before a space that follows a visible character, and before
# a line end that follows a letter or a digit. The patterns of published tokenizers never join across such a point, and
# look neither before nor beyond it; some do join a line end with a punctuation mark before it. (What counts as white
# space is not quite the same everywhere; a space and line ends are, and so is whatever `\S` matches.)
_LAST_CUT = re.compile(r".*(?:\S(?= )|[^\W_](?=[\r\n]))", re.DOTALL)

# Where a text without such a place is cut, the best first: before any line end, as GPT-2's pattern allows, and where a
# word ends at a punctuation mark.
_FORCED_CUTS = [re.compile(r".*\S(?=[\r\n])", re.DOTALL), re.compile(r".*[^\W_](?=[^\w\s]|_)", re.DOTALL)]

_SURROGATE = re.compile("[\ud800-\udfff]")


def holds_text(path: Path) -> bool:
    """Whether there is anything in a file beyond a byte order mark."""
    with open_decompressed(path) as file:
        return file.read(len(codecs.BOM_UTF8) + 1) not in (b"", codecs.BOM_UTF8)


def read_text(
    path: Path, errors: Errors, chunk_bytes: int = CHUNK_BYTES, gauge: ReadProgress | None = None
) -> Iterator[str]:
    """The text of a file in chunks of about `chunk_bytes`, cut where no tokenizer notices."""
    with open_decompressed(path, gauge) as file:
        yield from cut_unnoticed(_decode(file, path, errors, chunk_bytes))


def cut_text(text: str, chunk_chars: int = CHUNK_BYTES) -> Iterator[str]:
    """A text in memory, in chunks of about `chunk_chars` characters, cut where no tokenizer notices."""
    return cut_unnoticed(text[i : i + chunk_chars] for i in range(0, len(text), chunk_chars))


def cut_unnoticed(pieces: Iterable[str]) -> Iterator[str]:
    """Shift the borders between `pieces` of a text back to where tokens cannot depend on them.

    Memory holds one piece and what follows the last such place, of which nothing is looked at twice; a stretch of
    more than `LONGEST_UNCUT` characters without such a place is cut at the next best one, or where it happens to be.
    """
    held: list[str] = []
    length = 0  # of what is held
    before = " "  # the character before the piece
    for piece in pieces:
        cut = _last_cut(before + piece, forced=length + len(piece) > LONGEST_UNCUT)
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


def _last_cut(text: str, *, forced: bool) -> int | None:
    """The last place to cut `text`, or None; where that is `forced` there always is one."""
    for pattern in (_LAST_CUT, *(_FORCED_CUTS if forced else ())):
        if match := pattern.match(text):
            return match.end()
    return len(text) if forced else None


def read_jsonl(
    path: Path, column: str, errors: Errors, since: int = 0, gauge: ReadProgress | None = None
) -> Iterator[tuple[int, str]]:
    """The field `column` of each line of a JSON lines file, with the line's byte offset. Lines whose field is empty or
    null are left out.

    Lines before the byte `since` are passed over without a look.
    """
    offset = 0
    with open_decompressed(path, gauge) as file:
        for number, line in enumerate(file, start=1):
            if offset >= since:
                record = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip()
                text = _field(record, column, errors, f"{path}:{number}") if record else ""
                if text:
                    yield offset, text
            offset += len(line)


def _decode(file: BufferedIOBase, path: Path, errors: Errors, chunk_bytes: int) -> Iterator[str]:
    """Decode UTF-8 piece by piece, without its byte order mark."""
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


def _field(line: bytes, column: str, errors: Errors, place: str) -> str:
    """The text in one line of JSON."""
    _refuse_utf16(line, place)
    try:
        record = json.loads(line.decode("utf-8", errors))
    except UnicodeDecodeError as error:
        _refuse_bytes(error, f"{place}: byte {error.start} of the line")
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: not valid JSON ({error.msg}, column {error.colno}); mend or remove the line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: JSON that cannot be read ({error}); mend or remove the line") from None
    text = _column(record, column, place) or ""
    if found := _SURROGATE.search(text):
        if errors == "strict":
            raise DataError(
                f"{place}: the text holds U+{ord(found[0]):04X}, half of a surrogate pair, which is not a character; "
                "mend the line, or replace what is not valid with --errors replace"
            )
        text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
    return text


def _column(record: Any, column: str, place: str) -> str | None:
    if not isinstance(record, dict):
        raise DataError(f"{place}: a JSON {type(record).__name__} where an object is due; write {{{column!r}: …}}")
    if column not in record:
        near = get_close_matches(column, record, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        fields = ", ".join(map(repr, record)) or "none"
        raise DataError(f"{place}: no field {column!r}; {hint}fields are {fields}: choose one with --column")
    text = record[column]
    if text is not None and not isinstance(text, str):
        raise DataError(
            f"{place}: field {column!r} is not text but {type(text).__name__}; choose another with --column, "
            "or mend the line"
        )
    return text


def _refuse_utf16(start: bytes, place: str) -> None:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{place}: this is UTF-16, not UTF-8; convert it with: iconv -f UTF-16 -t UTF-8")


def _refuse_bytes(error: UnicodeDecodeError, place: str) -> NoReturn:
    raise DataError(
        f"{place} is 0x{error.object[error.start]:02X}, which is not UTF-8 here ({error.reason}); "
        "convert the text with iconv, or replace what is not valid with --errors replace"
    ) from None
