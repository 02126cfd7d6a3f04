"""Boilerplate of Project Gutenberg is left out and told; a text that only speaks of it is not touched."""

import pytest
from documents import read
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.sources.corpus import open_sources
from groundup.sources.gutenberg import FINDING, without_boilerplate

HEAD = (
    "The Project Gutenberg eBook of Moby Word\n\nThis ebook is for the use of anyone anywhere in the United States\n\n"
    "Title: Moby Word\n\nRelease date: July 1, 2001 [eBook #2701]\n\n"
)
START = "*** START OF THE PROJECT GUTENBERG EBOOK MOBY WORD ***\n"
END = "*** END OF THE PROJECT GUTENBERG EBOOK MOBY WORD ***\n"
LICENCE = "\nUpdated editions will replace the previous one.\n" * 50
BOOK = "CHAPTER 1. Loomings.\n\nCall me QVAR1.\n\n*** three stars are no mark ***\n\nFINIS QVAR2\n"


def strip(text, size=10**9):
    found = []
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    return "".join(without_boilerplate(pieces, lambda clause, n: found.append((clause, n)))), found


@pytest.mark.parametrize("size", [1, 7, 100, 10**9])
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (HEAD + START + "\n\n\n" + BOOK + "\n\n\n" + END + LICENCE, BOOK),
        (HEAD + START + "\n\nProduced by Ann Other and the\nOnline Team at pgdp.net\n\n\n" + BOOK + "\n" + END, BOOK),
        (
            HEAD + "***START OF THE PROJECT GUTENBERG EBOOK MOBY\nWORD***\n\n\nE-text prepared by Ann Other\n\n\n"
            + BOOK + "\n\nEnd of Project Gutenberg's Moby Word, by Herman\n\n" + END + LICENCE,
            BOOK,
        ),
        ("small print\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n" + BOOK
         + "\nEnd of the Project Gutenberg Etext of Moby Word\n", BOOK),
        ((HEAD + START + BOOK + END + LICENCE).replace("\n", "\r\n"), BOOK.replace("\n", "\r\n")),
        (HEAD + START + BOOK + END + LICENCE + HEAD + START + BOOK + END + LICENCE, BOOK * 2),
        (HEAD + START + BOOK, BOOK),
    ],
    ids=["today's", "helpers", "older", "oldest", "crlf", "two books", "no end"],
)  # fmt: skip
def test_what_stands_between_the_marks_is_kept(text, kept, size):
    result, found = strip(text, size)
    assert result.replace("\r\n", "\n") == kept.replace("\r\n", "\n")
    assert found == [(FINDING, 1)]


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["Project Gutenberg\n", "***\n", "*** END OF", "a ", "\n", "End of the line\n"])))
def test_any_other_text_is_as_it_was(parts):
    assert strip("".join(parts), 3) == ("".join(parts), [])


def test_a_mark_late_in_a_text_is_none(tmp_path):
    text = "prose about books\n" * 3000 + START + "more prose\n" + END + "the end\n"
    assert strip(text) == (text, [])


def test_a_book_is_read_without_and_with_it(tmp_path):
    (tmp_path / "moby.txt").write_text(HEAD + START + BOOK + END + LICENCE)
    (tmp_path / "b.py").write_text(HEAD + START + BOOK + END)
    assert [text for *_, text in read(tmp_path / "moby.txt", tmp_path / "b.py")] == [BOOK, HEAD + START + BOOK + END]
    with open_sources([tmp_path / "moby.txt"]) as corpus:
        assert ["".join(each.chunks()) for each in corpus] == [BOOK]
        assert corpus.findings() == [f"{FINDING}: 1 in moby.txt"]
    assert read(tmp_path / "moby.txt", read_as="text")[0][2] == HEAD + START + BOOK + END + LICENCE
