"""Word processors' documents: DOCX and ODT, as they read when every tracked change is accepted.

Both are zip files of XML. Paragraphs, tables, lists, text boxes and notes are read; notes follow the text. Comments,
deleted and hidden text, headers and footers, and the numbers before headings and items are left out.
"""

import re
from collections import Counter
from collections.abc import Iterator
from posixpath import dirname, join, normpath, split
from typing import BinaryIO
from zipfile import ZipFile

from groundup.errors import DataError
from groundup.sources.documents.blocks import LINE, PARAGRAPH, TextBlocks, subscript, superscript
from groundup.sources.documents.options import NoTextError, ReadOptions
from groundup.sources.documents.xml_events import elements, parse_xml
from groundup.sources.documents.zips import open_zip, read_member

MAX_INDEX_BYTES = 16 << 20  # of parts without text
MAX_SPACES = 100  # that one element of an ODT may stand for

COMMENTS = "comments are left out"
DELETED = "deleted passages (tracked changes) are left out"
HIDDEN = "hidden passages are left out"
SYMBOLS = "symbols of fonts without Unicode are left out"
EMBEDDED = "embedded documents are left out"
FORMULAS = "formulas are read without their layout"

_OOXML, _STRICT = "http://schemas.openxmlformats.org", "http://purl.oclc.org/ooxml"
DOCX_NAMESPACES = {
    f"{_OOXML}/wordprocessingml/2006/main": "w",
    f"{_STRICT}/wordprocessingml/main": "w",
    f"{_OOXML}/officeDocument/2006/math": "m",
    f"{_STRICT}/officeDocument/math": "m",
    f"{_OOXML}/markup-compatibility/2006": "mc",
}
DOCX_NOT_READ = frozenset(
    # earlier properties, the code of fields, a second spelling for old programs, readings of words, settings
    "w:rPrChange w:pPrChange w:trPrChange w:tcPrChange w:tblPrChange w:sectPrChange w:moveFrom w:instrText "
    "w:delInstrText mc:Fallback w:rt w:tabs w:sdtPr w:sectPr w:tblPr w:tcPr".split()
)
DOCX_CHARACTERS = {
    **dict.fromkeys(("w:tab", "w:ptab"), "\t"),
    **dict.fromkeys(("w:br", "w:cr"), "\n"),
    "w:noBreakHyphen": "\N{NON-BREAKING HYPHEN}",
    "m:den": "/",
    "m:sup": "^",
    "m:sub": "_",
}
DOCX_COUNTED = {
    "w:commentReference": COMMENTS,
    "w:sym": SYMBOLS,
    "w:altChunk": EMBEDDED,
    "m:oMath": FORMULAS,
}

ODT_NAMESPACES = {
    f"urn:oasis:names:tc:opendocument:xmlns:{name}:1.0": prefix
    for name, prefix in (("office",) * 2, ("text",) * 2, ("table",) * 2, ("drawing", "draw"), ("style",) * 2)
}
ODT_NOT_READ = frozenset(
    "text:tracked-changes text:note-citation text:ruby-text text:number text:script office:annotation office:forms "
    "office:binary-data table:covered-table-cell title desc annotation text:index-title-template".split()
)
ODT_COUNTED = {"office:annotation": COMMENTS, "text:change": DELETED, "math": FORMULAS}
_SPACES = re.compile(r"[ \t\r\n]+")


