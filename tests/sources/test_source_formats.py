"""Rows and markup are known by the first bytes of a file, whatever it is called."""

import gzip
import io
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from documents import read

from groundup.errors import DataError
from groundup.sources import formats
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
    messages = []
    assert [text for _, _, text in read(tmp_path / "table", say=messages.append)] == ["one", "two"]
    assert messages == ["table: parquet, so each row is a document"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "table").read_bytes())))
    assert [text for _, _, text in read("-")] == ["one", "two"]


def test_rows_without_the_field_are_asked_about(tmp_path):
    (tmp_path / "lines.json").write_bytes(ROWS)
    with pytest.raises(DataError, match=r"lines\.json, line 1: no field 'body'; fields are 'text', 'id': choose one"):
        read(tmp_path / "lines.json", column="body")
    assert [text for _, _, text in read(f"{tmp_path}/lines.json#text", column="body")] == ["one", "two"]
    (tmp_path / "one.txt").write_bytes(b'{"body": "one"}\n')
    with pytest.raises(DataError, match=r"one\.txt, line 1: no field 'text'; fields are 'body': choose one with --col"):
        read(tmp_path / "one.txt")


def test_a_first_row_that_is_longer_than_what_is_looked_at_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "ROWS_BYTES", len(ROWS) - 1)
    (tmp_path / "a.txt").write_bytes(ROWS + b"{")
    (tmp_path / "b.txt").write_bytes(json.dumps({"text": "long" * 30}).encode())
    with pytest.raises(DataError, match=r"a\.txt, line 4: not valid JSON"):
        read(tmp_path / "a.txt")
    assert [text for _, _, text in read(tmp_path / "b.txt")] == ["long" * 30]
    for array in (b"[" + ROWS * 2, b"[" + ROWS.replace(b"\n", b",") * 2):
        (tmp_path / "c.json").write_bytes(array)
        with pytest.raises(DataError, match="begins as JSON does, but its lines are not objects"):
            read(tmp_path / "c.json")


@pytest.mark.parametrize(
    "contents",
    [
        *(b"{braces} of prose\n", b"[Verse 1]\nla\n", b'"quoted"\n', b"1\n2\n", b'{\n  say: "hello"\n}\n', b"{}\n"),
        b'{"title": "Spring", "draft": false}\n\nThe snow is gone.\n',
        b'{\n "title": "Spring"\n}\n\n[A link](x) and {{< more >}}\n',
        b"PAR1 is a receptor that thrombin cuts.\n",
        "Si llueve, me ".ljust(256).encode() + b"gustar\xc3\xada leer.\n",  # where an archive says `ustar`
    ],
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
    (tmp_path / "film.srt").write_text("1")
    (tmp_path / "dump.xml.gz").write_bytes(gzip.compress(b"<a>text</a>"))
    (tmp_path / "cover.ps").write_text("%!PS-Adobe-3.0")
    remedy = "read with markup; for the text alone convert it with: pandoc -f html -t plain"
    for source, message in {
        f"{tmp_path}/page.html": f"{tmp_path}/page.html: {remedy}",
        f"{tmp_path}/*": f"{tmp_path}/cover.ps and 3 more files: read with markup; for the text alone",
        f"{tmp_path}/dump.xml.gz": f"{tmp_path}/dump.xml.gz: read with markup; ",
        tmp_path: f"{tmp_path}/page.html: {remedy}",
    }.items():
        messages = []
        assert read(source, say=messages.append)[-1][2] in ("<p>text", "<a>text</a>")
        assert messages[-1].startswith(message)
