"""The trained BPE against the tokenizers library and its file."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers
from groundup.errors import TokenizerError
from groundup.tokenizers.bpe import BPETokenizer
from groundup.tokenizers.hf_backend import HFTokenizer
from groundup.tokenizers.registry import bpe_trainer, choose_tokenizer, load_tokenizer

CORPUS = ["low lower lowest, new newer newest;\n" * 20, "<|endoftext|> wide wider widest — naïve\r\n" * 20]
TOKENIZER = BPETokenizer.train(CORPUS, n_vocab=320)


@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.text("lowernst <|>\n\r' é"))
def test_ids_are_those_of_the_saved_file_in_the_library(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp() / "bpe"
    if not folder.exists():
        TOKENIZER.save(folder)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    assert TOKENIZER.encode(text).tolist() == theirs.encode(text).ids
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == theirs.decode(theirs.encode(text).ids)


@settings(deadline=None)  # it is trained many times
@given(data=st.data(), alphabet=st.sampled_from(["a", "ab", "aaab", "aab ", "的一", "éèé", "ab'.s1 \n"]))
def test_ids_equal_the_librarys_for_any_merges(data, alphabet):
    """Repetitions and overlaps, where the two ways to apply merges could differ."""
    texts = st.text(st.sampled_from(alphabet), min_size=1, max_size=300)
    tokenizer = BPETokenizer.train(data.draw(st.lists(texts, min_size=1, max_size=4)), n_vocab=400)
    assert tokenizer._encoding is not None
    for text in data.draw(st.lists(texts, min_size=1, max_size=9)):
        assert np.array_equal(tokenizer.encode(text), HFTokenizer.encode(tokenizer, text))


@pytest.mark.slow
def test_every_character_has_the_librarys_ids():
    codes = [*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x20000, 8), *range(0x20000, 0x110000, 64)]
    characters = [chr(code) for code in codes]
    for first in range(0, len(characters), 256):
        text = "\n".join(f"lower{c}lower 12{c}12 {c} {c}'s {c}" for c in characters[first : first + 256])
        assert np.array_equal(TOKENIZER.encode(text), HFTokenizer.encode(TOKENIZER, text)), hex(first)


def test_a_real_text_has_the_librarys_ids(shared_data):
    text = (shared_data / "tinyshakespeare" / "input.txt").read_text()
    tokenizer = BPETokenizer.train([text], n_vocab=2000)
    assert np.array_equal(tokenizer.encode(text), HFTokenizer.encode(tokenizer, text))


@pytest.mark.parametrize("change", ["order", "pattern"])
def test_a_modified_file_is_encoded_by_the_library(change):
    contents = json.loads(TOKENIZER._files["tokenizer.json"])
    if change == "order":
        merges = contents["model"]["merges"]
        merges[0], merges[1] = merges[1], merges[0]
    else:
        contents["pre_tokenizer"]["add_prefix_space"] = True
    changed = BPETokenizer(json.dumps(contents))
    theirs = tokenizers.Tokenizer.from_str(json.dumps(contents))
    assert changed.encode(CORPUS[0]).tolist() == theirs.encode(CORPUS[0]).ids
    assert changed._encoding is None


def test_frequent_words_become_one_token():
    assert len(TOKENIZER.encode(" lower")) < len(TOKENIZER.encode(" rewol")) == 6


def test_the_smallest_vocabulary_is_the_bytes():
    tokenizer = BPETokenizer.train(CORPUS, n_vocab=257)
    assert tokenizer.n_vocab == 257
    assert len(tokenizer.encode("naïve")) == 6


def test_a_small_corpus_gives_fewer_ids_than_asked_for():
    assert BPETokenizer.train(["ab ab"], n_vocab=1000).n_vocab == 257 + len(["ab", " ab"])


def test_training_twice_gives_the_same_tokenizer():
    assert BPETokenizer.train(CORPUS, n_vocab=320).fingerprint == TOKENIZER.fingerprint


def test_an_error_while_reading_texts_is_raised_by_training():
    def texts():
        yield "some text"
        raise TokenizerError("from the text")

    with pytest.raises(TokenizerError, match="from the text"):
        BPETokenizer.train(texts(), n_vocab=300)


@pytest.mark.parametrize("contents", ["", "{}", '{"model": {"vocab": {"a": 0}, "merges": []}}'])
def test_a_foreign_tokenizer_file_is_refused(tmp_path, contents):
    TOKENIZER.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(contents)
    with pytest.raises(TokenizerError, match="not a byte-level BPE"):
        load_tokenizer(tmp_path)


def test_the_merges_equal_the_reference_except_ties(shared_data):
    """The reference orders pairs of equal count differently, so at the end a few other pairs are left out."""
    folder = shared_data / "bpe-train-reference"
    text = (folder / "corpus.en").read_text(encoding="utf-8")
    lines = (folder / "train-bpe-reference-merges.txt").read_text(encoding="utf-8").splitlines()
    reference = [tuple(line.split()) for line in lines]
    ours = [tuple(merge) for merge in BPETokenizer.train([text], n_vocab=500)._merges]
    assert len(ours) == len(reference) == 243
    assert len(set(ours) & set(reference)) == 239
    assert ours[:10] == reference[:10]


def test_a_rare_pair_is_not_merged():
    texts = ["ab " * 5 + "cd " * 4]
    frequent = BPETokenizer.train(texts, n_vocab=1000, min_frequency=5)
    assert b"ab" in frequent.pieces
    assert b"cd" not in frequent.pieces
    assert b"cd" in BPETokenizer.train(texts, n_vocab=1000, min_frequency=4).pieces


def test_no_text_is_encoded_to_special_tokens(tmp_path):
    special = ["<|pad|>", "<|im_start|>", "<|é 日|>"]
    texts = ["<|pad|> <|im_start|>user<|é 日|> " * 100]
    tokenizer = bpe_trainer(270, special_tokens=special).train(texts)
    assert tokenizer.n_vocab == 270
    assert [tokenizer.decode([id_]) for id_ in range(4)] == ["<|endoftext|>", *special]
    ids = tokenizer.encode(texts[0])
    assert ids.min() > 3
    assert tokenizer.decode(ids) == texts[0]
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).special_tokens == tokenizer.special_tokens
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode("<|im_start|>").ids == [2]  # other programs do encode to them


def test_a_padded_vocabulary_has_its_special_ids_where_other_programs_expect_them(tmp_path):
    text = "<|pad|> <|endoftext|> the cat sat on the mat. " * 100
    tokenizer = choose_tokenizer("bpe:270:pad").train([text])
    assert (tokenizer.n_vocab, tokenizer.end_of_text) == (270, 1)
    assert [tokenizer.decode([id_]) for id_ in range(2)] == ["<|pad|>", "<|endoftext|>"]
    ids = tokenizer.encode(text)
    assert ids.min() > 1
    assert tokenizer.decode(ids) == text
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).encode(text).tolist() == ids.tolist()
    assert load_tokenizer(tmp_path).end_of_text == 1
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode("<|pad|><|endoftext|>").ids == [0, 1]


@pytest.mark.parametrize(
    ("special", "message"),
    [
        (["<|endoftext|>", "<|endoftext|>"], "in the list already"),
        (["<|a|>", "<|a|>"], "in the list already"),
        (["pad"], "ordinary text could be encoded as it"),
        (["..."], "ordinary text could be encoded as it"),
        ([""], "ordinary text could be encoded as it"),
        (["<|a\n|>"], "not printable"),
        (["<|\udc80|>"], "not printable"),
    ],
)
def test_a_bad_special_token_is_one_sentence(special, message):
    with pytest.raises(TokenizerError, match=message):
        bpe_trainer(300, special_tokens=special)


def test_sizes_and_frequencies_out_of_range_are_one_sentence():
    with pytest.raises(TokenizerError, match="from 258 to"):
        bpe_trainer(257, special_tokens=["<|a|>"])
    assert bpe_trainer(258, special_tokens=["<|a|>"]).train(CORPUS).n_vocab == 258
    with pytest.raises(TokenizerError, match="min_frequency 0"):
        bpe_trainer(300, min_frequency=0)


@pytest.mark.parametrize("n", [1, 2, 1000, 1_000_000])
def test_a_text_of_one_repeated_character(n):
    tokenizer = BPETokenizer.train(["a" * n], n_vocab=300)
    ids = tokenizer.encode("a" * n)
    assert tokenizer.decode(ids) == "a" * n
    assert len(ids) <= max(1, n // 2)


@pytest.mark.parametrize(
    ("kind", "fingerprint"),
    [
        ("byte", "63ad60af0558172265a924abb2bd0a56b311a1c5ce9cfd0c72c09da663602829"),
        ("char", "62f9c509f9b06345f32b60ec8fc6dff451e4c71f6b690d2b8ccecac97300e311"),
        ("gpt2", "676e2f69a48e069698bbe3c0a70596365499d620fc2c10b1c5678c62f5c8a2e4"),
        ("bpe", "5ee37308cbf8873d6b4e9e8d10cbd14a54bd83e15e147a58c8a8d25ffe882cdb"),
    ],
)
def test_files_of_groundup_0_1_still_load(tmp_path, kind, fingerprint):
    """Fingerprints are those that version 0.1 wrote next to these fields."""
    saved = {
        "byte": {},
        "char": {"characters": "ab"},
        "gpt2": {"merges_sha256": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"},
        "bpe": {"merges_sha256": "aa8d399f068f8957af430a0a6e9cafbbe84ea6183140aa3a8635fad753f063ae"},
    }
    TOKENIZER.save(tmp_path)  # tokenizer.json is the library's own format
    (tmp_path / "groundup-tokenizer.json").write_text(
        json.dumps({"kind": kind, **saved[kind], "fingerprint": fingerprint})
    )
    assert load_tokenizer(tmp_path).name == kind
