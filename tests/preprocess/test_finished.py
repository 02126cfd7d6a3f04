"""A finished folder is recognised: kept if it matches the request, and never replaced without --overwrite."""

import json
import os
import shutil
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folders import RecordingProgress, digests

from groundup.data.shards import Manifest, check_files
from groundup.errors import DataError
from groundup.preprocess.pipeline import prepare
from groundup.preprocess.records import InputFile, Request
from groundup.tokenizers.byte_char import CharTokenizer


@pytest.fixture
def texts(tmp_path, sentences):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.txt").write_text(sentences(20, i))
    return folder


@pytest.fixture
def out(tmp_path, texts):
    prepare([texts], tmp_path / "out", tokenizer="byte")
    return tmp_path / "out"


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_same_command_again_does_nothing_and_reports_it(texts, out):
    before, progress = times(out), RecordingProgress()
    manifest = prepare([texts], out, tokenizer="byte", threads=1, overwrite=True, progress=progress)
    assert manifest == Manifest.load(out)
    assert progress.messages[-1] == f"{out}: already prepared from the same inputs in the same way; nothing to do"
    assert not progress.phases
    assert times(out) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tokenizer": "gpt2"}, "tokenizer was 'byte' and is 'gpt2'"),
        ({"val_fraction": 0.2}, r"val_fraction was 0\.1 and is 0\.2"),
        ({"errors": "replace"}, "errors was 'strict' and is 'replace'"),
        ({"max_tokens": 100}, "max_tokens was not given and is 100"),
        ({"max_documents": 2}, "max_documents was not given and is 2"),
        ({"clean": "digits"}, "clean was not given and is 'digits'"),
    ],
)
def test_different_settings_are_named_and_the_folder_stays(texts, out, options, sentence):
    before = digests(out)
    settings = {"tokenizer": "byte"} | options
    with pytest.raises(
        DataError, match=rf"out: already prepared in another way: {sentence}; choose another .* --overwrite"
    ):
        prepare([texts], out, **settings)
    assert digests(out) == before
    prepare([texts], out, **settings, overwrite=True)
    prepare([texts], out.with_name("new"), **settings)
    assert digests(out) == digests(out.with_name("new"))


def touch(texts):
    os.utime(texts / "1.txt", ns=(1, 1))


def grow(texts):
    (texts / "1.txt").write_text("longer " * 1000)


def lose(texts):
    (texts / "2.txt").unlink()


def add(texts):
    (texts / "9.txt").write_text("new")


def rename(texts):
    (texts / "1.txt").rename(texts / "4.txt")


def test_another_column_of_rows_is_a_different_request(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one two three", "body": "four five six"}\n' * 9)
    prepare([tmp_path / "a.jsonl"], tmp_path / "out", tokenizer="byte")
    with pytest.raises(DataError, match="already prepared in another way: column was 'text' and is 'body'"):
        prepare([tmp_path / "a.jsonl"], tmp_path / "out", tokenizer="byte", column="body")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (touch, r"texts/1\.txt has changed \(its modification time\)"),
        (grow, r"texts/1\.txt has changed \(its size\)"),
        (lose, r"texts/2\.txt is no longer among the sources"),
        (add, r"texts/9\.txt is new among the sources"),
        (rename, r"texts/1\.txt is no longer among the sources"),
    ],
)
def test_changed_inputs_are_named(texts, out, change, sentence):
    change(texts)
    with pytest.raises(DataError, match=rf"already prepared in another way: {sentence}"):
        prepare([texts], out, tokenizer="byte")


def test_sources_in_another_order_are_a_different_request(texts, out):
    prepare([texts / "0.txt", texts / "1.txt"], out.with_name("two"), tokenizer="byte")
    with pytest.raises(DataError, match=r"the sources come in another order, from 1\.txt on"):
        prepare([texts / "1.txt", texts / "0.txt"], out.with_name("two"), tokenizer="byte")


def test_a_folder_without_a_record_is_not_replaced_without_overwrite(texts, out):
    (out / "request.json").unlink()
    with pytest.raises(DataError, match="holds tokens but no record of what they were made from"):
        prepare([texts], out, tokenizer="byte")
    prepare([texts], out, tokenizer="byte", overwrite=True)
    assert (out / "request.json").exists()