class _Writer:
    """Writes paragraphs, tables, text boxes and notes while their elements go by."""

    def __init__(self, name: str, found: Counter[str]) -> None:
        self._name, self._found = name, found
        self._blocks, self._line = TextBlocks(), list[str]()  # of the text, a box or a note; its open paragraph
        self._rows: list[bool] = []  # per open table: whether the next cell is the first of its row
        self._around: list[tuple[TextBlocks, list[str], list[bool]]] = []  # the same of what a box or note stands in
        self._boxes: list[str] = []  # texts that follow the open paragraph
        self._notes: list[str] = []
        self._was_item = False  # the last paragraph belonged to a list

    def text(self) -> str:
        """All text, with the notes after it."""
        return "\n\n".join(filter(None, [self._blocks.text(), *self._boxes, *self._notes]))

    def _end_paragraph(self, is_item: bool) -> None:
        self._blocks.gap(LINE if is_item and self._was_item else PARAGRAPH)
        self._blocks.write("".join(self._line).lstrip("\t"), indent=True)
        self._blocks.gap(LINE if is_item else PARAGRAPH)
        self._line.clear()
        self._was_item = is_item
        if not self._around:
            for box in self._boxes:
                self._blocks.gap(PARAGRAPH)
                self._blocks.write(box)
                self._blocks.gap(PARAGRAPH)
            self._boxes.clear()

    def _begin_inset(self) -> None:
        """A text box or note begins in the middle of a paragraph."""
        self._around.append((self._blocks, self._line, self._rows))
        self._blocks, self._line, self._rows = TextBlocks(), [], []

    def _end_inset(self, texts: list[str]) -> None:
        texts.append(self._blocks.text())
        self._blocks, self._line, self._rows = self._around.pop()

    def _begin_table(self) -> None:
        self._blocks.gap(PARAGRAPH)
        self._rows.append(True)
        self._was_item = False

    def _begin_row(self) -> None:
        self._blocks.gap(LINE)
        self._rows[-1:] = [True]

    def _begin_cell(self) -> None:
        self._blocks.cell(first=not self._rows or self._rows[-1])
        self._rows[-1:] = [False]

    def _end_table(self) -> None:
        self._blocks.gap(PARAGRAPH)
        del self._rows[-1:]


class _DocxWriter(_Writer):
    """The main part of a DOCX, or its notes."""

    def __init__(self, name: str, found: Counter[str]) -> None:
        super().__init__(name, found)
        self._is_text = False  # inside of an element that holds text
        self._properties = ""  # those that are open, of a paragraph or a row
        self._is_item = self._joins_next = False  # the open paragraph
        self._hidden, self._position = False, ""  # the open run
        self._fields: list[bool] = []  # per open field: whether its code goes by, and not yet its result
        self._n_codes = 0  # such fields
        self._n_rows = 0  # open ones
        self._deleted_row = 0  # number of the row that is

    def start(self, tag: str, attributes: dict[str, str]) -> bool:
        if counted := DOCX_COUNTED.get(tag):
            self._found[counted] += 1
        if tag in DOCX_NOT_READ or attributes.get("w:type") in ("separator", "continuationSeparator"):
            return False
        if tag == "w:del":
            return self._begin_deletion()
        if tag in ("w:t", "m:t"):
            self._is_text = True
        elif character := DOCX_CHARACTERS.get(tag):
            self._write(character)
        elif tag == "w:r":
            self._hidden, self._position = False, ""
        elif tag == "w:fldChar":
            self._field(attributes.get("w:fldCharType"))
        elif self._properties or tag in ("w:vanish", "w:vertAlign"):
            self._property(tag, attributes.get("w:val", ""))
        else:
            self._begin_block(tag)
        return True

    def end(self, tag: str) -> None:
        if tag in ("w:t", "m:t"):
            self._is_text = False
        elif tag == self._properties:
            self._properties = ""
        elif tag == "w:p":
            if not self._joins_next:
                self._end_paragraph(self._is_item)
        elif tag == "w:tr":
            self._blocks.end_row()
            if self._deleted_row == self._n_rows:
                self._deleted_row = 0
            self._n_rows -= 1
        elif tag == "w:tbl":
            self._end_table()
        elif tag == "w:txbxContent":
            self._end_inset(self._boxes)
        elif tag in ("w:footnote", "w:endnote"):
            self._end_inset(self._notes)

    def data(self, text: str) -> None:
        if self._is_text:
            self._write(text)

    def _write(self, text: str) -> None:
        if self._hidden:
            self._found[HIDDEN] += 1
        elif not self._deleted_row and not self._n_codes:
            shift = {"superscript": superscript, "subscript": subscript}.get(self._position, str)
            self._line.append(shift(text))

    def _begin_block(self, tag: str) -> None:
        if tag in ("w:pPr", "w:trPr"):
            self._properties = tag
        elif tag == "w:p":
            self._is_item = self._joins_next = False
        elif tag == "w:tbl":
            self._begin_table()
        elif tag == "w:tr":
            self._n_rows += 1
            self._begin_row()
        elif tag == "w:tc":
            self._begin_cell()
        elif tag in ("w:txbxContent", "w:footnote", "w:endnote"):
            self._begin_inset()

    def _begin_deletion(self) -> bool:
        """Deleted text, the deleted end of a paragraph, which then goes on in the next one, or a deleted row."""
        self._found[DELETED] += 1
        if self._properties == "w:pPr":
            self._joins_next = True
        elif self._properties == "w:trPr" and not self._deleted_row:
            self._deleted_row = self._n_rows
        return False

    def _property(self, tag: str, value: str) -> None:
        if self._properties:
            self._is_item |= tag == "w:numPr" or (tag == "w:pStyle" and value.startswith("List"))
        elif tag == "w:vanish":
            self._hidden = value not in ("0", "false", "off")
        elif tag == "w:vertAlign":
            self._position = value

    def _field(self, kind: str | None) -> None:
        if kind in ("separate", "end") and self._fields:
            self._n_codes -= self._fields.pop()
        if kind in ("begin", "separate"):
            self._fields.append(kind == "begin")
            self._n_codes += kind == "begin"


