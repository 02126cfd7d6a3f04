"""`--tokenizer auto`: chosen by the text, and kept with a folder that was started with another."""

import json

import pytest
from folders import digests

from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.config.presets import preset
from groundup.config.schema import Config
from groundup.errors import ConfigError, DataError
from groundup.preprocess import tokenizer_choice
from groundup.preprocess.pipeline import prepare
from groundup.run.ensure_data import ensure_prepared, plan_without_data
from groundup.utils.progress import ProgressReporter


class Messages(ProgressReporter):
    def __init__(self):
        super().__init__()
        self.lines = []

    def message(self, line):
        self.lines.append(line)


def prepared(*args, **options):
    progress = Messages()
    return prepare(*args, **options, progress=progress), progress.lines


@pytest.fixture
def book(tmp_path, sentences):
    (tmp_path / "book.txt").write_text(sentences(100))
    return tmp_path / "book.txt"


def test_it_is_the_default_and_says_what_it_took_and_why(book, tmp_path):
    manifest, lines = prepared([book], tmp_path / "out")
    assert manifest.tokenizer.name == "byte"
    assert lines == ["tokenizer byte: too little text to train a vocabulary on; every byte is a token"]
    prepare([book], tmp_path / "same", tokenizer="byte")
    assert digests(tmp_path / "out") == digests(tmp_path / "same")  # the folder knows what was taken, not how


def test_a_wide_script_gets_a_vocabulary(tmp_path):
    (tmp_path / "book.txt").write_text("".join(chr(0x4E00 + i * i % 900) for i in range(14_000)))  # 42 kB
    manifest, lines = prepared([tmp_path / "book.txt"], tmp_path / "out")
    assert manifest.tokenizer.n_vocab == 512
    assert lines[0].startswith("tokenizer bpe:512: 512 pieces of words, trained on the text; its characters take")


@pytest.mark.parametrize(
    ("options", "seen"),
    [({}, 2_400_200), ({"max_tokens": 1000}, 8000), ({"max_documents": 1}, 200_000)],
)
def test_the_size_counts_as_far_as_the_text_is_used(options, seen, tmp_path, monkeypatch):
    for i in range(2):
        (tmp_path / f"{i}.txt").write_text("some words " * (18_200 if i == 0 else 200_000))
    monkeypatch.setattr(tokenizer_choice, "SURVEY_BYTES", 400_000)
    sizes = []
    monkeypatch.setattr(tokenizer_choice, "auto_tokenizer", lambda n, *_: (sizes.append(n), ("byte", "asked"))[1])
    prepare([tmp_path / "0.txt", tmp_path / "1.txt"], tmp_path / "out", **options)
    assert sizes == [pytest.approx(seen, rel=0.01)]


@pytest.mark.parametrize("tokenizer", ["gpt2", "bpe:300", "char"])
def test_a_finished_folder_is_found_with_whatever_tokenizer_it_has(tokenizer, book, tmp_path):
    """As after `auto` became the default, in place of gpt2."""
    before, _ = prepared([book], tmp_path / "out", tokenizer=tokenizer)
    again, lines = prepared([book], tmp_path / "out")
    assert again == before
    assert lines == [
        f"tokenizer {tokenizer}: {tmp_path / 'out'} was prepared with it before; --overwrite chooses by the text again",
        f"{tmp_path / 'out'}: already prepared from the same inputs in the same way; nothing to do",
    ]
    book.write_text("other text of some words " * 50)
    with pytest.raises(DataError, match=r"already prepared in another way: book\.txt has changed"):
        prepare([book], tmp_path / "out")
    replaced, lines = prepared([book], tmp_path / "out", overwrite=True)
    assert replaced.tokenizer.name == "byte"
    assert lines[0].startswith("tokenizer byte: too little text")


def test_a_damaged_record_is_reported_as_ever(book, tmp_path):
    prepare([book], tmp_path / "out", tokenizer="gpt2")
    (tmp_path / "out" / "request.json").write_text("{")
    with pytest.raises(DataError, match=r"request\.json: not a request of groundup"):
        prepare([book], tmp_path / "out")


def test_a_config_file_without_a_tokenizer_keeps_gpt2(book, tmp_path):
    data = {"data": str(tmp_path / "out"), "prepare": {"sources": [str(book)]}}
    model = {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 16}
    config = Config.model_validate({**data, "model": model, "train": {"max_steps": 1, "batch_tokens": 16}})
    ensure_prepared(config, tmp_path / "run", lambda done: None)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["tokenizer"]["name"] == "gpt2"

    def asking(tokenizer):
        return config.model_copy(update={"prepare": config.prepare.model_copy(update={"tokenizer": tokenizer})})

    ensure_prepared(asking("auto"), tmp_path / "run", lambda done: None)  # takes what is there
    with pytest.raises(ConfigError, match=r"was prepared with tokenizer 'gpt2', and prepare\.tokenizer is 'byte'"):
        ensure_prepared(asking("byte"), tmp_path / "run", lambda done: None)


def test_a_config_may_ask_for_it(book, tmp_path):
    options = {"prepare": {"sources": [str(book)], "tokenizer": "auto"}}
    options["data"] = str(tmp_path / "out")
    config = merge_and_validate([preset("gpt2-nano"), ConfigSource("test", options)])
    assert "--tokenizer auto" in plan_without_data(config)[1]
    ensure_prepared(config, tmp_path / "run", lambda done: None)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["tokenizer"]["name"] == "byte"
