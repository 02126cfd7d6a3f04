"""Rows and markup are known by the first bytes of a file, whatever it is called."""

import gzip
import io
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from documents import read

from groundup.errors import DataError
from groundup.sources.corpus import open_sources

ROWS = b'{"text": "one", "id": 0}\n\n{"text": "two", "id": 1}\n'


@pytest.mark.parametrize("name", ["rows.ndjson", "lines.json", "a.txt", "data", "r.json.gz", "r.zst", "r"])
def test_json_lines_are_rows_under_any_name(tmp_path, name):
    pack = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rpartition(".")[2], bytes)
    (tmp_path / name).write_bytes(pack(b"\xef\xbb\xbf" + ROWS if name == "data" else ROWS))
    messages = []
    assert [text for _, _, text in read(tmp_path / name, say=messages.append)] == ["one", "two"]
    told = [] if name == "rows.ndjson" else [f"{name}: JSON lines, so each line is a document"]
    assert messages == told


def test_json_lines_in_a_stream_are_rows(monkeypatch):
    for stream in (ROWS, gzip.compress(ROWS), b'{"id": 0, "text": "one"}'):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream)))
        messages = []
        with open_sources(["-"], say=messages.append) as corpus:
            assert next("".join(document.chunks()) for document in corpus) == "one"
        assert messages == ["standard input: JSON lines, so each line is a document"]


def test_parquet_is_rows_under_any_name(tmp_path, monkeypatch):
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "table")
    assert [text for _, _, text in read(tmp_path / "table")] == ["one", "two"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "table").read_bytes())))
    assert [text for _, _, text in read("-")] == ["one", "two"]


def test_rows_without_the_field_are_asked_about(tmp_path):
    (tmp_path / "lines.json").write_bytes(ROWS)
    with pytest.raises(DataError, match=r"lines\.json, line 1: no field 'body'; fields are 'text', 'id': choose one"):
        read(tmp_path / "lines.json", column="body")
    assert [text for _, _, text in read(f"{tmp_path}/lines.json#text", column="body")] == ["one", "two"]


@pytest.mark.parametrize(
    "contents",
    [b"{braces} of prose\n", b"[Verse 1]\nla\n", b'"quoted"\n', b"1\n2\n", b'{\n  say: "hello"\n}\n', b"{}\n"],
)
def test_what_only_resembles_rows_is_text(tmp_path, contents):
    (tmp_path / "a.txt").write_bytes(contents)
    assert read(tmp_path / "a.txt") == [("a.txt", 0, contents.decode())]


def test_source_code_that_looks_like_json_is_text(tmp_path):
    (tmp_path / "a.js").write_text('{"use": "strict"}\n')
    assert read(tmp_path / "a.js") == [("a.js", 0, '{"use": "strict"}\n')]


def test_a_column_that_no_source_has_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.jsonl").write_text('{"body": "row"}')
    with pytest.raises(DataError, match="column 'body': none of the sources has columns; leave --column out"):
        read(tmp_path / "a.txt", column="body")
    assert [text for _, _, text in read(tmp_path / "a.txt", tmp_path / "b.jsonl", column="body")] == ["text", "row"]


def test_markup_that_is_read_as_it_is_is_named(tmp_path):
    (tmp_path / "page.html").write_text("<p>text")
    messages = []
    assert read(tmp_path / "page.html", say=messages.append)[0][2] == "<p>text"
    assert messages[0].endswith(
        "page.html: read with its markup; for the text alone convert it with: pandoc -f html -t plain"
    )
