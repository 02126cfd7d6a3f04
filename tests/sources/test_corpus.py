"""Sources named by the user become documents."""

import gzip
import io
import os
import shutil
import signal
import sys
import tempfile
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from documents import read

from groundup.errors import DataError
from groundup.sources import corpus as module
from groundup.sources.corpus import Position, open_sources
from groundup.sources.text import Document


def test_a_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert read(tmp_path / "a.txt") == [("a.txt", 0, "one\ntwo\n")]


def test_lines_of_jsonl_are_documents(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"body": "one"}\n{"body": ""}\n{"body": "two"}\n', mtime=0))
    assert read(tmp_path / "a.jsonl.gz", column="body") == [("a.jsonl.gz", 0, "one"), ("a.jsonl.gz", 29, "two")]


def test_rows_of_parquet_are_documents(tmp_path):
    pq.write_table(pa.table({"body": ["one", None, "", "two"]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", column="body") == [("a.parquet", 0, "one"), ("a.parquet", 3, "two")]


def test_a_source_may_name_its_own_column(tmp_path):
    pq.write_table(pa.table({"body": ["one"]}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}')
    (tmp_path / "c#d.jsonl").write_text('{"text": "three"}')
    found = read(f"{tmp_path}/a.parquet#body", tmp_path / "b.jsonl", tmp_path / "c#d.jsonl")
    assert [text for _, _, text in found] == ["one", "two", "three"]


def test_columns_of_one_file_are_inputs_of_their_own(tmp_path):
    pq.write_table(pa.table({"a": ["one"], "b": ["two"], "text": ["three"]}), tmp_path / "ab.parquet")
    path, messages = f"{tmp_path}/ab.parquet", []
    assert read(f"{path}#a", f"{path}#b", path) == [
        ("ab.parquet#a", 0, "one"),
        ("ab.parquet#b", 0, "two"),
        ("ab.parquet", 0, "three"),
    ]
    with open_sources([f"{path}#a", f"{path}#a", path, f"{path}#text"], say=messages.append) as corpus:
        assert [each.name for each in corpus.inputs] == ["ab.parquet#a", "ab.parquet"]
    assert messages == [f"{path} and 1 more files: given more than once; read once"]


@pytest.mark.parametrize("name", ["python-docs", "hf:some/thing"])
def test_a_corpus_name_takes_precedence_over_a_path_with_a_message(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.hub, "hub_identity", lambda source: f"{source}@abc")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    messages = []
    with open_sources([name], say=messages.append) as corpus:
        assert corpus.inputs[0].size is None
    assert messages == [f"{name}: read as the corpus of that name; for the file or folder of that name, write ./{name}"]
    assert [text for _, _, text in read(f"./{name}")] == ["mine"]


def test_a_full_disk_is_reported_for_standard_input(monkeypatch):
    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def read(self, size=-1):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdin", type("Stream", (), {"buffer": Endless()}))
    with pytest.raises(DataError, match=r"standard input: a copy of it does not fit into .*TMPDIR"):
        read("-")


def test_files_of_the_same_name_get_distinct_names(tmp_path):
    paths = [tmp_path / "x" / "one" / "a.txt", tmp_path / "x" / "two" / "a.txt", tmp_path / "y" / "two" / "a.txt"]
    for path in [*paths, tmp_path / "b.txt"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    assert [source for source, _, _ in read(*paths, tmp_path / "b.txt")] == [
        *("one/a.txt", "x/two/a.txt", "y/two/a.txt", "b.txt")
    ]


def test_columns_of_one_file_given_by_two_paths_have_names_of_their_own(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"x": "one", "y": "two"}')
    assert [source for source, _, _ in read(f"{tmp_path}/a.jsonl#x", f"{tmp_path}/../{tmp_path.name}/a.jsonl#y")] == [
        *("a.jsonl#x", "a.jsonl#y")
    ]


def test_a_file_given_twice_is_read_once_with_a_message(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    messages = []
    given = [tmp_path / "a.txt", tmp_path / "b.txt", f"{tmp_path}/../{tmp_path.name}/a.txt", tmp_path / "link.txt"]
    with open_sources(given, say=messages.append) as corpus:
        assert [document.source for document in corpus] == ["a.txt", "b.txt"]
    assert messages == [f"{tmp_path}/../{tmp_path.name}/a.txt and 1 more files: given more than once; read once"]


@pytest.mark.parametrize("limit", [1, 3, 5, 99])
def test_only_the_first_documents_may_be_read(tmp_path, limit):
    (tmp_path / "a.jsonl").write_text('{"text": "1"}\n\n{"text": "2"}\n')
    (tmp_path / "b.txt").write_text("3")
    (tmp_path / "c.jsonl").write_text('{"text": "4"}\n{"text": "5"}')
    given = [tmp_path / name for name in ("a.jsonl", "b.txt", "c.jsonl")]
    assert [text for _, _, text in read(*given, max_documents=limit)] == list("12345")[:limit]


def test_reading_can_begin_at_any_document(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "1"}\n\n{"text": "2"}\n')
    (tmp_path / "b.txt").write_text("3")
    pq.write_table(pa.table({"text": [str(i) for i in range(10)]}), tmp_path / "c.parquet", row_group_size=3)
    (tmp_path / "d.txt").touch()
    given = [tmp_path / name for name in ("a.jsonl", "b.txt", "c.parquet")]
    with open_sources(given) as corpus:
        everything = [(place, "".join(document.chunks())) for place, document in corpus.documents_from(Position())]
        assert len(everything) == 13
        for i, (place, _) in enumerate(everything):
            assert [(p, "".join(d.chunks())) for p, d in corpus.documents_from(place)] == everything[i:]
            after = Position(place.input, place.documents + 1, place.offset + 1, place.total + 1)
            assert [(p, "".join(d.chunks())) for p, d in corpus.documents_from(after)] == everything[i + 1 :]


def test_bytes_read_count_bytes_on_disk(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "two"}', mtime=0))
    (tmp_path / "c.txt.zst").write_bytes(zstandard.compress(b"three"))
    pq.write_table(pa.table({"text": ["four"]}), tmp_path / "d.parquet")
    paths = sorted(tmp_path.iterdir())
    sizes = [path.stat().st_size for path in paths]
    with open_sources(paths) as corpus:
        assert corpus.size == sum(sizes)
        read_so_far = []
        for document in corpus:
            assert list(document.chunks())
            read_so_far.append(corpus.bytes_read)
        assert read_so_far[:3] == [sum(sizes[:1]), sum(sizes[:2]), sum(sizes[:3])]
        assert corpus.bytes_read == corpus.size


def test_skipped_documents_are_not_requested_from_the_hub(monkeypatch):
    requested = []

    def documents(source, column, skip):
        requested.append((source, column, skip))
        return (Document("part-0", i, lambda: iter(["text"])) for i in range(skip, 4))

    monkeypatch.setattr(module.hub, "is_hub_name", lambda source: source.startswith("hf:"))
    monkeypatch.setattr(module.hub, "hub_identity", lambda source: f"{source}@abc")
    monkeypatch.setattr(module.hub, "hub_documents", documents)
    with open_sources(["hf:some/thing"], column="body") as corpus:
        assert (corpus.inputs[0].version, corpus.size) == ("hf:some/thing@abc", None)
        assert [place.documents for place, _ in corpus.documents_from(Position(0, 2, 0, 2))] == [2, 3]
    assert requested == [("hf:some/thing", "body", 2)]


def test_long_texts_of_tables_come_in_chunks(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "' + "word " * 1000 + '"}')
    with open_sources([tmp_path / "a.jsonl"], chunk_bytes=100) as corpus:
        [document] = corpus
        chunks = list(document.chunks())
    assert max(map(len, chunks)) <= 110
    assert "".join(chunks) == "word " * 1000


def test_a_named_file_is_text_whatever_its_suffix(tmp_path):
    (tmp_path / "setup.py").write_text("import this")
    assert read(tmp_path / "setup.py") == [("setup.py", 0, "import this")]


def test_standard_input_can_be_read_twice(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\n".encode())))
    assert read("-") == [("standard input", 0, "é\n")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_can_be_read_twice(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=["from a pipe"])
    writer.start()
    assert read(tmp_path / "pipe") == [("pipe", 0, "from a pipe")]
    writer.join()


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode here")
def test_a_name_that_is_not_unicode_becomes_text(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text("text")
    assert read(path) == [("caf?.txt", 0, "text")]


def test_several_sources_keep_their_order(tmp_path):
    for name in "ba":
        (tmp_path / f"{name}.txt").write_text(name)
    assert [text for _, _, text in read(tmp_path / "b.txt", str(tmp_path / "a.txt"))] == ["b", "a"]


def test_the_built_in_corpus_comes_by_name(monkeypatch):
    monkeypatch.setattr(module, "python_docs", lambda: ("first", "caf\u00e9", "last"))
    documents = read("python-docs")
    assert [text for _, _, text in documents] == ["first", "caf\u00e9", "last"]
    offset = sum(len(text.encode()) for _, _, text in documents[:-1])
    assert documents[-1][:2] == ("python-docs", offset)


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("inptu.txt", None, r"there is no such file or folder; did you mean input\.txt\?"),
        ("x" * 300, None, r"cannot be read \(File name too long\); check the path"),
        ("zzz/q", None, "there is no such file or folder; check the path"),
        ("empty.txt", b"", r"empty\.txt: there is no text in it"),
        ("mark.txt", b"\xef\xbb\xbf", "there is no text in it"),
        ("empty.txt.gz", gzip.compress(b"", mtime=0), "there is no text in it"),
        ("a.jsonl", b'\n{"text": ""}\n', "there is no text in it"),
        ("a.parquet", b"PAR1", "damaged or cut short as a parquet file"),
        ("a.parquet.gz", b"", "a parquet file is packed inside and read as it is; unpack this one first"),
        ("empty.zst", b"", "there is no text in it"),
        ("a.tar.gz", b"", r"a\.tar\.gz: there is no text in it"),
        ("a.PDF", b"%PDF", "no PDF, as it does not begin with %PDF-; get a complete copy of it"),
        ("not.gz", b"plain", r"not packed with gzip, .*; if it is plain text, take \.gz off its name"),
        ("r.rtf", b"text", r"no RTF, which begins with \{\\rtf; if it is plain text, call it \.txt"),
        ("ascii-pdf.txt", b"%PDF-1.4\nBT", "damaged or cut short as a PDF; get a complete copy of it"),
        ("book.txt", b"PK\3\4" + bytes(99), "damaged or cut short as a zip file"),
        ("book", bytes(60) + b"BOOKMOBI" + bytes(99), "this is a Kindle book"),
        ("base", b"SQLite format 3\0", "this is an SQLite database"),
        (
            "archive.gz",
            gzip.compress(bytes(257) + b"ustar\0", mtime=0),
            "damaged or cut short as a tar file",
        ),
        ("table.csv", b"a,b\n1,2\n", r"no column 'text'; its first line names 'a', 'b': choose one with --column"),
        ("x.json", b"[1, 2]", "line 1: a JSON int; write an object"),
        ("x.json", b'{"name": "a"\n}', "no list holds rows, with the fields 'name', and .*; or add --as text"),
        ("x.json", b"no json", r"line 1: not valid JSON \(Expecting value\); fix it"),
        (
            "x.json.gz",
            gzip.compress(b'{"data": [{"body": "one"}]}', mtime=0),
            "line 1: no field 'text'; fields are 'body'",
        ),
        ("x.json", '{"text": "one"}'.encode("utf-16"), "not UTF-8; this looks like utf-16: add --encoding utf-16"),
        (
            "x.ipynb",
            b'{\n "cells": []}',
            "no list holds rows, with the fields 'cells', and neither a chat nor a",
        ),
        (
            "x.txt",
            b'{"text": "one"}\n{"text": "two"\n',
            "line 2: JSON that goes on after its end; write one",
        ),
        ("x.txt", b'{"text": "one"};\n{"text": "two"};\n', "line 1: JSON that goes on after its end"),
        ("x.txt", b'{"text": "one"},\n{"text": "two"}\n', "line 1: JSON that goes on after its end"),
        (
            "packed.gz",
            gzip.compress(b"PAR1\x15", mtime=0),
            "a parquet file is packed inside and read as it is; unpack this one",
        ),
        (
            "folder/a.xls",
            b"a,b",
            r"folder: no text files in this folder; leaves out 1 \.xls \(not read\); it may hold \.jsonl",
        ),
        ("input.txt#text", None, "is plain text, which has no column 'text'; leave out #text"),
        ("https://example.com/a.txt", None, "an address, and these are not fetched; download it first, with: curl -LO"),
        ("file:///tmp/a.txt", None, "file:///tmp/a.txt: an address, and these are not fetched; give its path"),
    ],
)
def test_unreadable_sources_get_a_message_with_a_remedy(tmp_path, name, contents, message):
    (tmp_path / "input.txt").write_text("there")
    path = name if ":/" in name else tmp_path / name
    if contents is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(contents)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "folder" if name.startswith("folder") else path)


def test_mistakes_in_standard_input_do_not_name_its_copy(monkeypatch):
    for stream, message in {
        b"latin \xe9": r"^standard input: byte 6 \(line 1\) is 0xE9",
        b"a\0b": "^standard input: byte 1 is NUL",
        b"%PDF-": "^standard input: damaged or cut short as a PDF",
        b'{"text": "one"}\n' * 11 + b"{": "^standard input, line 12: not valid JSON",
        gzip.compress(b"text" * 999)[:-9]: "^standard input: damaged or cut short as a gzip file",
    }.items():
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream)))
        with pytest.raises(DataError, match=message):
            read("-")


def test_what_was_replaced_is_listed_by_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 cr\xe8me\n" * 100)
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbf\xef\xbb\xbfclean")
    with open_sources([tmp_path], errors="replace") as corpus:
        for _ in range(2):
            assert all([*document.chunks()] for document in corpus)
        name = tmp_path.name
        assert corpus.findings() == [
            f"characters that are not valid were replaced by U+FFFD: 200 in {name}/a.txt, 1 in {name}/b.jsonl",
            f"byte order marks (U+FEFF) stand inside the text and are kept: 1 in {name}/c.txt",
        ]


def replace(path):
    path.with_name("new").write_text("another text")
    os.utime(path.with_name("new"), (1, 1))
    path.with_name("new").replace(path)


@pytest.mark.parametrize("change", [replace, lambda path: path.write_text("longer than it was"), os.unlink])
def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path, change):
    (tmp_path / "a.txt").write_text("the old text")
    with open_sources([tmp_path / "a.txt"]) as corpus:
        shutil.copy2(tmp_path / "a.txt", tmp_path / "same")  # as on file systems whose inode numbers do not last
        (tmp_path / "same").replace(tmp_path / "a.txt")
        corpus.check_unchanged()
        change(tmp_path / "a.txt")
        with pytest.raises(DataError, match=r"a\.txt: changed while it was read, so the result is thrown away"):
            corpus.check_unchanged()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_sigterm_removes_the_copy_of_standard_input(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"text")))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(SystemExit, match="143"), open_sources(["-"]):
        signal.raise_signal(signal.SIGTERM)
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_empty_source_among_others_is_refused(tmp_path):
    (tmp_path / "full.txt").write_text("text")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"empty\.txt: there is no text in it"):
        read(tmp_path / "full.txt", tmp_path / "empty.txt")


def test_no_source_at_all_is_refused():
    with pytest.raises(DataError, match="there is nothing to read"):
        read()
