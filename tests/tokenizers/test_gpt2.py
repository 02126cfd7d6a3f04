"""GPT-2's tokenizer against published facts and against the other implementation of it."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from groundup.errors import TokenizerError
from groundup.tokenizers import gpt2
from groundup.tokenizers.gpt2 import GPT2Tokenizer
from tokenizers import pre_tokenizers

TOKENIZER = GPT2Tokenizer()


def test_vocabulary():
    assert (TOKENIZER.n_vocab, TOKENIZER.end_of_text) == (50257, 50256)
    assert len(set(TOKENIZER.pieces)) == 50257


def test_the_model_card_example():
    assert TOKENIZER.encode("Hello, I am a language model,").tolist() == [15496, 11, 314, 716, 257, 3303, 2746, 11]


def test_tiny_shakespeare(shared_data):
    text = (shared_data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    assert len(TOKENIZER.encode(text)) == 338_025


@given(st.text(st.sampled_from(list("ab1! '\n\r\t\x0b\x1c\u00a0\u2003é日stvlred"))))
@example("I'll  we've\n\n don't's ''s  ")
def test_tokens_never_cross_the_pieces_of_the_other_implementation(text):
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    apart = [TOKENIZER.encode(text[start:stop]) for _, (start, stop) in pieces]
    assert np.array_equal(TOKENIZER.encode(text), np.concatenate([[], *apart]))


@pytest.mark.parametrize("space", [" ", "\n", "\u2003"])
def test_very_long_white_space_is_encoded(space):
    text = "a" + space * 1_200_000 + "b"
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(before=st.integers(0, 12), after=st.sampled_from(["", "b", "!", "1"]), space=st.sampled_from(" \n\t\u2003"))
def test_cutting_long_white_space_changes_no_id(before, after, space):
    text = "a" + space * before + after
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt2, "_LONG_SPACE", gpt2.re.compile(gpt2._LONG_SPACE.pattern.replace("100000", "3")))
        assert np.array_equal(gpt2._encode_parts(TOKENIZER._encoding, text), TOKENIZER.encode(text))


def test_a_damaged_package_is_found(tmp_path, monkeypatch):
    (tmp_path / "vocab").mkdir()
    (tmp_path / gpt2.MERGES_FILE).write_bytes(b"not xz")
    monkeypatch.setattr(gpt2.resources, "files", lambda _: tmp_path)
    gpt2.gpt2_pieces.cache_clear()
    with pytest.raises(TokenizerError, match="damaged; install groundup again"):
        gpt2.gpt2_pieces()


def test_the_notice_names_the_file_that_is_shipped():
    notice = (Path(__file__).parents[2] / "NOTICE").read_text(encoding="utf-8")
    assert gpt2.MERGES_SHA256 in notice
    merges = gpt2.lzma.decompress((Path(gpt2.__file__).parent / gpt2.MERGES_FILE).read_bytes())
    assert hashlib.sha256(merges).hexdigest() == gpt2.MERGES_SHA256
