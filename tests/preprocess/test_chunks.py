"""A file read in chunks gives the same ids as in one piece, for any chunk size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.sources.text import decode_file, rechunk
from groundup.tokenizers.bpe import BPETokenizer
from groundup.tokenizers.gpt2 import GPT2Tokenizer

CORPUS = "It's the end.\r\n\r\n\nI'll  say 12,345 times; 'tis\u00a0not…\n \nnaïve 日本\x1c!\n"
TOKENIZERS = {"gpt2": GPT2Tokenizer(), "bpe": BPETokenizer.train([CORPUS * 5], n_vocab=330)}

# Where cuts could go wrong: line ends, every kind of space (also U+001C, which only Python calls one), apostrophes.
texts = st.text(st.sampled_from(list("\n\n\r \t\x0b\x1c\x85\u00a0\u2003\u3000''!.abs12é日🙂"))) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"])
)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=texts, chunk_bytes=st.integers(1, 9))
def test_ids_do_not_depend_on_the_chunk_size(tmp_path_factory, name, text, chunk_bytes):
    path = tmp_path_factory.getbasetemp() / "chunked.txt"
    path.write_bytes(("a" + text).encode())  # the "a" keeps a first U+FEFF from being a byte order mark
    encode = TOKENIZERS[name].encode
    chunks = list(rechunk(decode_file(path, "strict", chunk_bytes)))
    assert np.array_equal(np.concatenate([encode(chunk) for chunk in chunks]), encode("a" + text))


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 1000])
def test_a_real_text_is_cut_often_and_unnoticed(tmp_path, name, chunk_bytes):
    (tmp_path / "a.txt").write_bytes(CORPUS.encode() * 50)
    encode = TOKENIZERS[name].encode
    chunks = list(rechunk(decode_file(tmp_path / "a.txt", "strict", chunk_bytes)))
    assert len(chunks) > 2
    assert np.array_equal(np.concatenate([encode(chunk) for chunk in chunks]), encode(CORPUS * 50))