class _OdtWriter(_Writer):
    """The content of an ODT."""

    def __init__(self, name: str, found: Counter[str]) -> None:
        super().__init__(name, found)
        self._n_lists = 0  # open ones
        self._n_paragraphs = 0  # open ones; notes and text boxes hold further ones
        self._style = ""  # whose properties go by
        self._styles: dict[str, str] = {}  # name -> `none`, `super` or `sub`
        self._spans: list[str] = []  # the same of the open ones

    def start(self, tag: str, attributes: dict[str, str]) -> bool:
        if counted := ODT_COUNTED.get(tag):
            self._found[counted] += 1
        if tag in ODT_NOT_READ or tag.endswith("-source"):
            return False
        if attributes.get("text:is-hidden") == "true" or (tag == "text:section" and "none" in attributes.values()):
            self._found[HIDDEN] += 1
            return False
        if tag in ("text:span", "text:p", "text:h"):
            self._spans.append(self._styles.get(attributes.get("text:style-name", ""), ""))
            self._n_paragraphs += tag != "text:span"
        elif tag == "text:s":
            count = attributes.get("text:c", "1")
            self._line.append(" " * min(int(count) if count.isdecimal() else 1, MAX_SPACES))
        elif tag in ("text:tab", "text:line-break"):
            self._line.append("\t" if tag == "text:tab" else "\n")
        elif tag == "style:style":
            self._style = attributes.get("style:name", "")
        elif tag == "style:text-properties":
            shift = attributes.get("style:text-position", "").partition(" ")[0]
            self._styles[self._style] = "none" if attributes.get("text:display") == "none" else shift
        else:
            self._begin_block(tag)
        return True

    def _begin_block(self, tag: str) -> None:
        if tag == "text:list":
            self._n_lists += 1
        elif tag == "table:table":
            self._begin_table()
        elif tag == "table:table-row":
            self._begin_row()
        elif tag == "table:table-cell":
            self._begin_cell()
        elif tag in ("text:note-body", "draw:text-box"):
            self._begin_inset()
        elif tag in ("office:spreadsheet", "office:presentation", "office:drawing"):
            raise DataError(f"{self._name}: holds no text document but {tag.partition(':')[2]}; save its text as .odt")

    def end(self, tag: str) -> None:
        if tag in ("text:span", "text:p", "text:h"):
            self._spans.pop()
            if tag != "text:span":
                self._n_paragraphs -= 1
                self._end_paragraph(is_item=self._n_lists > 0)
        elif tag == "text:list":
            self._n_lists -= 1
        elif tag == "table:table-row":
            self._blocks.end_row()
        elif tag == "table:table":
            self._end_table()
        elif tag == "draw:text-box":
            self._end_inset(self._boxes)
        elif tag == "text:note-body":
            self._end_inset(self._notes)

    def data(self, text: str) -> None:
        if not self._n_paragraphs:
            return
        if "none" in self._spans:
            self._found[HIDDEN] += 1
            return
        text = _SPACES.sub(" ", text)
        if not self._line or self._line[-1].endswith(" "):
            text = text.removeprefix(" ")
        if text:
            shift = {"super": superscript, "sub": subscript}.get(self._spans[-1], str)
            self._line.append(shift(text))


