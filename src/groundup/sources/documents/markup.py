"""HTML and XHTML as a browser shows them: the text, without what is hidden, and with gaps where blocks end."""

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import BinaryIO

from typing_extensions import override

from groundup.errors import DataError
from groundup.sources.documents.blocks import LINE, PARAGRAPH, SPACE, TAB, TextBlocks, subscript, superscript
from groundup.sources.documents.options import ReadOptions, decode, read_bytes

Attributes = list[tuple[str, str | None]]

VOID = frozenset(
    "area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr".split()
)
TABLE_PARTS = frozenset("caption tbody td tfoot th thead tr".split())
_TABLE = frozenset(("table",))
_IN_TABLE = TABLE_PARTS | _TABLE
_NOTHING = frozenset[str]()

# The gap before and after an element, as the style sheet of browsers has it.
GAPS = {
    **dict.fromkeys(
        "address body center dd div dt fieldset figcaption footer form header hgroup html legend li main search "
        "summary caption tbody tfoot thead".split(),
        LINE,
    ),
    **dict.fromkeys(
        "article aside blockquote details dialog dir dl figure h1 h2 h3 h4 h5 h6 hr listing menu ol p plaintext pre "
        "section table ul xmp".split(),
        PARAGRAPH,
    ),
    "button": SPACE,
}
LISTS = frozenset("dir dl menu ol ul".split())
PREFORMATTED = frozenset("listing plaintext pre xmp".split())

# Elements whose content is not text of the page, whatever a style sheet says: code, metadata, what stands in for a
# picture or for a script that did not run, form fields, and other spellings of a formula.
NOT_SHOWN = frozenset(
    "annotation annotation-xml audio canvas datalist iframe noembed noframes noscript object script select style svg "
    "template textarea title video".split()
)
NO_TAGS_INSIDE = ("script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes", "noscript")
RUBY = frozenset(("rt", "rp", "rtc"))
NOTE_MARKS = frozenset(("noteref", "doc-noteref"))  # `epub:type` and `role` of links that style sheets raise

# An open element that ends where one of these begins, and the elements around it beyond which none is ended.
_ENDED_BY: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    **{name: (frozenset(("p",)), _IN_TABLE | NOT_SHOWN | {"button"}) for name, gap in GAPS.items() if gap >= LINE},
    "li": (frozenset(("li", "p")), LISTS | _IN_TABLE),
    **dict.fromkeys(("dt", "dd"), (frozenset(("dt", "dd", "p")), LISTS | _IN_TABLE)),
    **dict.fromkeys(("td", "th"), (frozenset(("td", "th", "caption")), _TABLE)),
    "tr": (frozenset(("td", "th", "tr", "caption")), _TABLE),
    **dict.fromkeys(("tbody", "thead", "tfoot"), (TABLE_PARTS, _TABLE)),
    **dict.fromkeys(("rt", "rp", "rtc", "rb"), (RUBY | {"rb"}, frozenset(("ruby",)))),
}
MAX_OPEN = 256  # elements in each other; deeper ones are not remembered (browsers: 512)

HIDDEN = "hidden elements are left out"
NAVIGATION = "navigation (<nav>) is left out"
READINGS = "readings of words (ruby) are left out"
CUT_SHORT = "pages end inside a tag, a comment or a script, and what follows its beginning is left out"

_SPACE = re.compile(r"[ \t\n\r\f]+")
_HIDING = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse))\b", re.IGNORECASE)

