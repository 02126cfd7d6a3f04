"""What a preparation reports: replaced characters, held-out text, sources that change while they are read."""

import json
import os

import pytest
from folders import RecordingProgress

from groundup.data.shards import Manifest
from groundup.errors import DataError, UsageError
from groundup.preprocess import pipeline
from groundup.preprocess.pipeline import prepare


def messages(*sources, out, **options):
    progress = RecordingProgress()
    prepare(sources, out, tokenizer="byte", progress=progress, **options)
    return progress.messages


def test_replaced_characters_are_reported(tmp_path):
    (tmp_path / "l1.txt").write_bytes(b"caf\xe9 cr\xe8me\n" * 100)
    told = messages(tmp_path / "l1.txt", out=tmp_path / "out", errors="replace")
    assert told == ["characters that are not valid were replaced by U+FFFD: 200 in l1.txt"]


def test_marks_inside_a_text_are_reported(tmp_path):
    (tmp_path / "bom2.txt").write_bytes(b"\xef\xbb\xbf\xef\xbb\xbfhello and more text")
    told = messages(tmp_path / "bom2.txt", out=tmp_path / "out")
    assert told == ["byte order marks (U+FEFF) stand inside the text and are kept: 1 in bom2.txt"]


def test_a_larger_validation_split_than_requested_is_reported(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"text": "ab"}\n' * 99)
    told = messages(tmp_path / "r.jsonl", out=tmp_path / "out")
    assert told == ["50 % of the text is held out, not 10 %: its documents are too few or too short to be split finely"]
    (tmp_path / "r.jsonl").write_text('{"text": "abcdefghij"}\n' * 99)
    assert messages(tmp_path / "r.jsonl", out=tmp_path / "fine") == []


@pytest.mark.parametrize("journal_seconds", [0, 60])
def test_a_source_that_is_replaced_while_it_is_read_leaves_nothing(tmp_path, sentences, monkeypatch, journal_seconds):
    monkeypatch.setattr(pipeline, "JOURNAL_SECONDS", journal_seconds)
    (tmp_path / "x.txt").write_text(sentences(100))

    def replace(done):
        (tmp_path / "new").write_text(sentences(100, 1))
        (tmp_path / "new").replace(tmp_path / "x.txt")

    with pytest.raises(DataError, match=r"x\.txt: changed while it was read, so the result is thrown away"):
        prepare([tmp_path / "x.txt"], tmp_path / "out", tokenizer="byte", progress=replace)
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]
    prepare([tmp_path / "x.txt"], tmp_path / "out", tokenizer="byte")


@pytest.mark.parametrize("sources", [None, 5, [b"x"], b"x", ["a.txt", None]])
def test_sources_of_other_types_are_refused(tmp_path, sources):
    with pytest.raises(UsageError, match="is no path and no name of a corpus; give strings or Paths"):
        prepare(sources, tmp_path / "out")


def test_a_path_with_nul_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UsageError, match=r"--out 'a\\x00b': holds NUL"):
        prepare(tmp_path / "a.txt", "a\0b", tokenizer="byte")
    with pytest.raises(DataError, match="there is no such file or folder"):
        prepare("a\0b", tmp_path / "out", tokenizer="byte")


def test_rows_that_were_once_taken_for_text_are_prepared_again(tmp_path):
    """A folder that an earlier version prepared from rows under another name holds their braces."""
    rows, out = tmp_path / "rows.json", tmp_path / "out"
    rows.write_text('{"text": "some text of a row"}\n' * 9)
    prepare([rows], out, tokenizer="byte")
    record = json.loads((out / "request.json").read_text())
    record["inputs"][0]["version"] = str(rows.stat().st_mtime_ns)
    (out / "request.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"already prepared in another way: rows\.json has changed; .* --overwrite"):
        prepare([rows], out, tokenizer="byte")


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode here")
def test_names_in_the_manifest_do_not_depend_on_the_locale(tmp_path):
    name = "tëxt 😀.txt"
    (tmp_path / name).write_text("some text of a file")
    as_ascii = name.encode().decode("ascii", "surrogateescape")  # as Python has it in the locale C
    prepare(tmp_path / as_ascii, tmp_path / "out", tokenizer="byte")
    assert Manifest.load(tmp_path / "out").sources == (name,)
