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
        with pytest.raises(DataError, match=r"c\.json, line \d: not valid JSON"):
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


def test_pages_are_read_without_their_markup_unless_asked_for_as_text(tmp_path):
    (tmp_path / "page.html").write_text("<p>one<p>two")
    (tmp_path / "page.txt").write_text("<!doctype html><p>one")
    messages = []
    assert [text for _, _, text in read(tmp_path, say=messages.append)] == ["one\n\ntwo", "one"]
    said = "page.html, page.txt: HTML, so the text of the page is read, without markup"
    assert messages[-1].replace(f"{tmp_path.name}/", "") == said
    assert read(tmp_path / "page.html", read_as="text")[0][2] == "<p>one<p>two"


def office_file(*names):
    """The header of a file of Office before 2007 and its directory, in the third sector ([MS-CFB] 2.2 and 2.6)."""
    header = bytearray(512)
    header[:8], header[30], header[48] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 9, 2
    return bytes(header) + bytes(1024) + b"".join(name.encode("utf-16-le").ljust(128, b"\0") for name in names)


def test_documents_of_old_office_and_with_a_password_are_told_apart(tmp_path):
    for names, message in {
        ("Root Entry", "EncryptedPackage"): "a document protected by a password; save it without one",
        ("Root Entry", "1Table", "WordDocument"): "a Word document in the format before 2007, .* save it as .docx",
        ("Root Entry", "Workbook"): "a file of Office in the format before 2007, which is not read; save it as",
    }.items():
        (tmp_path / "x.docx").write_bytes(office_file(*names))
        with pytest.raises(DataError, match=rf"^{tmp_path}/x\.docx: is {message}"):
            read(tmp_path / "x.docx")


def test_of_a_folder_documents_whose_text_cannot_be_had_are_left_out_and_named(tmp_path):
    (tmp_path / "secret.docx").write_bytes(office_file("Root Entry", "EncryptedPackage"))
    (tmp_path / "a.txt").write_text("text")
    with open_sources([tmp_path]) as corpus:
        assert ["".join(document.chunks()) for document in corpus] == ["text"]
    [line] = corpus.findings()
    assert line == (
        "holds no text that can be read (a scan, a password, DRM or an old format) and is left out: "
        f"1 in {tmp_path.name}/secret.docx"
    )


def test_markup_that_is_read_as_it_is_is_named(tmp_path):
    (tmp_path / "page.xml").write_text("<!doctype html><p>text")
    (tmp_path / "more.xml").write_text("<a>text</a>")
    (tmp_path / "dump.xml.gz").write_bytes(gzip.compress(b"<a>text</a>"))
    (tmp_path / "cover.ps").write_text("%!PS-Adobe-3.0")
    remedy = "read with markup; for the text alone convert it with"
    messages = []
    assert read(f"{tmp_path}/dump.xml.gz", say=messages.append) == [("dump.xml.gz", 0, "<a>text</a>")]
    assert messages == [f"dump.xml.gz: {remedy}: xmllint --xpath 'string(/)'"]
    messages = []
    assert [text for _, _, text in read(f"{tmp_path}/*", say=messages.append)][-1] == "text"
    assert messages == [
        f"cover.ps: {remedy}: ps2ascii",
        f"dump.xml.gz, more.xml: {remedy}: xmllint --xpath 'string(/)'",
        "page.xml: HTML, so the text of the page is read, without markup",
    ]
    messages = []
    read(tmp_path / "more.xml", read_as="text", say=messages.append)
    assert messages == []
