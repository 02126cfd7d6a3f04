"""Documents that people own: the text of a web page, a book, a table, a mailbox, as its reader sees it.

Each format has one row in `FORMATS`. Its reader is a function `read_X(file, name, options, found)` of a seekable binary
file, already decompressed; the name to give in messages; `ReadOptions`; and a counter of what is to be told about the
file, each under a clause without its number. It yields the text of one document after the other, with one blank line
between paragraphs, and raises DataError for what cannot be read. It is imported when its first file is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import BinaryIO, NamedTuple, cast

from groundup.errors import DataError
from groundup.sources.documents.options import ReadOptions
from groundup.utils.extras import install_command

Reader = Callable[[BinaryIO, str, ReadOptions, Counter[str]], Iterator[str]]


class DocumentFormat(NamedTuple):
    """A format of documents, and who reads it."""

    noun: str  # as in "damaged as NOUN"
    suffixes: tuple[str, ...]
    reader: str  # module and function in this package, such as `markup.read_html`
    library: str = ""  # that the reader imports, from the extra `documents`
    has_columns: bool = False  # `--column` chooses among them
    said: str = ""  # what to tell of a file that could be thought to be read as it is


CHANNELS = "each channel is a document, with a line `Name: text` for each message"

FORMATS: dict[str, DocumentFormat] = {
    "html": DocumentFormat(
        "HTML",
        (".html", ".htm", ".xhtml"),
        "markup.read_html",
        said="HTML, so the text of the page is read, without markup",
    ),
    "epub": DocumentFormat("an EPUB", (".epub",), "epub.read_epub"),
    "docx": DocumentFormat("a Word document", (".docx", ".docm", ".dotx"), "office.read_docx"),
    "odt": DocumentFormat("an OpenDocument text", (".odt", ".ott"), "office.read_odt"),
    "office": DocumentFormat("a file of Office before 2007", (), "office.read_old_office"),
    "rtf": DocumentFormat("RTF", (".rtf",), "rtf.read_rtf"),
    "pdf": DocumentFormat("a PDF", (".pdf",), "pdf.read_pdf", library="pypdfium2"),
    "csv": DocumentFormat("a CSV table", (".csv", ".tsv"), "csv_tables.read_csv", has_columns=True),
    "json": DocumentFormat("JSON", (".json", ".ipynb"), "json_documents.read_json", has_columns=True),
    "eml": DocumentFormat("mail", (".eml",), "mail.read_eml"),
    "mbox": DocumentFormat("a mailbox", (".mbox",), "mail.read_mbox"),
    "slack": DocumentFormat("an export of Slack", (), "slack.read_zip", said=f"an export of Slack, so {CHANNELS}"),
    "subtitles": DocumentFormat(
        "subtitles",
        (".srt", ".vtt"),
        "subtitles.read_subtitles",
        said="subtitles, so their text is read, without times and markup",
    ),
    "whatsapp": DocumentFormat(
        "a chat of WhatsApp",
        (),
        "chats.read_whatsapp",
        said="exported from WhatsApp, so it is read as one chat, with a line `Name: text` for each message",
    ),
}


def needs_library(kind: str) -> str | None:
    """The missing library of a format's reader and the command that installs it; None if it is installed."""
    library = FORMATS[kind].library if kind in FORMATS else ""
    if not library or find_spec(library):
        return None
    return f"needs {library}; install it with: {install_command('documents')}"


def read_documents(kind: str, file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The text of each document in a file; those without any are left out."""
    if needed := needs_library(kind):
        raise DataError(f"{name}: reading {FORMATS[kind].noun} {needed}")
    module, _, function = FORMATS[kind].reader.partition(".")
    read = cast("Reader", getattr(import_module(f"{__name__}.{module}"), function))
    yield from texts_of(kind, read(file, name, options, found), name)


def texts_of(kind: str, texts: Iterable[str], name: str) -> Iterator[str]:
    """The texts of a reader, without empty ones; all its errors become DataError."""
    try:
        for text in texts:
            if text and not text.isspace():
                yield text
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error}); get a complete copy of it") from None
    except Exception as error:  # libraries raise anything for a file that is damaged
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{name}: damaged as {FORMATS[kind].noun} ({reason}); get a complete copy of it") from None
