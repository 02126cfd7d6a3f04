"""PDFs that fpdf2 wrote: pages in order, no word glued or made up, no page that cannot be read trained on silently."""

import re
import string
from pathlib import Path

import pytest
from fpdf import FPDF
from reading import read_with

from groundup.errors import DataError
from groundup.sources.documents.pdf import JOINED, MARGINS, NO_TEXT, NO_UNICODE, UNKNOWN, read_pdf

matplotlib = pytest.importorskip("matplotlib")
FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


class Pages:
    """A PDF to which lines are added at fixed places."""

    def __init__(self):
        self.pdf = FPDF()
        self.pdf.set_compression(False)
        self.pdf.add_font("DejaVu", "", FONT)
        self.pdf.set_font("DejaVu", size=12)

    def page(self, *lines, step=6):
        self.pdf.add_page()
        for i, line in enumerate(lines):
            self.pdf.text(20, 20 + step * i, line)
        return self

    def data(self):
        return bytes(self.pdf.output())


def test_hyphens_of_a_word_stay_and_no_compound_is_made_up():
    lines = ("a well-", "known fact", "an extraordi-", "nary day", "vracht- en verzendkosten", "01\xad2301")
    texts, found = read_with(read_pdf, Pages().page(*lines).data())
    assert texts == ["a well-\nknown fact\nan extraordi-\nnary day\nvracht- en verzendkosten\n01-2301"]
    assert found == {}


def test_words_that_are_cut_are_joined_as_the_text_has_them_elsewhere_and_counted():
    first = ("a well-", "known fact on an extraordi-", "nary day, un-", "heard of, and the next ordi-")
    data = Pages().page(*first).page("nary one.", "A Well-Known and extraordinary ordinary").data()
    texts, found = read_with(read_pdf, data)
    assert texts == [
        "a well-known fact on an extraordinary day, un-\nheard of, and the next ordinary one.\n"
        "A Well-Known and extraordinary ordinary"
    ]
    assert found == {JOINED: 3}


def test_a_wider_gap_is_an_empty_line_and_a_page_ends_a_line():
    pages = Pages().page("one", "two", "three")
    pages.pdf.text(20, 50, "four")
    assert read_with(read_pdf, pages.page("five", "six").data()) == (["one\ntwo\nthree\n\nfour\nfive\nsix"], {})


def test_running_titles_and_page_numbers_are_left_out_and_counted():
    pages = Pages()
    for n, word in enumerate(("one", "two", "three", "four", "five", "six")):
        title = f"A Title {n + 7}" if n % 2 else "An Author"
        number = [] if n % 2 else [str(n + 7)]
        pages.page(*([title] if n else []), f"Chapter {n * 2 + 1}", f"So {word} went", f"{word}.", *number)
    [text], found = read_with(read_pdf, pages.data())
    assert "Title" not in text
    assert text.count("Author") == 2  # on fewer pages than a running title
    assert text.startswith("Chapter 1\nSo one went\none.\nChapter 3\nSo two went\ntwo.\nAn Author\nChapter 5\n")
    assert found == {MARGINS: 6}


def test_a_line_with_which_some_pages_happen_to_begin_stays():
    pages = Pages()
    for n in range(9):
        pages.page("HAMLET." if n % 3 == 0 else f"{'abcdefghi'[n]}.", f"Words {'abcdefghi'[n]}")
    [text], found = read_with(read_pdf, pages.data())
    assert text.count("HAMLET.") == 3
    assert found == {}


def test_letters_that_are_printed_twice_for_bold_are_read_once():
    pages = Pages().page("bookkeeper coffee ﬁsh")
    x = 20
    for letter in "HELLO":
        pages.pdf.text(x, 40, letter)
        pages.pdf.text(x + 0.07, 40, letter)
        x += pages.pdf.get_string_width(letter)
    assert read_with(read_pdf, pages.data())[0][0].split() == ["bookkeeper", "coffee", "fish", "HELLO"]


def without_f(data):
    """The same PDF with NUL for the letter f in the table of its font's characters."""
    changed, n = re.subn(rb"<(\w{4})> <0066>", rb"<\1> <0000>", data)
    assert n == 1
    return changed


def test_a_pdf_whose_fonts_name_no_characters_is_refused():
    data = Pages().page("of fish flat figure").data()
    letters = Pages().page(string.ascii_letters).page("UVWXYZ").data()  # of glyphs that count on, past 32
    for changed in (without_f(data), data.replace(b"/ToUnicode", b"/ToUnicodX"), letters.replace(b"/ToUni", b"/ToUnX")):
        with pytest.raises(
            DataError, match=r"^p: there is no text in this PDF, as its fonts do not say which characters"
        ):
            read_with(read_pdf, changed, name="p")


def test_pages_that_cannot_be_read_are_counted_and_a_rare_letter_is_replaced():
    pages = Pages().page("of fish flat figure").page(*["a line with many letters"] * 9, "off").page()
    texts, found = read_with(read_pdf, without_f(pages.data()))
    assert texts == ["a line with many letters\n" * 9 + "o\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"]
    assert found == {NO_UNICODE: 1, NO_TEXT: 1, UNKNOWN: 2}


def test_a_scan_a_password_and_damage_get_a_sentence():
    with pytest.raises(
        DataError, match=r"^p: there is no text in this PDF, as its pages are pictures; recognize it firs"
    ):
        read_with(read_pdf, Pages().page().data(), name="p")
    pages = Pages().page("secret")
    pages.pdf.set_encryption("owner", "user")
    with pytest.raises(DataError, match=r"^p: is protected by a password; save a copy without one$"):
        read_with(read_pdf, pages.data(), name="p")