# What pages call their encoding, as https://encoding.spec.whatwg.org has it where Python does not: its name in Python
# -> the encoding that is meant. Others, such as rot13, are no encodings of pages.
ENCODINGS = {
    **{name: name for name in ("utf-8", "cp866", "gb18030", "euc_jp", "iso2022_jp", "koi8-r", "koi8-u", "cp874")},
    **{name: name for name in (*(f"cp{n}" for n in range(1250, 1259)), "mac-roman", "mac-cyrillic", "cp949", "cp932")},
    **{name: name for name in (f"iso8859-{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16))},
    **dict.fromkeys(("iso8859-1", "ascii"), "cp1252"),
    **dict.fromkeys(("iso8859-11", "tis-620"), "cp874"),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    **dict.fromkeys(("big5", "big5hkscs"), "big5hkscs"),
    **dict.fromkeys(("utf-16", "utf-16-le", "utf-16-be"), "utf-8"),  # a page that can be read so far is not in UTF-16
    "iso8859-9": "cp1254",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
_DECLARATION = re.compile(
    rb"<\?xml[^>]*\sencoding\s*=\s*[\"']([\w.:-]+)|<meta[\s/][^>]*\bcharset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE
)
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
HEAD_BYTES = 4096  # searched for a declaration


def read_html(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The text of a page. Raises DataError if it is not in the encoding that it declares."""
    yield html_text(decode_html(read_bytes(file, name, options), name, options, found), found)


def html_text(markup: str, found: Counter[str]) -> str:
    """The text of a page, or part of one, as its reader sees it; what is left out is counted in `found`."""
    page = _Page(found)
    markup = markup.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\N{REPLACEMENT CHARACTER}")
    page.feed(markup + "\n")  # without it, a last line with & is kept back
    if page.rawdata:  # `close` would give it out as text
        found[CUT_SHORT] += 1
    return page.blocks.text()


def decode_html(data: bytes, name: str, options: ReadOptions, found: Counter[str]) -> str:
    """A page as text: in the encoding of its byte order mark, of its declaration, of the options, or in UTF-8."""
    if data.startswith(_UTF16_MARKS):
        return decode(data, name, replace(options, encoding="utf-16"), found)
    declared = None if data.startswith(codecs.BOM_UTF8) else _declared_encoding(data[:HEAD_BYTES])
    if declared is None:
        return decode(data, name, options, found)
    try:
        return decode(data, name, replace(options, encoding=None if declared == "utf-8" else declared), found)
    except DataError:
        if options.encoding is None:
            raise
        return decode(data, name, options, found)  # the declaration is wrong, and the user knows better


def _declared_encoding(head: bytes) -> str | None:
    """The encoding that the beginning of a page declares, as Python calls it; None without one that is known."""
    if (match := _DECLARATION.search(_COMMENT.sub(b"", head))) is None:
        return None
    try:
        return ENCODINGS.get(codecs.lookup((match[1] or match[2]).decode("ascii")).name)
    except LookupError:
        return None


class _Page(HTMLParser):
    """Writes the text of a page to `blocks` while its tags go by.

    A list of open elements stands in for the tree: enough to know where a hidden one ends without its end tag.
    """

    # Elements that contain no tags; older versions of Python have the first two only.
    CDATA_CONTENT_ELEMENTS = NO_TAGS_INSIDE  # type: ignore[misc]

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.blocks = TextBlocks()
        self._found = found
        self._open: list[str] = []
        self._n_open = Counter[str]()  # the same, counted
        self._hidden: int | None = None  # how many elements are open around the hidden one
        self._preformatted = 0  # elements
        self._begins_preformatted = False
        self._rows: list[bool] = []  # per open table: whether the next cell is the first of its row
        self._shifted: list[str] | None = None  # text of an open superscript or subscript
        self._shifted_by = ""  # its tag
        self._in_declaration = False

    @override
    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        tag = tag.rpartition(":")[2]
        if ends := _ENDED_BY.get(tag):
            self._end_implied(*ends)
        if self._hidden is None:
            self._begin(tag, attrs)
        if tag not in VOID and (len(self._open) < MAX_OPEN or self._hidden == len(self._open)):
            self._open.append(tag)
            self._n_open[tag] += 1

    @override
    def handle_endtag(self, tag: str) -> None:
        tag = tag.rpartition(":")[2]
        if not self._n_open[tag]:
            return
        beyond = _TABLE if tag in TABLE_PARTS else _NOTHING if tag == "table" else _IN_TABLE
        for i in range(len(self._open) - 1, -1, -1):
            if self._open[i] == tag:
                break
            if self._open[i] in beyond:
                return
        else:
            return
        if tag in GAPS or not any(each in GAPS for each in self._open[i + 1 :]):
            self._close(i)
        elif self._hidden is None or i >= self._hidden:  # a word's formatting that ends inside a later block
            if self._hidden == i:
                self._hidden = None
            del self._open[i]
            self._n_open[tag] -= 1

    @override
    def handle_data(self, data: str) -> None:
        if self._in_declaration and data.strip():
            data = data.lstrip().removeprefix("]").lstrip().removeprefix(">")
            self._in_declaration = False
        if self._hidden is not None:
            return
        if self._shifted is not None:
            self._shifted.append(data)
        elif self._preformatted:
            data = data.removeprefix("\n") if self._begins_preformatted else data
            self._begins_preformatted = False
            self.blocks.write(data, indent=True)
        else:
            self._write_line(data)

    @override
    def handle_decl(self, decl: str) -> None:
        self._in_declaration = "[" in decl  # entities of XHTML, whose ends the parser takes for its end

    @override
    def unknown_decl(self, data: str) -> None:
        if data.startswith("CDATA["):  # in XHTML
            self.handle_data(data.removeprefix("CDATA["))

    @override
    def parse_marked_section(self, i: int, report: bool = True) -> int:
        try:
            return super().parse_marked_section(i, report)
        except AssertionError:  # of older versions of Python for `<![` with an unknown word, which is a comment
            end = self.rawdata.find(">", i)
            return end + 1 if end >= 0 else -1

    def _write_line(self, data: str) -> None:
        data = _SPACE.sub(" ", data)
        if data[:1] == " ":
            self.blocks.gap(SPACE)
        if words := data.strip(" "):
            self.blocks.write(words)
            if data[-1] == " ":
                self.blocks.gap(SPACE)

    def _begin(self, tag: str, attrs: Attributes) -> None:
        """An element begins that is not inside of a hidden one."""
        attributes = dict(reversed(attrs))
        if tag not in VOID and self._is_left_out(tag, attributes):
            self._hidden = len(self._open)
            return
        if tag in GAPS or tag in TABLE_PARTS or tag == "br":
            self._end_shifted(str)
        if tag == "br":
            self.blocks.line_break()
        elif tag in ("td", "th"):
            self.blocks.cell(first=not self._rows or self._rows[-1])
            self._rows[-1:] = [False]
        elif tag == "tr":
            self.blocks.gap(LINE)
            self._rows[-1:] = [True]
        elif tag in ("sup", "sub") or NOTE_MARKS.intersection((attributes.get("epub:type"), attributes.get("role"))):
            self._end_shifted(str)
            self._shifted, self._shifted_by = [], tag
        elif tag == "q":
            self.blocks.write("“")
        elif tag == "img" and len(letter := (attributes.get("alt") or "").strip()) == 1 and letter.isalpha():
            self.blocks.write(letter)  # the first of a chapter, drawn
        elif gap := GAPS.get(tag):
            self.blocks.gap(self._list_gap(tag, gap))
        if tag == "table":
            self._rows.append(True)
        elif tag in PREFORMATTED:
            self._preformatted += 1
            self._begins_preformatted = True

    def _is_left_out(self, tag: str, attributes: dict[str, str | None]) -> bool:
        """Whether an element is not shown; counted, unless it never is."""
        if tag in NOT_SHOWN:
            return True
        hides = "hidden" in attributes or attributes.get("aria-hidden") == "true"
        hides = hides or (tag == "dialog" and "open" not in attributes)
        if hides or _HIDING.search(attributes.get("style") or ""):
            self._found[HIDDEN] += 1
        elif tag == "nav" or attributes.get("role") in ("navigation", "doc-toc"):
            self._found[NAVIGATION] += 1
        elif tag in RUBY:
            self._found.update([READINGS] if tag == "rt" else [])
        else:
            return False
        return True

    def _list_gap(self, tag: str, gap: int) -> int:
        """A list inside of a list has no empty lines around it."""
        return LINE if tag in LISTS and not LISTS.isdisjoint(self._open) else gap

    def _end_implied(self, ended: frozenset[str], beyond: frozenset[str]) -> None:
        """Close the open elements that the beginning of another one ends."""
        if not any(map(self._n_open.get, ended)):
            return
        last = None
        for i in range(len(self._open) - 1, -1, -1):
            if self._open[i] in ended:
                last = i
            elif self._open[i] in beyond:
                break
        if last is not None:
            self._close(last)

    def _close(self, i: int) -> None:
        """Close the open elements from number `i` on."""
        while len(self._open) > i:
            tag = self._open.pop()
            self._n_open[tag] -= 1
            if self._hidden is None:
                self._end(tag)
            elif self._hidden == len(self._open):
                self._hidden = None

    def _end(self, tag: str) -> None:
        """An element ends that was shown."""
        if tag == self._shifted_by:
            self._end_shifted(subscript if tag == "sub" else superscript)
        if tag in ("td", "th"):
            self.blocks.gap(TAB)
        elif tag == "tr":
            self.blocks.end_row()
        elif tag == "q":
            self.blocks.write("”")
        elif gap := GAPS.get(tag):
            self._end_shifted(str)
            self.blocks.gap(self._list_gap(tag, gap))
        if tag == "table" and self._rows:
            self._rows.pop()
        elif tag in PREFORMATTED:
            self._preformatted -= 1
            self._begins_preformatted = False

    def _end_shifted(self, spell: Callable[[str], str]) -> None:
        """Write the text of a superscript or subscript that is open."""
        if self._shifted is not None:
            text, self._shifted = "".join(self._shifted), None
            self._shifted_by = ""
            self._write_line(spell(text) if text == text.strip() else text)
