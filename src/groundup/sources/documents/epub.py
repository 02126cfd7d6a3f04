"""EPUB: the chapters of a book in the order in which it is read, as one text."""

from collections import Counter
from collections.abc import Iterator
from posixpath import dirname, join, normpath
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote, urldefrag
from zipfile import ZipFile

from groundup.errors import DataError
from groundup.sources.documents.markup import decode_html, html_text
from groundup.sources.documents.options import NoTextError, ReadOptions
from groundup.sources.documents.xml_events import elements
from groundup.sources.documents.zips import open_zip, read_member

MAX_INDEX_BYTES = 16 << 20  # of the list of chapters, and of what else is not text

# Encryption of fonts, in books that anybody may read.
FONT_ENCRYPTION = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")

PAGES = (".xhtml", ".html", ".htm", ".xml")
PAGE_TYPES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document")

CONTENTS = "tables of contents are left out"
ASIDE = 'parts outside of the reading order (linear="no") are read where the book lists them'
MISSING = "chapters that the book lists are missing in it"
PICTURES = "pages that are pictures are left out"


class _Part(NamedTuple):
    """A part of a book in its reading order."""

    path: str  # in the zip file
    media_type: str
    is_contents: bool
    is_aside: bool


def read_epub(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The text of a book. Raises DataError for one that is protected (DRM), and for one that lists no chapters."""
    with open_zip(file, name) as archive:
        parts = _reading_order(archive, name)
        protected = _encrypted(archive, name)
        if not protected.isdisjoint(part.path for part in parts):
            raise NoTextError(f"{name}: is protected (DRM), so its text cannot be read; give a copy without protection")
        left, chapters = options.max_bytes, list[str]()
        for part in parts:
            if part.is_contents:
                found[CONTENTS] += 1
            elif part.path not in archive.NameToInfo:
                found[MISSING] += 1
            elif part.media_type not in PAGE_TYPES and not part.path.lower().endswith(PAGES):
                found[PICTURES] += 1
            else:
                found.update([ASIDE] if part.is_aside else [])
                page = read_member(archive, part.path, name, left)
                left -= len(page)
                chapters.append(html_text(decode_html(page, f"{name}/{part.path}", options, found), found))
    if not chapters:
        raise NoTextError(f"{name}: none of its {len(parts):,} parts is a page of text; give another copy of the book")
    yield "\n\n".join(filter(None, chapters))


def _reading_order(archive: ZipFile, name: str) -> list[_Part]:
    """The parts that the book lists, each once."""
    package = _package(archive, name)
    items: dict[str, tuple[str, str]] = {}  # id -> path, media type
    spine: list[tuple[str, bool]] = []  # id, aside
    contents: set[str] = set()  # paths
    for tag, attributes in _index(archive, package, name):
        path = normpath(join(dirname(package), unquote(urldefrag(attributes.get("href", ""))[0])))
        if tag == "item":
            items[attributes.get("id", "")] = path, attributes.get("media-type", "")
            if "nav" in attributes.get("properties", "").split():
                contents.add(path)
        elif tag == "itemref":
            spine.append((attributes.get("idref", ""), attributes.get("linear") == "no"))
        elif tag == "reference" and attributes.get("type") == "toc":
            contents.add(path)
    parts: dict[str, _Part] = {}
    for each, is_aside in spine:
        path, media_type = items.get(each, (each, ""))
        parts.setdefault(path, _Part(path, media_type, path in contents, is_aside))
    return list(parts.values())


def _package(archive: ZipFile, name: str) -> str:
    """The path of the file that lists the parts of a book."""
    for tag, attributes in _index(archive, "META-INF/container.xml", name):
        if tag == "rootfile" and attributes.get("media-type") in ("application/oebps-package+xml", None):
            return attributes.get("full-path", "")
    raise DataError(f"{name}: META-INF/container.xml names no book; get a complete copy of it")


def _index(archive: ZipFile, member: str, name: str) -> list[tuple[str, dict[str, str]]]:
    try:
        return elements(read_member(archive, member, name, MAX_INDEX_BYTES), f"{name}/{member}")
    except KeyError:
        raise DataError(f"{name}: {member} is missing in this EPUB; get a complete copy of it") from None


def _encrypted(archive: ZipFile, name: str) -> set[str]:
    """Paths of the parts that are encrypted, other than fonts."""
    paths, algorithm = set[str](), ""
    if "META-INF/encryption.xml" in archive.NameToInfo:
        for tag, attributes in _index(archive, "META-INF/encryption.xml", name):
            if tag == "EncryptedData":
                algorithm = ""
            elif tag == "EncryptionMethod":
                algorithm = algorithm or attributes.get("Algorithm", "")  # a key in it has its own
            elif tag == "CipherReference" and algorithm not in FONT_ENCRYPTION:
                paths.add(normpath(unquote(attributes.get("URI", ""))))
    return paths
