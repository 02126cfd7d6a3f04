"""PDF: the text of its pages in order, line by line, as PDFium finds it."""

import re
from collections import Counter
from collections.abc import Iterator
from ctypes import byref, c_double
from itertools import pairwise
from statistics import median_low
from typing import Any, BinaryIO

from groundup.errors import DataError
from groundup.sources.documents.options import NoTextError, ReadOptions
from groundup.sources.text import REPLACEMENT

MAX_FILE_BYTES = 1 << 30
HEAD_BYTES = 1024  # which a PDF may begin in
MAX_PAGES = 100_000
MAX_UNKNOWN_SHARE = 0.02  # of a page's characters; what is left of a page with more is no text
PARAGRAPH_GAP = 1.4  # line spacings of the page

NO_UNICODE = "pages whose fonts do not say which characters they show are left out"
UNKNOWN = "characters that their font does not name were replaced by U+FFFD"
NO_TEXT = "pages without text, such as scans, are left out"
SYMBOLS = "symbols of fonts without Unicode are left out"
MARGINS = "running titles and page numbers are left out"
JOINED = "words cut by a line end were joined, as the text has them elsewhere"

MIN_IN_A_ROW = 3  # pages with the same first or last line

_LIGATURES = {0xFB00 + i: text for i, text in enumerate(("ff", "fi", "fl", "ffi", "ffl", "st", "st"))}
_SPELLINGS = {2: "-\n", 0xAD: "-", 0xA0: " ", **_LIGATURES}  # 2 is a hyphen after which PDFium joins two lines
_NO_CHARACTERS = frozenset((*range(2), *range(3, 9), 11, *range(14, 32), 0xFFFE, 0xFFFF))
_LINE_ENDS = (10, 12, 13)
_CUT_WORD = re.compile(r"(?<![^\W\d_])([^\W\d_]++)-\n([^\W\d_]+)")
_NUMBER = re.compile(r"[0-9]{1,9}")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


