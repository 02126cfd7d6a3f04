"""The trained BPE against the library, and the file, that it must agree with."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import TokenizerError
from groundup.text.bpe import BPETokenizer
from groundup.text.tokenizer import load_tokenizer

CORPUS = ["low lower lowest, new newer newest;\n" * 20, "<|endoftext|> wide wider widest — naïve\r\n" * 20]
TOKENIZER = BPETokenizer.learn(CORPUS, n_vocab=320)


@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.text("lowernst <|>\n\r' é"))
def test_ids_are_those_of_the_saved_file_in_the_library(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp() / "bpe"
    if not folder.exists():
        TOKENIZER.save(folder)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    assert TOKENIZER.encode(text).tolist() == theirs.encode(text).ids
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == theirs.decode(theirs.encode(text).ids)


def test_frequent_words_become_one_token():
    assert len(TOKENIZER.encode(" lower")) < len(TOKENIZER.encode(" rewol")) == 6


def test_the_smallest_vocabulary_is_the_bytes():
    tokenizer = BPETokenizer.learn(CORPUS, n_vocab=257)
    assert tokenizer.n_vocab == 257
    assert len(tokenizer.encode("naïve")) == 6


def test_a_small_corpus_gives_fewer_ids_than_asked_for():
    assert BPETokenizer.learn(["ab ab"], n_vocab=1000).n_vocab == 257 + len(["ab", " ab"])


def test_training_twice_gives_the_same_tokenizer():
    assert BPETokenizer.learn(CORPUS, n_vocab=320).fingerprint == TOKENIZER.fingerprint


def test_an_error_of_the_texts_passes_through_training():
    def texts():
        yield "some text"
        raise TokenizerError("from the text")

    with pytest.raises(TokenizerError, match="from the text"):
        BPETokenizer.learn(texts(), n_vocab=300)


@pytest.mark.parametrize("contents", ["", "{}", '{"model": {"vocab": {"a": 0}, "merges": []}}'])
def test_a_foreign_tokenizer_file_is_refused(tmp_path, contents):
    TOKENIZER.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(contents)
    with pytest.raises(TokenizerError, match="not a byte-level BPE"):
        load_tokenizer(tmp_path)
