"""Byte tokenizer: one id per byte; character tokenizer: one id per character."""

import pytest

from groundup.errors import TokenizerError
from groundup.tokenizers.byte_char import ByteTokenizer, CharTokenizer


def test_byte_ids_are_the_bytes():
    assert ByteTokenizer().encode("aé").tolist() == [0x61, 0xC3, 0xA9]
    assert (ByteTokenizer().n_vocab, ByteTokenizer().end_of_text) == (257, 256)


def test_char_ids_follow_code_points_and_the_last_ends_a_text():
    tokenizer = CharTokenizer.train(["ba", "é🙂"])
    assert tokenizer.encode("abé🙂").tolist() == [0, 1, 2, 3]
    assert (tokenizer.n_vocab, tokenizer.end_of_text) == (5, 4)


@pytest.mark.parametrize(
    ("char", "message"),
    [
        ("c", r"'c' \(U\+0063 LATIN SMALL LETTER C\) is not among the 3 characters"),  # between known ones
        ("é", r"'é' \(U\+00E9 LATIN SMALL LETTER E WITH ACUTE\)"),  # just past the last
        ("🙂", r"U\+1F642 SLIGHTLY SMILING FACE"),
        ("\x00", r"U\+0000 unnamed"),
    ],
)
def test_an_unknown_character_is_named(char, message):
    with pytest.raises(TokenizerError, match=message):
        CharTokenizer.train(["abè"]).encode("ab" + char)
