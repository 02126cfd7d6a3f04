"""Format of a file, from its first bytes and then from its name: text, rows, documents, and what is surely no text."""

import codecs
import json
import os
import re
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from groundup.errors import DataError
from groundup.sources.compression import COMPRESSED, open_decompressed
from groundup.sources.documents import FORMATS
from groundup.sources.documents.chats import looks_like_whatsapp
from groundup.sources.documents.slack import export_root
from groundup.sources.documents.zips import open_zip, read_member
from groundup.sources.text import open_text

Rows: TypeAlias = Literal["jsonl", "parquet"]
Format: TypeAlias = str  # empty, text, rows, an archive, or a key of `groundup.sources.documents.FORMATS`

HEAD_BYTES = 8192
ROWS_BYTES = 1 << 20  # looked at, and in them this many lines, to see whether lines are JSON objects
FIRST_ROWS = 10

ARCHIVES = {"zip": (".zip",), "tar": (".tar", ".tgz")}
TABLES: dict[str, Rows] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
CODE = frozenset(
    ".py .pyi .pyx .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .java .kt .scala .js .jsx .mjs .ts .tsx .go .rs .rb .php .pl "
    ".pm .lua .r .jl .swift .m .mm .cs .fs .hs .ml .mli .clj .ex .exs .erl .lisp .scm .el .vim .sh .bash .zsh .ps1 "
    ".sql .css .scss .vue .zig .nim .dart .f90 .asm .s .v .sv .vhd .proto .cmake".split()
)
SUFFIXES: dict[str, Format] = {
    **TABLES,
    **{suffix: kind for kind, row in FORMATS.items() for suffix in row.suffixes},
    **{suffix: kind for kind, names in ARCHIVES.items() for suffix in names},
}
"""The format of each suffix but those of text."""

# Text formats that are read as they are, and how to get at the text alone.
MARKUP = {".xml": "xmllint --xpath 'string(/)'", **dict.fromkeys((".ps", ".eps"), "ps2ascii")}

# Suffixes of files that are surely not plain text, and how to get at their text.
NOT_TEXT = {
    ".arrow": "write its text column as .parquet or .jsonl",
    ".xz": "unpack it with: xz -d",
    ".bz2": "unpack it with: bunzip2",
    ".bin": "give the text that it was made from",
    **dict.fromkeys((".msg", ".emlx"), "save the message as .eml"),
    ".pst": "export its mail as .mbox or .eml",
}

_PARQUET = b"PAR1\x15"  # and the first field of a page header: prose may begin with PAR1, a receptor's name
PACKED_PARQUET = "a parquet file is packed inside and read as it is; unpack this one first"

# First bytes, from a position on, of the same and others under any name: format, what it is, how to get at its text.
_MAGIC = (
    (0, b"%PDF-", "pdf", "a PDF", ""),
    (0, b"{\\rtf", "rtf", "RTF", ""),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "office", "an Office document", ""),
    (0, b"SQLite format 3\0", "", "an SQLite database", "write its text column as .jsonl"),
    (60, b"BOOKMOBI", "", "a Kindle book", "convert it with: ebook-convert"),
    (0, b"\xfd7zXZ\0", "", "an xz file", "unpack it with: xz -d"),
    (4, b"1AY&SY", "", "a bzip2 file", "unpack it with: bunzip2"),
    *((257, magic, "tar", "a tar archive", "unpack it with: tar -xf") for magic in (b"ustar\0", b"ustar  \0")),
)

# The same of text: what a file of any name begins with, if it is such a document.
_BEGINS = {
    "html": re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--([^-]|-(?!->))*-->\s*)*<(!doctype\s+html|html)\b", re.IGNORECASE),
    "subtitles": re.compile(rb"WEBVTT[ \t\r\n]|\s*\d+[ \t]*\r?\n\d+:\d\d:\d\d[,.]\d{3} --> "),
    "mbox": re.compile(rb"From \S++(?=[^\r\n]*\d{4})[^\r\n]*+\r?\n([A-Za-z][\w-]*:[^\r\n]*\r?\n|>From [^\r\n]*\r?\n)"),
}

