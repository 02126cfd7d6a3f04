"""Format of a file from its name and first bytes: JSON lines and parquet under any name, and what is surely no text."""

import codecs
import json
import os
import re
from pathlib import Path
from typing import Literal, TypeAlias

from groundup.errors import DataError
from groundup.sources.compression import COMPRESSED, open_decompressed

Format: TypeAlias = Literal["empty", "text", "jsonl", "parquet"]

HEAD_BYTES = 8192
ROWS_BYTES = 1 << 20  # looked at, and in them this many lines, to see whether every line is a JSON object
FIRST_ROWS = 10

TABLES: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
CODE = frozenset(
    ".py .pyi .pyx .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .java .kt .scala .js .jsx .mjs .ts .tsx .go .rs .rb .php .pl "
    ".pm .lua .r .jl .swift .m .mm .cs .fs .hs .ml .mli .clj .ex .exs .erl .lisp .scm .el .vim .sh .bash .zsh .ps1 "
    ".sql .html .htm .css .scss .vue .zig .nim .dart .f90 .asm .s .v .sv .vhd .proto .cmake".split()
)

# Suffixes of files that are surely not plain text, and how to get at their text.
NOT_TEXT = {
    ".arrow": "write its text column as .parquet or .jsonl",
    **dict.fromkeys(
        (".csv", ".tsv"),
        "write its text column as .jsonl, or give it as it is, separators included, on standard input",
    ),
    ".xz": "unpack it with: xz -d",
    ".bz2": "unpack it with: bunzip2",
    ".zip": "unpack it with: unzip",
    **dict.fromkeys((".tar", ".tgz"), "unpack it with: tar -xf"),
    ".pdf": "convert it with: pdftotext",
    **dict.fromkeys((".epub", ".docx", ".odt"), "convert it with: pandoc -t plain"),
    ".ipynb": "convert it with: jupyter nbconvert --to markdown",
    ".bin": "give the text that it was made from",
}

_PARQUET = b"PAR1\x15"  # and the first field of a page header: prose may begin with PAR1, a receptor's name
PACKED_PARQUET = "a parquet file is packed inside and read as it is; unpack this one first"

# First bytes, from a position on, of the same and others under any name.
_MAGIC = (
    (0, b"PK\x03\x04", "a zip archive, as .docx, .odt and .epub are", "unpack it with unzip, or: pandoc -t plain"),
    (0, b"%PDF-", "a PDF", "convert it with: pdftotext"),
    (0, b"{\\rtf", "RTF", "convert it with: pandoc -f rtf -t plain"),
    (0, b"SQLite format 3\0", "an SQLite database", "write its text column as .jsonl"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document", "save it as text"),
    (60, b"BOOKMOBI", "a Kindle book", "convert it with: ebook-convert"),
    (0, b"\xfd7zXZ\0", "an xz file", "unpack it with: xz -d"),
    (4, b"1AY&SY", "a bzip2 file", "unpack it with: bunzip2"),
    *((257, magic, "a tar archive", "unpack it with: tar -xf") for magic in (b"ustar\0", b"ustar  \0")),
)

# Text formats that are read as they are, and how to get at the text alone.
MARKUP = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), "pandoc -f html -t plain"),
    **dict.fromkeys((".srt", ".vtt"), "grep -v -e '^[0-9]*$' -e ' --> '"),
    ".xml": "xmllint --xpath 'string(/)'",
    **dict.fromkeys((".ps", ".eps"), "ps2ascii"),
}

# The beginning of a JSON document: an object, or an array of them.
_JSON = re.compile(rb'\s*(?:\[\s*)?\{\s*"[^"\n]*"\s*:')


def format_suffix(path: Path) -> str:
    """The suffix of the format, without that of the compression: `.jsonl` of `a.jsonl.gz`."""
    stem, suffix = os.path.splitext(path.name.lower())  # noqa: PTH122  # much faster than Path, and called for each file
    return os.path.splitext(stem)[1] if suffix in COMPRESSED else suffix  # noqa: PTH122


def is_binary(path: Path) -> bool:
    """Whether NUL is among the first bytes of a file."""
    with open_decompressed(path) as file:
        return b"\0" in file.read(HEAD_BYTES)


def identify(path: Path) -> Format:
    """Whether a file holds plain text or rows; of code, braces and quotes at its beginning mean nothing.

    Rows are JSON lines if each of its first lines is a JSON object; a byte order mark alone is no text. Raises
    DataError for what is surely neither.
    """
    suffix = format_suffix(path)
    if suffix in TABLES:
        return TABLES[suffix]
    with open_decompressed(path) as file:
        head = file.read(HEAD_BYTES)
    if head in (b"", codecs.BOM_UTF8):
        return "empty"
    if head.startswith(_PARQUET):
        with path.open("rb") as raw:
            if raw.read(len(_PARQUET)) == _PARQUET:
                return "parquet"
        raise DataError(f"{path}: {PACKED_PARQUET}")
    for at, magic, kind, remedy in _MAGIC:
        if head.startswith(magic, at):
            raise DataError(f"{path}: this is {kind}, which is not read as text; {remedy}")
    if b"\0" in head:
        return "text"  # to be refused with its position, as UTF-16 or as no text at all
    is_json = suffix == ".json" and head.strip() not in (b"", codecs.BOM_UTF8)
    if suffix in CODE or not (is_json or _JSON.match(head.removeprefix(codecs.BOM_UTF8))):
        return "text"
    with open_decompressed(path) as file:
        start, is_cut = file.read(ROWS_BYTES).removeprefix(codecs.BOM_UTF8), bool(file.read(1))
    lines = [line for line in start.split(b"\n") if line.strip()]
    complete = lines[:-1] if is_cut else lines
    if not complete and lines[0].lstrip().startswith(b"{"):
        return "jsonl"  # a longer row, which its reader parses
    values = [_parse(line) for line in complete[:FIRST_ROWS]]
    if values and all(isinstance(value, dict) and not rest for value, rest in values):
        return "jsonl"
    value, rest = _parse(start)
    if not is_json and value is not None and rest.lstrip(" \t\r").startswith("\n") and not _JSON.match(rest.encode()):
        return "text"  # prose after a JSON document, as in Markdown with metadata at its beginning
    raise DataError(
        f"{path}: begins as JSON does, but its lines are not objects, so it is not read as rows; write one object per "
        "line, for an array with: jq -c '.[]'; or, to read the JSON itself as one text, with: jq -Rsc '{text: .}'"
    )


def _parse(start: bytes) -> tuple[object, str]:
    """The JSON value at the beginning of a text, None where there is none, and what follows it."""
    text = start.decode("utf-8", "replace").strip()
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, text
    return value, text[end:]
