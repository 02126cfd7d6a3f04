"""Documents are known by their first bytes or names, and are read by the reader of their row in the table."""

import gzip
import io
import sys
import types

import pytest
from documents import read

from groundup.errors import DataError
from groundup.sources import documents
from groundup.sources.corpus import Position, open_sources
from groundup.sources.documents import DocumentFormat, read_documents
from groundup.sources.documents.options import ReadOptions


@pytest.fixture(autouse=True)
def poems(monkeypatch):
    """A format of poems, one document each; it counts stars, and seeks."""

    def read_poems(file, name, options, found):
        text = file.read().decode()
        file.seek(0)
        found["stars left out"] += text.count("*")
        for poem in text.replace("*", "").split("==="):
            if "damage" in poem:
                raise KeyError("no such verse")
            yield poem.strip()

    module = types.ModuleType("groundup.sources.documents.poems")
    module.read_poems = read_poems
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row = DocumentFormat(
        "a poem", (".poem", ".html", ".htm"), "poems.read_poems", said="poems, so their text alone is read"
    )
    monkeypatch.setitem(documents.FORMATS, "html", row)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_document_is_known_by_name_or_first_bytes_and_read_by_its_reader(tmp_path, pack):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ("a.poem.gz" if pack is gzip.compress else "a.poem")).write_bytes(pack(b"one*===  ===two**"))
    (tmp_path / "b.txt").write_bytes(pack(b"<!DOCTYPE html>\n<p>three"))
    name, messages = f"in/{next((tmp_path / 'in').iterdir()).name}", []
    with open_sources([tmp_path / "in", tmp_path / "b.txt"], say=messages.append) as corpus:
        texts = [(each.source, each.offset, "".join(each.chunks())) for each in corpus]
        assert corpus.findings() == [f"stars left out: 3 in {name}"]
        *_, (position, _) = corpus.documents_from(Position())
        assert [(at.total, "".join(each.chunks())) for at, each in corpus.documents_from(Position(0, 1, 1, 1))] == [
            (1, "two"), (2, "<!DOCTYPE html>\n<p>three")
        ]  # fmt: skip
    assert position == Position(1, 0, 0, 2)
    assert texts == [(name, 0, "one"), (name, 1, "two"), ("b.txt", 0, "<!DOCTYPE html>\n<p>three")]
    assert messages[1:] == [f"{name}, b.txt: poems, so their text alone is read"]


def test_work_on_a_file_that_was_read_as_text_is_not_resumed(tmp_path):
    (tmp_path / "a.html").write_text("text")
    with open_sources([tmp_path / "a.html"]) as corpus:
        assert corpus.inputs[0].version.endswith(" as html")


def test_a_reader_that_fails_says_what_is_damaged(tmp_path):
    (tmp_path / "a.poem").write_text("fine===damage")
    with pytest.raises(DataError, match=r"a\.poem: damaged as a poem \('no such verse'\); get a complete copy of it"):
        read(tmp_path / "a.poem")


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch):
    row = documents.FORMATS["html"]._replace(library="no_such_library")
    monkeypatch.setitem(documents.FORMATS, "html", row)
    with pytest.raises(DataError, match=r"reading a poem needs no_such_library; install it with: pip install "):
        next(read_documents("html", io.BytesIO(b"x"), "a.poem", ReadOptions(), documents.Counter()))
