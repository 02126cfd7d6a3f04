"""Longest verbatim overlap of samples with a text."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.evaluation import memorization as module
from groundup.evaluation.memorization import longest_overlap, overlap

LETTERS = st.text(alphabet="ab", max_size=60).map(str.encode)


def slowly(samples: list[bytes], text: bytes) -> int:
    pieces = (s[i:j] for s in samples for i in range(len(s)) for j in range(i + 1, len(s) + 1))
    return max((len(piece) for piece in pieces if piece in text), default=0)


@given(st.lists(LETTERS, max_size=3), LETTERS)
def test_it_equals_a_search_by_brute_force(samples, text):
    found = longest_overlap(samples, text)
    assert len(found) == slowly(samples, text)
    assert found in text
    assert any(found in sample for sample in samples) or not found


def test_an_overlap_across_chunks_is_found(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_WORDS", 16)
    text = random.Random(0).randbytes(400)
    for start in range(0, 300, 7):
        assert longest_overlap([b"\0\1" + text[start : start + 50] + b"\2"], text) in text
        assert len(longest_overlap([text[start : start + 50]], text)) == 50


def test_a_full_table_changes_nothing(monkeypatch):
    monkeypatch.setattr(module, "TABLE_BITS", 1)  # now every word is frequent
    text = random.Random(0).randbytes(400)
    assert longest_overlap([text[33:90] + b"x"], text) == text[33:90]


@pytest.mark.parametrize(
    ("samples", "is_memorized"),
    [([b"the moon rose over the quiet harbour and the boats"], True), ([b"the moon fell"], False)],
)
def test_memorization_is_distinguished_from_common_phrases(samples, is_memorized):
    train = b"It was late. the moon rose over the quiet harbour and the boats slept. " * 3
    assert overlap(samples, train, b"the boats were gone when the day came over the hills").is_memorized is is_memorized


def test_pieces_of_held_out_text_are_as_many_and_as_long_as_the_samples_and_spread():
    train, val = b"abcdefghijklmnop" * 2, b"-" * 20 + b"abcdefghijklmnop" + b"-" * 4
    assert overlap([b"?" * 12], train, val).usual == 0  # the first 12 bytes
    assert overlap([b"?" * 12] * 2, train, val).usual == 12  # and 12 from the middle on
    assert overlap([b"?" * 12, b"?" * 9], train, val).usual == 9
    assert overlap([b"?" * 99] * 2, train, val).usual == 16


def test_repetitive_text_is_not_memorization():
    train = b"all work and no play " * 100
    found = overlap([train[5:100]], train, train[3:500])
    assert found.length == found.usual == 95
    assert not found.is_memorized


def test_without_common_text_the_overlap_is_empty():
    assert longest_overlap([b"xyz"], b"abc") == b""
    assert longest_overlap([], b"abc") == b""
    assert longest_overlap([b"abc"], b"") == b""
