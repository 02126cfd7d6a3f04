"""The main job, in seconds."""

import json

import pytest

from groundup.checkpoint.run import RunFolder
from groundup.cli import main


@pytest.fixture
def book(tmp_path, monkeypatch, sentences):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(sentences(1500))
    return tmp_path / "book.txt"


def quickstart(*argv: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["quickstart", *argv])
    assert exit_.value.code == 0


def test_it_reports_the_model_beside_simpler_ones_samples_and_what_to_try(book, capsys):
    quickstart("book.txt", "--minutes", "0.05")
    out = capsys.readouterr().out
    for name in ("this model", "gzip -9", "xz -9", "gzip -9, primed", "xz -9, primed", "unigram", "bigram"):
        assert f"{name}: " in out  # how it is computed
    assert "sample 3" in out
    assert "groundup generate runs/book --prompt" in out
    assert RunFolder(book.parent / "runs" / "book").steps()


def test_json_is_one_object_and_the_next_run_gets_a_folder_of_its_own(book, capsys):
    quickstart("book.txt", "--minutes", "0.03", "--tokenizer", "char", "--json")
    quickstart("book.txt", "--minutes", "0.03", "--json")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["run"], second["run"]) == ("runs/book", "runs/book-2")
    assert len(first["samples"]) == 3
    assert {b["name"] for b in first["baselines"]} >= {"gzip -9", "xz -9", "unigram", "bigram"}
    assert 0 < first["bits_per_byte"] < 10


def test_a_text_too_small_to_hold_anything_out_is_refused_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.txt").write_text("Hi")
    with pytest.raises(SystemExit) as exit_:
        main(["quickstart", "tiny.txt"])
    assert exit_.value.code == 2
    assert "kilobytes" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.txt"]
