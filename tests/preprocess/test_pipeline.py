"""Prepared data is the input text, split as documented."""

import json
import random
import shutil

import numpy as np
import pytest
from folders import digests

from groundup.data.shards import Documents, Manifest, Tokens
from groundup.errors import DataError, GroundupError, TokenizerError, UsageError
from groundup.preprocess.pipeline import prepare
from groundup.tokenizers.registry import load_tokenizer

LINES = [
    f"{i}: {' '.join(random.Random(i).choices(['when', 'shall', 'we', 'three', 'meet'], k=9))}\n" for i in range(300)
]
TEXT = "".join(LINES)


@pytest.fixture
def book(tmp_path):
    (tmp_path / "book.txt").write_text(TEXT)
    return tmp_path / "book.txt"


@pytest.fixture
def lines(tmp_path):
    """A file of 300 documents."""
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))
    return tmp_path / "lines.jsonl"


def documents(folder, split):
    """Documents of a split as text, from the tokens on disk only."""
    tokenizer, tokens = load_tokenizer(folder / "tokenizer"), Tokens.open(folder, split)
    ids = tokens.read(0, len(tokens))
    parts = np.split(ids, np.flatnonzero(ids == tokenizer.end_of_text) + 1)
    return [tokenizer.decode(part[:-1]) for part in parts if len(part)]


@pytest.mark.parametrize("tokenizer", ["byte", "char", "gpt2", "bpe:300"])
def test_one_document_is_held_out_at_its_end(tmp_path, book, tokenizer):
    manifest = prepare([book], tmp_path / "out", tokenizer=tokenizer)
    cut = int(len(TEXT) * 0.9)
    assert documents(tmp_path / "out", "train") == [TEXT[:cut]]
    assert documents(tmp_path / "out", "val") == [TEXT[cut:]]
    assert manifest.split.rule == "last part of each document"


@pytest.mark.parametrize("tokenizer", ["byte", "gpt2"])
def test_many_documents_are_held_out_completely(tmp_path, lines, tokenizer):
    manifest = prepare([lines], tmp_path / "out", tokenizer=tokenizer)
    train, val = documents(tmp_path / "out", "train"), documents(tmp_path / "out", "val")
    assert sorted(train + val) == sorted(LINES)
    assert 10 < len(val) < 60
    assert manifest.split.rule == "documents by hash"


def test_adding_data_moves_no_document_across_the_split(tmp_path, lines):
    prepare([lines], tmp_path / "before", tokenizer="byte")
    (tmp_path / "more.jsonl").write_text('{"text": "something new in front"}\n' + lines.read_text())
    prepare([tmp_path / "more.jsonl"], tmp_path / "after", tokenizer="byte")
    for split in ("train", "val"):
        assert set(documents(tmp_path / "before", split)) <= set(documents(tmp_path / "after", split))


def test_tiny_shakespeare_is_split_as_nanogpt_does(tmp_path, shared_data):
    manifest = prepare([shared_data / "tinyshakespeare" / "input.txt"], tmp_path / "out", tokenizer="char")
    tokens = {name: split.tokens - 1 for name, split in manifest.splits.items()}  # without the end of text
    assert tokens == {"train": 1_003_854, "val": 111_540}
    assert manifest.tokenizer.n_vocab == 65 + 1


def test_the_manifest_counts_text_and_documents(tmp_path):
    (tmp_path / "a.txt").write_text("naïve " * 10)
    manifest = prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer="byte", val_fraction=0.5)
    train, val = manifest.splits["train"], manifest.splits["val"]
    assert (train.bytes, train.tokens, train.documents) == (35, 36, 1)
    assert (val.bytes, val.tokens, val.documents) == (35, 36, 1)
    assert Manifest.load(tmp_path / "out") == manifest


def test_documents_can_be_found_again_in_their_source(tmp_path, lines):
    manifest = prepare([lines], tmp_path / "out", tokenizer="byte", val_fraction=0)
    raw = lines.read_bytes()
    places = Documents.open(tmp_path / "out", manifest, "train").spans(100, 500)
    assert places[0].begin <= 100
    assert len(places) > 5
    for place in places:
        text = json.loads(raw[place.offset :].split(b"\n")[0])["text"]
        tokens = Tokens.open(tmp_path / "out", "train").read(place.begin, len(text))
        assert (place.source, bytes(tokens.tolist()).decode()) == ("lines.jsonl", text)


@pytest.mark.parametrize("tokenizer", ["char", "bpe:300"])
def test_the_same_input_gives_the_same_folder_at_any_path(tmp_path, lines, tokenizer):
    elsewhere = tmp_path / "elsewhere" / lines.name
    elsewhere.parent.mkdir()
    shutil.copy2(lines, elsewhere)  # with its time, by which a later call detects that nothing has changed
    prepare([lines], tmp_path / "one", tokenizer=tokenizer)
    prepare([elsewhere], tmp_path / "two", tokenizer=tokenizer)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    for name in ("manifest.json", "request.json"):
        assert str(tmp_path) not in (tmp_path / "one" / name).read_text()


def test_nothing_is_held_out_on_request(tmp_path, book):
    manifest = prepare([book], tmp_path / "out", tokenizer="byte", val_fraction=0)
    assert manifest.splits["val"].tokens == 0
    assert documents(tmp_path / "out", "train") == [TEXT]


def test_characters_of_the_validation_text_are_in_the_vocabulary(tmp_path):
    (tmp_path / "a.txt").write_text("a" * 9 + "z")
    prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer="char")
    assert documents(tmp_path / "out", "val") == ["z"]


def test_a_trained_bpe_has_not_seen_the_validation_text(tmp_path):
    (tmp_path / "a.txt").write_text("ab" * 450 + "yz" * 50)
    prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer="bpe:300")
    tokenizer = load_tokenizer(tmp_path / "out" / "tokenizer")
    assert len(tokenizer.encode("abab")) == 1
    assert len(tokenizer.encode("yzyz")) == 4


def test_progress_is_reported_up_to_the_last_byte(tmp_path, book):
    reported = []
    prepare([book], tmp_path / "out", tokenizer="byte", progress=reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == len(TEXT)


def test_invalid_utf8_can_be_replaced(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 noir")
    prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer="byte", errors="replace", val_fraction=0)
    assert documents(tmp_path / "out", "train") == ["caf\N{REPLACEMENT CHARACTER} noir"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"val_fraction": 0.6}, UsageError, "val_fraction: 0.6 is not between 0 and 0.5"),
        ({"val_fraction": -0.1}, UsageError, "val_fraction: -0.1 is not between"),
        ({"val_fraction": float("nan")}, UsageError, "val_fraction: nan is not between"),
        ({"val_fraction": 1e-9}, DataError, "none of 300 documents fell into the validation split of 1e-09"),
        ({"tokenizer": "gpt5"}, TokenizerError, "unknown tokenizer 'gpt5'; did you mean gpt2"),
        ({"column": "txet"}, DataError, "no field 'txet'; did you mean 'text'"),
    ],
)
def test_an_impossible_option_leaves_nothing_behind(tmp_path, lines, options, error, message):
    with pytest.raises(error, match=message):
        prepare([lines], tmp_path / "out", **{"tokenizer": "byte"} | options)
    assert [path.name for path in tmp_path.iterdir()] == [lines.name]


def test_too_little_to_train_on_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(GroundupError, match="no text is left to train on"):
        prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer="byte")