def read_docx(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The text of a Word document. Raises DataError for what is none."""
    with open_zip(file, name) as archive:
        main = _related(archive, "", "officeDocument", name)[:1]
        if not main:
            raise DataError(f"{name}: no Word document, as none is named in it; get a complete copy of it")
        writer = _DocxWriter(name, found)
        for part in main + _related(archive, main[0], "footnotes", name) + _related(archive, main[0], "endnotes", name):
            data = _read(archive, part, name, options.max_bytes)
            parse_xml(data, f"{name}/{part}", DOCX_NAMESPACES, writer)
    yield writer.text()


def read_odt(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The text of an OpenDocument text. Raises DataError for one with a password."""
    with open_zip(file, name) as archive:
        manifest = "META-INF/manifest.xml"
        index = elements(_read(archive, manifest, name, MAX_INDEX_BYTES), f"{name}/{manifest}")
        if any(tag == "encryption-data" for tag, _ in index):
            raise NoTextError(f"{name}: is protected by a password; save it without one")
        writer = _OdtWriter(name, found)
        data = _read(archive, "content.xml", name, options.max_bytes)
        parse_xml(data, f"{name}/content.xml", ODT_NAMESPACES, writer)
    yield writer.text()


def read_old_office(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """Raises NoTextError for a document of Office before 2007, or a newer one with a password.

    Both are a file system with names in UTF-16, whose directory begins in the sector that the header names.
    """
    header = file.read(512).ljust(512)
    sector_bytes = 1 << min(header[30], 16)
    file.seek((int.from_bytes(header[48:52], "little") + 1) * sector_bytes)
    directory = file.read(1 << 16)
    what = "is a file of Office in the format before 2007, which is not read; save it as .docx, .csv or text"
    if "EncryptedPackage".encode("utf-16-le") in directory:
        what = "is a document protected by a password; save it without one"
    elif "WordDocument".encode("utf-16-le") in directory:
        what = "is a Word document in the format before 2007, which is not read; save it as .docx"
    raise NoTextError(f"{name}: {what}")
    yield ""


def _related(archive: ZipFile, part: str, kind: str, name: str) -> list[str]:
    """Paths of the parts that another one names as its `kind`; of the package itself, if its name is empty."""
    folder, base = split(part)
    relations = join(folder, "_rels", f"{base}.rels")
    if relations not in archive.NameToInfo:
        return []
    found = elements(_read(archive, relations, name, MAX_INDEX_BYTES), f"{name}/{relations}")
    targets = [
        attributes.get("Target", "") for _, attributes in found if attributes.get("Type", "").endswith(f"/{kind}")
    ]
    return [normpath(join("/", dirname(part), target)).lstrip("/") for target in targets]


def _read(archive: ZipFile, member: str, name: str, limit: int) -> bytes:
    try:
        return read_member(archive, member, name, limit)
    except KeyError:
        raise DataError(f"{name}: {member} is missing in it; get a complete copy of it") from None
