"""Properties of every tokenizer, and its error messages."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import TokenizerError
from groundup.tokenizers.base import TokenizerTrainer
from groundup.tokenizers.registry import choose_tokenizer, load_tokenizer

CORPUS = "It was the best of times, it was the worst of times;\r\n\tit's <|endoftext|> — naïve, 日本 🙂\n" * 30
SPECS = ["byte", "char", "gpt2", "bpe:300"]

unicode_text = st.text(st.characters(exclude_categories=["Cs"]))  # all characters except lone surrogates


def build(spec):
    choice = choose_tokenizer(spec)
    return choice.train([CORPUS]) if isinstance(choice, TokenizerTrainer) else choice


TOKENIZERS = {spec: build(spec) for spec in SPECS}


@pytest.fixture(params=SPECS)
def tokenizer(request):
    return TOKENIZERS[request.param]


def test_decoding_undoes_encoding(tokenizer):
    assert tokenizer.decode(tokenizer.encode(CORPUS)) == CORPUS


@pytest.mark.parametrize("spec", ["byte", "gpt2", "bpe:300"])
@given(text=unicode_text)
def test_any_unicode_text_survives(spec, text):
    assert TOKENIZERS[spec].decode(TOKENIZERS[spec].encode(text)) == text


def test_every_id_is_in_the_vocabulary(tokenizer):
    ids = tokenizer.encode(CORPUS)
    assert ids.dtype == np.uint32
    assert ids.min() >= 0
    assert ids.max() < tokenizer.n_vocab


def test_nothing_encodes_to_no_ids(tokenizer):
    assert tokenizer.encode("").shape == (0,)


def test_the_spelled_out_end_of_text_is_plain_text(tokenizer):
    assert tokenizer.end_of_text not in tokenizer.encode(CORPUS)
    assert tokenizer.decode([tokenizer.end_of_text]) == "<|endoftext|>"


def test_half_a_character_decodes_to_bytes_and_shows_as_a_replacement():
    first = TOKENIZERS["byte"].encode("é")[:1]
    assert TOKENIZERS["byte"].decode_bytes(first) == b"\xc3"
    assert TOKENIZERS["byte"].decode(first) == "\N{REPLACEMENT CHARACTER}"


def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(TokenizerError, match=r"character 2 of the text is U\+D800, half of a surrogate pair"):
        tokenizer.encode("it\ud800")


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_that_does_not_exist_is_refused(tokenizer, wrong):
    with pytest.raises(TokenizerError, match=f"id {wrong} is not among the {tokenizer.n_vocab} ids"):
        tokenizer.decode_bytes([0, wrong])


def test_a_saved_tokenizer_loads_unchanged_in_every_kind(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.name, loaded.n_vocab, loaded.end_of_text) == (
        tokenizer.name,
        tokenizer.n_vocab,
        tokenizer.end_of_text,
    )
    assert loaded.fingerprint == tokenizer.fingerprint
    assert np.array_equal(loaded.encode(CORPUS), tokenizer.encode(CORPUS))


def test_different_tokenizers_have_different_fingerprints():
    others = [choose_tokenizer("char").train(["ab"]), choose_tokenizer("bpe:300").train(["other text, other merges"])]
    prints = {tokenizer.fingerprint for tokenizer in [*TOKENIZERS.values(), *others]}
    assert len(prints) == len(TOKENIZERS) + len(others)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gpt-2", "unknown tokenizer 'gpt-2'; did you mean gpt2"),
        ("bytes", "did you mean byte"),
        ("bpe", "did you mean bpe:SIZE"),
        (
            "xyz",
            "unknown tokenizer 'xyz'; choose one of byte, char, gpt1, gpt1:FOLDER, gpt2, bpe:SIZE, bpe:SIZE:pad, ",
        ),
        ("bpe:256", "whole number of ids from 257 to"),
        ("bpe:", "whole number of ids from 257 to"),
        ("bpe:many", "whole number of ids from 257 to"),
        ("bpe:" + "9" * 5000, "whole number of ids from 257 to"),
    ],
)
def test_an_unknown_name_is_answered_with_the_choices(spec, message):
    with pytest.raises(TokenizerError, match=message):
        choose_tokenizer(spec)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="no tokenizer here"):
        load_tokenizer(tmp_path)


DAMAGED = {
    "empty": "",
    "cut": "{",
    "a list": "[]",
    "no kind": "{}",
    "another kind": '{"kind": "spiral", "fingerprint": ""}',
    "no text": "\xff",
    "null": "null",
    "deep": "[" * 100_000,
    "a list of characters": '{"kind": "char", "characters": ["a", "b"], "fingerprint": ""}',
    "half a pair": '{"kind": "char", "characters": "\\ud800", "fingerprint": ""}',
    "a kind that is no text": '{"kind": ["byte"], "fingerprint": ""}',
}


@pytest.mark.parametrize("contents", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(tmp_path, contents):
    (tmp_path / "groundup-tokenizer.json").write_text(contents, encoding="latin-1")
    with pytest.raises(TokenizerError, match="cannot be read as a tokenizer"):
        load_tokenizer(tmp_path)


def test_a_changed_vocabulary_is_found(tmp_path):
    TOKENIZERS["char"].save(tmp_path)
    path = tmp_path / "groundup-tokenizer.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"characters": saved["characters"][1:]}))
    with pytest.raises(TokenizerError, match="the fingerprint does not match"):
        load_tokenizer(tmp_path)


def test_files_of_a_tokenizer_that_are_no_files_are_refused(tmp_path):
    path = tmp_path / "groundup-tokenizer.json"
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        path.unlink(missing_ok=True)
        make(path)
        with pytest.raises(TokenizerError, match="not a regular file"):
            load_tokenizer(tmp_path)
        path.unlink()
        path.write_text('{"kind": "bpe", "fingerprint": ""}')
        make(tmp_path / "tokenizer.json")
        with pytest.raises(TokenizerError, match="not a regular file"):
            load_tokenizer(tmp_path)
        (tmp_path / "tokenizer.json").unlink()
