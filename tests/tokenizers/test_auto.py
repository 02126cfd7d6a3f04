"""The tokenizer that `auto` takes: by the size and the script of a text alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.tokenizers.auto import auto_tokenizer
from groundup.tokenizers.registry import choose_tokenizer


@pytest.mark.parametrize(
    ("n_bytes", "bytes_per_character", "chosen"),
    [
        (300, 1, "byte"),
        (100_000, 1, "byte"),
        (100_000, 3, "bpe:512"),  # Chinese: each character is three bytes
        (1_115_394, 1, "bpe:1024"),
        (2_241_123, 1, "bpe:2048"),
        (50_000_000, 1, "bpe:4096"),
        (10**10, 1, "bpe:4096"),
    ],
)
def test_it_follows_size_and_script(n_bytes, bytes_per_character, chosen):
    assert auto_tokenizer(n_bytes, bytes_per_character).spec == chosen


def test_a_genome_is_read_as_bytes():
    assert auto_tokenizer(10**9, 1.0, distinct=5).spec == "byte"


@given(st.integers(0, 10**13), st.floats(1, 4), st.integers(0, 10_000))
def test_every_choice_is_a_tokenizer_and_has_a_reason(n_bytes, bytes_per_character, distinct):
    spec, reason = auto_tokenizer(n_bytes, bytes_per_character, distinct)
    assert choose_tokenizer(spec)
    assert reason