# Zip files whose first member says what they are, and those that one member tells.
_ZIP_MIMETYPES = {b"application/epub+zip": "epub", b"application/vnd.oasis.opendocument.text": "odt"}
_ZIP_MEMBERS = {
    "META-INF/container.xml": "epub",
    "word/document.xml": "docx",
    "xl/workbook.xml": "",
    "ppt/presentation.xml": "",
}

# A message in a Maildir folder: the time it came, in seconds, and whatever the program wrote after it.
_MAILDIR_NAME = re.compile(r"1\d{9}[._]")

# The beginning of a JSON document: an object, or an array of them.
_JSON = re.compile(rb'\s*(?:\[\s*)?\{\s*"[^"\n]*"\s*:')


def format_suffix(path: Path) -> str:
    """The suffix of the format, without that of the compression: `.jsonl` of `a.jsonl.gz`; of mail, `.eml`."""
    if _MAILDIR_NAME.match(path.name) and path.parent.name in ("cur", "new"):
        return ".eml"
    stem, suffix = os.path.splitext(path.name.lower())  # noqa: PTH122  # much faster than Path, and called for each file
    return os.path.splitext(stem)[1] if suffix in COMPRESSED else suffix  # noqa: PTH122


def packed_suffix(path: Path) -> str:
    """The suffix of the format and that of the compression: `.jsonl.gz` of `a.jsonl.gz`."""
    packed = path.suffix.lower()
    return format_suffix(path) + (packed if packed in COMPRESSED else "")


def is_code(path: Path) -> bool:
    """Whether a file has a suffix of source code."""
    return format_suffix(path) in CODE


def is_archive(kind: Format) -> bool:
    """Whether files of a format hold other files, each of its own format."""
    return kind in ARCHIVES


def has_columns(kind: Format) -> bool:
    """Whether `--column` chooses among the columns of a format, or of files in it."""
    return kind in get_args(Rows) or is_archive(kind) or (kind in FORMATS and FORMATS[kind].has_columns)


def is_binary(path: Path) -> bool:
    """Whether NUL is among the first bytes of a file."""
    with open_decompressed(path) as file:
        return b"\0" in file.read(HEAD_BYTES)


def identify(path: Path, *, as_text: bool = False, encoding: str | None = None) -> Format:
    """The format of a file; `as_text`: of one that is read as a text, whatever it holds.

    Rows are JSON lines if the first lines are JSON, most of them objects; of code, braces and quotes at its beginning
    mean nothing; a byte order mark alone is no text. Raises DataError for what is surely not readable.
    """
    suffix = format_suffix(path)
    if suffix in TABLES and not as_text:
        return TABLES[suffix]
    with open_decompressed(path) as file:
        head = file.read(HEAD_BYTES)
    if head in (b"", codecs.BOM_UTF8):
        return "empty"
    if as_text:
        return "text"
    if head.startswith(_PARQUET):
        with path.open("rb") as raw:
            if raw.read(len(_PARQUET)) == _PARQUET:
                return "parquet"
        raise DataError(f"{path}: {PACKED_PARQUET}")
    if kind := _known_binary(path, head):
        return kind
    named = SUFFIXES.get(suffix)
    if encoding:
        with open_text(path, encoding=encoding, errors="replace") as file:
            head = file.read(HEAD_BYTES)
    if b"\0" in head:
        return named or "text"  # of which the reader names the position, or UTF-16
    if suffix in CODE:
        return "text"
    for kind, begins in _BEGINS.items():
        if kind in FORMATS and begins.match(head.removeprefix(codecs.BOM_UTF8)):
            return kind
    if suffix in ("", ".txt") and looks_like_whatsapp(head):
        return "whatsapp"
    if named and named != "json":
        return named
    return _json_or_text(path, head, encoding, is_json=named == "json")


