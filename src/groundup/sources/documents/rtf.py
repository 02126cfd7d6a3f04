"""RTF: the text of a document, its bytes decoded by the code page of the font that they are set in."""

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from groundup.errors import DataError
from groundup.sources.documents.blocks import PARAGRAPH, TextBlocks
from groundup.sources.documents.options import ReadOptions, read_bytes
from groundup.sources.text import REPLACED, REPLACEMENT

MAX_GROUPS = 10_000  # in each other

COMMENTS = "comments are left out"
HIDDEN = "hidden or deleted passages are left out"
SYMBOLS = "symbols of fonts without Unicode are left out"
UNKNOWN_CODE_PAGE = "passages in a code page that is not known were read as cp1252"

# Groups that are not text of the document, besides those that begin with \*.
_NOT_TEXT = frozenset(
    "fonttbl colortbl stylesheet info pict header headerl headerr headerf footer footerl footerr footerf fldinst "
    "shprslt pntext listtext nonshppict xe tc rxe bxe filetbl listtable listoverridetable revtbl private objdata sn sv "
    "template annotation atnid atnauthor upr".split()
)
_TEXT_OF_STARRED = frozenset(("shpinst", "shptxt", "ud"))  # text boxes; what stands there twice, in Unicode

_CHARACTERS = {
    "emdash": "—",
    "endash": "–",
    "emspace": "\u2003",
    "enspace": "\u2002",
    "qmspace": "\u2005",
    "bullet": "•",
    "lquote": "‘",
    "rquote": "’",
    "ldblquote": "“",
    "rdblquote": "”",
    "tab": "\t",
    "line": "\n",
    "zwj": "\u200d",
    "zwnj": "\u200c",
    "ltrmark": "\u200e",
    "rtlmark": "\u200f",
}
_SYMBOLS = {"~": " ", "_": "\N{NON-BREAKING HYPHEN}", "\\": "\\", "{": "{", "}": "}"}
_PARAGRAPH_ENDS = frozenset(("par", "sect", "page", "column", "\n", "\r"))

# Code pages of \fcharset (RTF 1.9.1, table of character sets); 1 is that of the document.
_CHARSETS = {
    0: "cp1252",
    77: "mac-roman",
    128: "cp932",
    129: "cp949",
    130: "johab",
    134: "gb18030",
    136: "cp950",
    161: "cp1253",
    162: "cp1254",
    163: "cp1258",
    177: "cp1255",
    178: "cp1256",
    186: "cp1257",
    204: "cp1251",
    222: "cp874",
    238: "cp1250",
    254: "cp437",
    255: "cp850",
}
_CODE_PAGES = {65001: "utf-8", 10000: "mac-roman", 10007: "mac-cyrillic", 936: "gb18030", 1361: "johab"}
_OF_WORD = {"ansi": "cp1252", "mac": "mac-roman", "pc": "cp437", "pca": "cp850"}

_TOKEN = re.compile(
    rb"\\(?P<word>[a-zA-Z]{1,40})(?P<number>-?\d{1,10})? ?|\\'(?P<hex>[0-9a-fA-F]{2})|\\(?P<symbol>[^a-zA-Z])"
    rb"|(?P<brace>[{}])|(?P<text>[^\\{}\r\n]+)|[\r\n]+|\\",
    re.DOTALL,
)


class _State(NamedTuple):
    """What a group changes for itself only."""

    is_text: bool = True
    is_font_table: bool = False
    is_doubled: bool = False  # text that follows once more, in Unicode
    is_hidden: bool = False
    font: int | None = None
    n_stand_ins: int = 1  # bytes after a character of Unicode that stand in for it, for old programs


