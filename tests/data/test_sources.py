"""From what the user names to documents."""

import gzip
import io
import os
import sys
import threading

import pytest

from groundup.data.sources import open_sources
from groundup.errors import DataError


def read(*sources, **options):
    """(source, offset, text) of each document; every corpus is read twice, which must make no difference."""
    with open_sources(sources, **options) as corpus:
        first, second = ([(d.source, d.offset, "".join(d.chunks())) for d in corpus] for _ in range(2))
    assert first == second
    return first


def test_a_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert read(tmp_path / "a.txt") == [("a.txt", 0, "one\ntwo\n")]


def test_lines_of_jsonl_are_documents(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"body": "one"}\n{"body": ""}\n{"body": "two"}\n'))
    assert read(tmp_path / "a.jsonl.gz", column="body") == [("a.jsonl.gz", 0, "one"), ("a.jsonl.gz", 29, "two")]


def test_a_folder_is_read_in_order_of_names_and_without_what_is_hidden_or_unknown(tmp_path):
    folder = tmp_path / "corpus"
    names = ["b.txt", "a/z.md", "a/y.TXT", "a.jsonl", "c.py", ".hidden.txt", ".git/x.txt", "empty.txt", "d.csv.gz"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("" if name == "empty.txt" else '{"text": "of a line"}')
    assert [source for source, _, _ in read(folder)] == [
        "corpus/a.jsonl",
        "corpus/a/y.TXT",
        "corpus/a/z.md",
        "corpus/b.txt",
    ]


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


def test_the_built_in_corpus_comes_by_name():
    documents = read("python-docs")
    offset = sum(len(text.encode()) for _, _, text in documents[:-1])
    assert documents[-1][:2] == ("python-docs", offset)


@pytest.mark.parametrize(
    ("name", "contents", "said"),
    [
        ("inptu.txt", None, r"there is no such file or folder; did you mean input\.txt\?"),
        ("x" * 300, None, r"cannot be read \(File name too long\); check the path"),
        ("zzz/q", None, "there is no such file or folder; check the path"),
        ("empty.txt", b"", r"empty\.txt: there is no text in it"),
        ("mark.txt", b"\xef\xbb\xbf", "there is no text in it"),
        ("empty.txt.gz", gzip.compress(b""), "there is no text in it"),
        ("a.jsonl", b'\n{"text": ""}\n', "there is no text in it"),
        ("a.parquet", b"PAR1", "parquet files are not read as text; write its text column as .jsonl"),
        ("a.zst", b"(", "zst files are not read as text; unpack it with: zstd -d"),
        ("a.tar.gz", b"", "tar files are not read as text; unpack it with: tar"),
        ("a.PDF", b"%PDF", "pdf files are not read as text; convert it with: pdftotext"),
        ("folder/a.csv", b"a,b", r"folder: no text files in this folder; it may hold \.txt, \.md, \.jsonl"),
        ("not.gz", b"plain", "damaged or cut short as a gzip file"),
    ],
)
def test_what_cannot_be_read_is_answered_with_a_remedy(tmp_path, name, contents, said):
    (tmp_path / "input.txt").write_text("there")
    path = tmp_path / name
    if contents is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(contents)
    with pytest.raises(DataError, match=said):
        read(tmp_path / "folder" if name.startswith("folder") else path)


def test_an_empty_source_among_others_is_named(tmp_path):
    (tmp_path / "full.txt").write_text("text")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"empty\.txt: there is no text in it"):
        read(tmp_path / "full.txt", tmp_path / "empty.txt")


def test_no_source_at_all_is_refused():
    with pytest.raises(DataError, match="there is nothing to read"):
        read()
