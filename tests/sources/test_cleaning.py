"""Cleaning works as its table says, wherever the chunks end."""

import string
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.errors import UsageError
from groundup.sources.cleaning import STEPS, clean_document, clean_text, parse_cleaning_steps
from groundup.sources.text import Document, chunk_text


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ("", "Don't PANIC: 1,024 «Ναί» costs $5 ٣ 🙂\n"),
        ("lowercase", "don't panic: 1,024 «ναί» costs $5 ٣ 🙂\n"),
        ("digits", "Don't PANIC: , «Ναί» costs $  🙂\n"),
        ("punctuation", "Dont PANIC 1024 Ναί costs 5 ٣ 🙂\n"),
        ("punctuation,lowercase,digits", "dont panic  ναί costs   🙂\n"),
    ],
)
def test_each_step_drops_its_characters(steps, text):
    assert clean_text("Don't PANIC: 1,024 «Ναί» costs $5 ٣ 🙂\n", parse_cleaning_steps(steps)) == text


@settings(deadline=None)
@given(st.text())
def test_no_dropped_character_is_left(text):
    found = clean_text(text, STEPS)
    assert not any(unicodedata.category(char) == "Nd" or unicodedata.category(char)[0] == "P" for char in found)
    assert not set(found) & set(string.punctuation)


texts = st.text(st.sampled_from(list("aBΣς İ.,!1 \n\n日")))


@settings(deadline=None)  # the first call scans all of Unicode
@given(text=texts, chunk=st.integers(1, 9), steps=st.sets(st.sampled_from(STEPS)))
def test_the_chunks_of_a_document_do_not_matter(text, chunk, steps):
    wished = parse_cleaning_steps(steps)
    chunks = list(clean_document(Document("a", 0, lambda: chunk_text(text, chunk)), wished).chunks())
    assert "".join(chunks) == clean_text(text, wished)
    assert all(not left[-1].isspace() and right[0] in " \n" for left, right in pairwise(chunks))


def test_an_unknown_step_is_refused():
    with pytest.raises(UsageError, match="clean: 'numbers' is not one of lowercase, digits, punctuation"):
        parse_cleaning_steps("lowercase,numbers")