def read_rtf(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The text of a document. Raises DataError for what is none, and for bytes that are not of their code page."""
    data = read_bytes(file, name, options)
    if not data.startswith(b"{\\rtf"):
        raise DataError(f"{name}: no RTF, which begins with {{\\rtf; if it is plain text, call it .txt")
    yield _Reader(data, name, options, found).text()


def _codec_of_page(number: int) -> str:
    """Python's name of a Windows code page; empty for one that it lacks."""
    name = _CODE_PAGES.get(number, f"cp{number}")
    try:
        codecs.lookup(name)
    except LookupError:
        return ""
    return name


class _Reader:
    """Goes through groups, control words and bytes, and writes what is text."""

    def __init__(self, data: bytes, name: str, options: ReadOptions, found: Counter[str]) -> None:
        self._data, self._name, self._options, self._found = data, name, options, found
        self._at = 0  # byte
        self._state = _State()
        self._blocks = TextBlocks()
        self._groups: list[tuple[_State, TextBlocks]] = []  # what holds again after each open group
        self._notes: list[str] = []
        self._is_starred = False  # a group began with \*, so programs that do not know it pass over it
        self._stand_ins = 0  # bytes to come
        self._bytes, self._units = bytearray(), bytearray()  # text that is not decoded yet; the second in UTF-16
        self._codec, self._default_font = "cp1252", 0
        self._fonts: dict[int, int] = {}  # number -> character set
        self._listed_font = 0
        self._in_table = self._after_row = False

    def text(self) -> str:
        """The text of the document, with the notes after it."""
        while match := _TOKEN.match(self._data, self._at):
            self._at = match.end()
            kind = match.lastgroup
            if kind == "text":
                self._add_bytes(match["text"])
            elif kind == "hex":
                self._add_bytes(bytes((int(match["hex"], 16),)))
            elif kind == "symbol":
                self._symbol(match["symbol"].decode("latin-1"))
            elif kind == "brace":
                self._group(begins=match["brace"] == b"{")
                if not self._groups:
                    break
            elif kind:
                self._stand_ins = 0
                number = match["number"]
                self._word(match["word"].decode(), None if number is None else int(number))
        self._flush()
        return "\n\n".join(filter(None, [self._blocks.text(), *self._notes]))

    def _group(self, begins: bool) -> None:
        self._flush()
        self._stand_ins, self._is_starred = 0, False
        if begins:
            if len(self._groups) >= MAX_GROUPS:
                raise DataError(f"{self._name}: groups nested more than {MAX_GROUPS:,} deep, so it is not read")
            self._groups.append((self._state, self._blocks))
        elif self._groups:
            inner = self._blocks
            self._state, self._blocks = self._groups.pop()
            if inner is not self._blocks:
                self._notes.append(inner.text())

    def _symbol(self, symbol: str) -> None:
        self._stand_ins = 0
        if symbol == "*":
            self._is_starred = True
        elif symbol in _PARAGRAPH_ENDS:
            self._word("par", None)
        elif character := _SYMBOLS.get(symbol):
            self._write(character)

    def _word(self, word: str, number: int | None) -> None:
        state, is_starred, self._is_starred = self._state, self._is_starred, False
        if word == "u" and number is not None:
            self._add_unit(number % 0x10000)
            return
        if word == "bin":
            self._at += max(number or 0, 0)
        elif word in _NOT_TEXT or (is_starred and word not in _TEXT_OF_STARRED):
            self._found.update([COMMENTS] if word == "annotation" else [])
            self._state = state._replace(
                is_text=False, is_font_table=word == "fonttbl", is_doubled=word == "upr" and state.is_text
            )
        elif word == "ud":
            self._state = state._replace(is_text=state.is_doubled)
        elif state.is_font_table:
            if word == "f":
                self._listed_font = number or 0
            elif word == "fcharset":
                self._fonts[self._listed_font] = number or 0
        elif word in _OF_WORD or word in ("ansicpg", "deff", "f", "plain", "uc", "v", "deleted"):
            self._set(word, number)
        elif state.is_text:
            self._lay_out(word)

    def _set(self, word: str, number: int | None) -> None:
        """Change how what follows is read."""
        self._flush()
        if word in _OF_WORD:
            self._codec = _OF_WORD[word]
        elif word == "ansicpg":
            self._codec = _codec_of_page(number or 0)
        elif word == "deff":
            self._default_font = number or 0
        elif word == "f":
            self._state = self._state._replace(font=number)
        elif word == "plain":
            self._state = self._state._replace(font=None, is_hidden=False)
        elif word == "uc":
            self._state = self._state._replace(n_stand_ins=max(number or 0, 0))
        else:
            self._found.update([HIDDEN] if number != 0 and self._state.is_text else [])
            self._state = self._state._replace(is_hidden=number != 0)

    def _lay_out(self, word: str) -> None:
        if character := _CHARACTERS.get(word):
            self._write(character)
            return
        if word == "pard":
            self._in_table = False
        elif word == "intbl":
            self._in_table = True
        elif word in _PARAGRAPH_ENDS:
            self._flush()
            self._blocks.gap(PARAGRAPH)
        elif word in ("cell", "nestcell"):
            self._flush()
            self._blocks.cell(first=False)
        elif word in ("row", "nestrow"):
            self._flush()
            self._blocks.end_row()
            self._after_row = True
        elif word in ("footnote", "shptxt"):
            self._flush()
            self._blocks = TextBlocks()

    def _add_bytes(self, data: bytes) -> None:
        if self._stand_ins:
            n = min(self._stand_ins, len(data))
            self._stand_ins -= n
            data = data[n:]
        if data and self._state.is_text and not self._state.is_hidden:
            if self._units:
                self._flush()
            self._bytes += data

    def _add_unit(self, unit: int) -> None:
        """A code unit of UTF-16, of which some characters take two."""
        if self._bytes:
            self._flush()
        self._stand_ins = self._state.n_stand_ins
        if not self._state.is_text or self._state.is_hidden:
            return
        if 0xF000 <= unit <= 0xF0FF:
            self._found[SYMBOLS] += 1
        else:
            self._units += unit.to_bytes(2, "little")

    def _flush(self) -> None:
        """Decode and write the text that is not yet."""
        if self._units:
            units, self._units = bytes(self._units), bytearray()
            self._write_decoded(units, "utf-16-le")
        if self._bytes:
            data, self._bytes = bytes(self._bytes), bytearray()
            font = self._default_font if self._state.font is None else self._state.font
            charset = self._fonts.get(font, 1)
            codec = self._codec if charset == 1 else _CHARSETS.get(charset, "")
            if charset == 2:
                self._found[SYMBOLS] += 1
            elif codec:
                self._write_decoded(data, codec)
            else:
                self._found[UNKNOWN_CODE_PAGE] += not data.isascii()
                self._write_decoded(data, "cp1252")

    def _write_decoded(self, data: bytes, codec: str) -> None:
        try:
            text = data.decode(codec, self._options.errors)
        except UnicodeDecodeError as error:
            what = (
                f"0x{error.object[error.start]:02X} before byte {self._at} is not {codec}, which the document declares"
            )
            if codec == "utf-16-le":
                what = f"half of a surrogate pair stands before byte {self._at}, which is no character"
            raise DataError(
                f"{self._name}: {what}; save it again, or replace what is not valid with --errors replace"
            ) from None
        if n := text.count(REPLACEMENT):
            self._found[REPLACED] += n
        self._blocks.gap(PARAGRAPH if self._after_row and not self._in_table else 0)
        self._after_row = False
        self._blocks.write(text)

    def _write(self, text: str) -> None:
        if self._state.is_text and not self._state.is_hidden:
            self._flush()
            self._blocks.write(text)
