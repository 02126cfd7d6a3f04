"""The text that comes with groundup."""

import hashlib

import pytest

from groundup.errors import DataError
from groundup.preprocess.pipeline import prepare
from groundup.preprocess.records import InputFile, Request
from groundup.sources import shakespeare
from groundup.sources.corpus import open_sources


def test_it_is_the_known_text():
    with open_sources(["shakespeare"]) as corpus:
        ((source, text),) = ((each.source, "".join(each.chunks())) for each in corpus)
    assert source == "shakespeare"
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n")
    assert len(text) == shakespeare.SHAKESPEARE_BYTES
    assert hashlib.sha256(text.encode()).hexdigest() == shakespeare.SHAKESPEARE_SHA256


def test_what_was_prepared_from_the_downloaded_text_is_the_same(tmp_path):
    out, settings = tmp_path / "data", {"tokenizer": "char", "max_tokens": 1000}
    prepare(["shakespeare"], out, **settings)
    path = out / Request.FILE
    request = Request.load(out)
    downloaded = InputFile(name="shakespeare", size=1_115_394, version="1764460800000000000")
    path.write_text(request.model_copy(update={"inputs": (downloaded,)}).model_dump_json())
    before = path.read_bytes()
    prepare(["shakespeare"], out, **settings)
    assert path.read_bytes() == before
    edited = downloaded.model_copy(update={"size": 1_115_395})
    path.write_text(request.model_copy(update={"inputs": (edited,)}).model_dump_json())
    with pytest.raises(DataError, match="shakespeare has changed"):
        prepare(["shakespeare"], out, **settings)


def test_inside_a_zip_file_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(shakespeare.resources, "files", lambda package: InZip())
    with pytest.raises(DataError, match=r"inside app\.whl/texts, which is a zip file; install groundup to read it"):
        shakespeare.shakespeare()


class InZip:
    """A file as importlib.resources gives it in a zip file: no Path."""

    def joinpath(self, *parts):
        return self

    def __str__(self):
        return "app.whl/texts"