def _known_binary(path: Path, head: bytes) -> Format | None:
    """The format that the first bytes show, None for text. Raises DataError for a format that is not read."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        kind = _zip_kind(path)
        if kind in FORMATS or is_archive(kind):
            return kind
        raise DataError(
            f"{path}: this is a zip archive of another program's, as spreadsheets and presentations are, which is not "
            "read as text; save it as text or .csv"
        )
    for at, magic, kind, noun, remedy in _MAGIC:
        if head.startswith(magic, at):
            if kind in FORMATS or is_archive(kind):
                return kind
            raise DataError(f"{path}: this is {noun}, which is not read as text; {remedy}")
    return None


def _zip_kind(path: Path) -> Format:
    """What a zip file holds: a document, "" for one that is not read, or (`zip`) any files."""
    with path.open("rb") as file:
        if not file.read(4).startswith(b"PK"):  # packed once more
            return SUFFIXES.get(format_suffix(path), "zip")
        with open_zip(file, str(path)) as archive:
            names = set(archive.namelist())
            if "mimetype" in names:
                kind = _ZIP_MIMETYPES.get(read_member(archive, "mimetype", str(path), HEAD_BYTES).strip())
                if kind:
                    return kind
    if export_root(names) is not None:
        return "slack"
    return next((kind for member, kind in _ZIP_MEMBERS.items() if member in names), "zip")


def _json_or_text(path: Path, head: bytes, encoding: str | None, *, is_json: bool) -> Format:
    """Whether a file holds JSON lines, other JSON, or plain text."""
    is_json = is_json and head.strip() not in (b"", codecs.BOM_UTF8)
    if not (is_json or _JSON.match(head.removeprefix(codecs.BOM_UTF8))):
        return "text"
    with open_text(path, encoding=encoding, errors="replace") as file:
        start, is_cut = file.read(ROWS_BYTES).removeprefix(codecs.BOM_UTF8), bool(file.read(1))
    lines = [line for line in start.split(b"\n") if line.strip()]
    complete = lines[:-1] if is_cut else lines
    if not complete and lines[0].lstrip().startswith(b"{"):  # a longer row, which its reader parses, or all there is
        return "jsonl" if _has_second_line(path, encoding) else "json"
    values = [_parse(line) for line in complete[:FIRST_ROWS]]
    n_objects = sum(isinstance(value, dict) for value, _ in values)
    if 2 * n_objects > len(values) and not any(rest for _, rest in values):
        return "json" if len(lines) == 1 and _holds_objects(values[0][0]) else "jsonl"
    value, rest = _parse(start)
    if not is_json and value is not None and rest.lstrip(" \t\r").startswith("\n") and not _JSON.match(rest.encode()):
        return "text"  # prose after a JSON document, as in Markdown with metadata at its beginning
    return "json"


def _has_second_line(path: Path, encoding: str | None) -> bool:
    """Whether anything follows the first line of a file."""
    with open_text(path, encoding=encoding, errors="replace") as file:
        is_first = True
        for block in iter(lambda: file.read(ROWS_BYTES), b""):
            _, end, rest = block.partition(b"\n") if is_first else (b"", b"", block)
            is_first = is_first and not end
            if rest.strip():
                return True
    return False


def _holds_objects(row: object) -> bool:
    """Whether an object holds others, or lists of them, as an exported chat in one line does."""
    values = row.values() if isinstance(row, dict) else ()
    return any(isinstance(value[0] if isinstance(value, list) and value else value, dict) for value in values)


def _parse(start: bytes) -> tuple[object, str]:
    """The JSON value at the beginning of a text, None where there is none, and what follows it."""
    text = start.decode("utf-8", "replace").strip()
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, text
    return value, text[end:]
