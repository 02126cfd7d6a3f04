"""`--as text` reads every file as it is, and settings of how text is read are part of a preparation."""

import zipfile

import numpy as np
import pytest
from documents import read

from groundup.errors import DataError
from groundup.preprocess.pipeline import prepare

PAGE = "<!DOCTYPE html><p>One &amp; two</p>\n"


def test_every_file_is_read_as_it_is(tmp_path):
    files = {"a.html": PAGE, "b.csv": "id,text\n1,one\n", "c.json": '[{"text": "a"}]', "d.jsonl": '{"text": "a"}\n'}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert read(tmp_path / name, read_as="text", say=pytest.fail) == [(name, 0, text)]
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.writestr("a.html", PAGE)
    assert [text for *_, text in read(tmp_path / "e.zip")] != [PAGE]
    messages = []
    assert [text for *_, text in read(tmp_path, read_as="text", say=messages.append)] == list(files.values())
    assert messages[0].endswith("reads 1 .csv, 1 .html, 1 .json, 1 .jsonl; leaves out 1 .zip (binary)")
    with pytest.raises(DataError, match=r"e\.zip: byte \d+ is NUL, so this is no text file"):
        read(tmp_path / "e.zip", read_as="text")


def test_how_text_is_read_is_part_of_a_preparation(tmp_path):
    (tmp_path / "a.html").write_bytes(PAGE.replace("One", "Né").encode("cp1252"))
    options = {"tokenizer": "byte", "val_fraction": 0}
    prepare(tmp_path / "a.html", tmp_path / "out", encoding="windows-1252", read_as="text", separator="&", **options)
    ids = np.fromfile(tmp_path / "out" / "train-00000.bin", "<u2")
    documents = [bytes(part[part < 256].astype(np.uint8)) for part in np.split(ids, np.where(ids == 256)[0] + 1)]
    assert [text.decode() for text in documents if text] == ["<!DOCTYPE html><p>Né ", "amp; two</p>"]
    again = {"encoding": "cp1252", "read_as": "text", "separator": "&"}
    prepare(tmp_path / "a.html", tmp_path / "out", **again, **options)
    for name, change, now in (("separator", None, "not given"), ("encoding", "latin-1", "'iso8859-1'")):
        with pytest.raises(DataError, match=f"already prepared in another way: {name} was .* and is {now}"):
            prepare(tmp_path / "a.html", tmp_path / "out", **(again | {name: change}), **options)