def read_pdf(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The text of all pages as one. Raises DataError for a PDF with a password, and for one without text."""
    import pypdfium2

    if file.seek(0, 2) > MAX_FILE_BYTES:
        raise DataError(f"{name}: a PDF of more than {MAX_FILE_BYTES >> 20:,} MiB, the most that is read; split it")
    file.seek(0)
    if b"%PDF-" not in file.read(HEAD_BYTES):
        raise DataError(f"{name}: no PDF, as it does not begin with %PDF-; get a complete copy of it")
    try:
        document = pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise NoTextError(f"{name}: is protected by a password; save a copy without one") from None
        raise DataError(f"{name}: damaged or cut short as a PDF; get a complete copy of it") from None
    try:
        if len(document) > MAX_PAGES:
            raise DataError(f"{name}: has more than {MAX_PAGES:,} pages; split it")
        pages, left = list[str](), options.max_bytes
        for i in range(len(document)):
            page = document[i]
            pages.append(_page_text(page, found))
            page.close()
            left -= len(pages[-1])
            if left < 0:
                raise DataError(f"{name}: holds more than {options.max_bytes >> 20:,} MiB of text; split it")
    finally:
        document.close()
    n_without = pages.count("")
    if n_without == len(pages):
        cause = "its fonts do not say which characters they show" if found[NO_UNICODE] else "its pages are pictures"
        raise NoTextError(f"{name}: there is no text in this PDF, as {cause}; recognize it first, with: ocrmypdf")
    if n_without > found[NO_UNICODE]:
        found[NO_TEXT] += n_without - found[NO_UNICODE]
    yield _join_words("\n".join(filter(None, _without_margins(pages, found))), found)


def _page_text(page: Any, found: Counter[str]) -> str:
    """The lines of a page, with an empty one where the gap is wider; empty if it has no text that can be read."""
    from pypdfium2 import raw

    text_page = page.get_textpage()
    handle, n = text_page.raw, text_page.count_chars()
    codes = [raw.FPDFText_GetUnicode(handle, i) for i in range(n)]
    unknown = [i for i in range(n) if codes[i] in _NO_CHARACTERS or raw.FPDFText_HasUnicodeMapError(handle, i) == 1]
    if len(unknown) > MAX_UNKNOWN_SHARE * n:
        found[NO_UNICODE] += 1
        return ""
    for i in unknown:
        codes[i] = ord(REPLACEMENT)
    if unknown:
        found[UNKNOWN] += len(unknown)
    starts = [0, *(i + 1 for i in range(n) if codes[i] in _LINE_ENDS)]
    lines = [(start, _spell(codes[start:end], found)) for start, end in pairwise([*starts, n + 1])]
    lines = [(start, line.rstrip()) for start, line in lines if line.strip()]
    gaps = _gaps([_baseline(handle, start) for start, _ in lines])
    text_page.close()
    return "".join(gap + line for gap, (_, line) in zip(["", *gaps], lines, strict=False))


def _spell(codes: list[int], found: Counter[str]) -> str:
    """A line of code units as text. A hyphen that PDFium has joined with the next line gets its line end again."""
    symbols = sum(0xF000 <= code <= 0xF0FF for code in codes)
    if symbols:
        found[SYMBOLS] += symbols
    spelt = "".join(_SPELLINGS.get(code) or chr(code) for code in codes if not 0xF000 <= code <= 0xF0FF)
    return spelt.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _baseline(handle: Any, i: int) -> float:
    """How far above the lower edge of the page the line of a character stands, in points."""
    from pypdfium2 import raw

    x, y = c_double(), c_double()
    raw.FPDFText_GetCharOrigin(handle, i, byref(x), byref(y))
    return y.value


def _gaps(baselines: list[float]) -> list[str]:
    """The line ends between lines: two, for an empty line, where they stand further apart than lines of the page do."""
    steps = [above - below for above, below in pairwise(baselines)]
    usual = median_low([step for step in steps if step > 0] or [0])
    return ["\n\n" if step > PARAGRAPH_GAP * usual else "\n" for step in steps]


def _without_margins(pages: list[str], found: Counter[str]) -> list[str]:
    """The pages without running titles and page numbers: first or last lines that are the same on pages in a row.

    Numbers that grow from page to page as pages do count as the same.
    """
    for edge in (0, -1, 0, -1):  # twice, as a number may stand above or below a title
        lines = [page.split("\n") for page in pages]
        with_line: dict[str, list[int]] = {}
        for i, each in enumerate(lines):
            for key in {each[edge], _from_page(each[edge], i)} - {""}:
                with_line.setdefault(key, []).append(i)
        margins = {i for numbers in with_line.values() for i in _in_a_row(numbers)}
        for i in margins:
            del lines[i][edge]
        if margins:
            found[MARGINS] += len(margins)
        pages = ["\n".join(each).strip("\n") for each in lines]
    return pages


def _from_page(line: str, page: int) -> str:
    """A line whose numbers are counted from that of its page."""
    return _NUMBER.sub(lambda number: f"#{int(number[0]) - page}", line)


def _in_a_row(numbers: list[int]) -> list[int]:
    """Those of rising `numbers` that follow each other, on every page or every other one, `MIN_IN_A_ROW` times."""
    rows: list[list[int]] = []
    for number in numbers:
        if rows and number - rows[-1][-1] <= 2:
            rows[-1].append(number)
        else:
            rows.append([number])
    return [number for row in rows if len(row) >= MIN_IN_A_ROW for number in row]


def _join_words(text: str, found: Counter[str]) -> str:
    """Join words that a line end cuts where the text has them whole; others keep hyphen and line end."""
    cut = _CUT_WORD.findall(text)
    if not cut:
        return text
    words = {word.lower() for word in _WORD.findall(_CUT_WORD.sub(" ", text))}

    def join(match: re.Match[str]) -> str:
        for joined in (match[1] + match[2], f"{match[1]}-{match[2]}"):
            if joined.lower() in words:
                found[JOINED] += 1
                return joined
        return match[0]

    return _CUT_WORD.sub(join, text)