@pytest.mark.parametrize("kind", ["deep", "pipe", "device"])
def test_a_record_that_cannot_be_one_is_one_sentence(kind, texts, out):
    path = out / "request.json"
    path.unlink()
    if kind == "deep":
        path.write_text("[" * 100_000)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"request\.json: not a request of groundup \(.*\); replace the folder"):
        prepare([texts], out, tokenizer="byte")


def test_an_incomplete_finished_folder_is_reported(texts, out):
    (out / "train-00000.bin").unlink()
    with pytest.raises(DataError, match=r"out: is incomplete, .*train-00000\.bin.*--overwrite"):
        prepare([texts], out, tokenizer="byte")
    prepare([texts], out, tokenizer="byte", overwrite=True)
    assert (out / "train-00000.bin").exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda out: shutil.rmtree(out / "tokenizer"), "no tokenizer here"),
        (lambda out: (out / "documents-val.bin").unlink(), r"documents-val\.bin: cannot be read"),
        (lambda out: (out / "documents-train.bin").write_bytes(b"short"), r"documents-train\.bin: 5 bytes, but"),
        (lambda out: (out / "val-00000.bin").write_bytes(b""), r"val-00000\.bin: 0 bytes, but"),
        (lambda out: CharTokenizer("ab").save(out / "tokenizer"), "is not the tokenizer that made the tokens"),
    ],
)
def test_any_missing_file_makes_a_finished_folder_incomplete(texts, out, damage, sentence):
    before = digests(out)
    damage(out)
    with pytest.raises(DataError, match=rf"out: is incomplete, .*{sentence}.*--overwrite"):
        prepare([texts], out, tokenizer="byte")
    prepare([texts], out, tokenizer="byte", overwrite=True)
    assert digests(out) == before


def test_a_flipped_bit_is_found_with_overwrite(texts, out):
    before, path = digests(out), out / "train-00000.bin"
    contents = bytearray(path.read_bytes())
    contents[100] ^= 1
    path.write_bytes(contents)
    with pytest.raises(DataError, match="copy it again, or prepare again with --overwrite"):
        check_files(out, Manifest.load(out), checksums=True)
    prepare([texts], out, tokenizer="byte", overwrite=True)
    assert digests(out) == before


def test_another_column_of_the_same_file_is_a_different_request(tmp_path):
    pq.write_table(pa.table({"a": ["one " * 50], "b": ["two " * 50]}), tmp_path / "ab.parquet")
    prepare([f"{tmp_path}/ab.parquet#a"], tmp_path / "out", tokenizer="byte")
    with pytest.raises(DataError, match=r"ab\.parquet#a is no longer among the sources"):
        prepare([f"{tmp_path}/ab.parquet#b"], tmp_path / "out", tokenizer="byte")


def test_many_inputs_are_compared_in_linear_time():
    inputs = [InputFile(name=f"d/{i}.txt", size=1, version="1") for i in range(20_000)]
    request = Request(settings={}, inputs=tuple(inputs))
    changed = Request(settings={}, inputs=(*inputs[:-1], inputs[-1].model_copy(update={"version": "2"})))
    started = time.process_time()
    assert request.difference(request) is None
    assert request.difference(changed) == "d/19999.txt has changed (its modification time)"
    assert time.process_time() - started < 2  # a quadratic comparison takes 15 seconds


def test_a_failed_replacement_leaves_the_old_folder(texts, out):
    before = digests(out)
    (texts / "1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="not UTF-8"):
        prepare([texts], out, tokenizer="byte", overwrite=True)
    assert digests(out) == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "texts"]


def test_a_folder_of_other_files_is_never_overwritten(texts, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="already holds files"):
        prepare([texts], tmp_path / "mine", tokenizer="byte", overwrite=True)


def test_the_record_has_no_path_and_no_user_name(out, tmp_path):
    record = json.loads((out / "request.json").read_text())
    assert [each["name"] for each in record["inputs"]] == ["texts/0.txt", "texts/1.txt", "texts/2.txt"]
    assert str(tmp_path) not in json.dumps(record)


def test_standard_input_is_identified_by_its_text(tmp_path, monkeypatch):
    import io
    import sys

    def pipe(text):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return prepare(["-"], tmp_path / "out", tokenizer="byte")

    assert pipe("some text " * 9) == pipe("some text " * 9)
    with pytest.raises(DataError, match="standard input has changed"):
        pipe("some tezt " * 9)
