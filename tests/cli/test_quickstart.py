"""`groundup quickstart` within seconds."""

import io
import json
import shlex
from functools import partial
from pathlib import Path

import pytest

from groundup.checkpoint.run_folder import RunFolder
from groundup.cli import main
from groundup.cli.quickstart import show
from groundup.evaluation.memorization import Memorization
from groundup.optim.run_length import StepLength
from groundup.quickstart.workflow import Report, free_folder
from groundup.run.evaluator import EvalLosses
from groundup.run.trainer import TrainResult
from groundup.training.early_stopping import BestLoss, EarlyStopping

STEPS = 50


@pytest.fixture
def book(tmp_path, monkeypatch, sentences):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(sentences(1500))
    return tmp_path / "book.txt"


def quickstart(*argv: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["quickstart", *argv])
    assert exit_.value.code == 0


def test_it_reports_losses_baselines_samples_and_next_commands(book, capsys):
    quickstart("book.txt", "--minutes", "0.05")
    out = capsys.readouterr().out
    for name in ("this model", "gzip -9", "xz -9", "gzip -9, primed", "xz -9, primed", "unigram", "bigram"):
        assert f"{name}: " in out  # how it is computed
    assert "sample 3" in out
    assert "groundup generate runs/book" in out
    assert RunFolder(book.parent / "runs" / "book").steps()
    for what in ("tokenizer", "machine", "context", "model", "batch", "run length"):
        value, reason = out.partition(f"\n{what:<11}")[2].splitlines()[:2]
        assert value
        assert reason.startswith(" " * 11), "every choice is followed by its reason"
        assert reason.strip()
    assert "emorized: " in out
    assert "warning" not in out, "a plan of its own making needs no advice"


def test_json_is_one_object_and_the_next_run_gets_a_new_folder(book, capsys):
    quickstart("book.txt", "--minutes", "0.03", "--tokenizer", "char", "--json")
    quickstart("book.txt", "--minutes", "0.03", "--json")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["run"], second["run"]) == ("runs/book", "runs/book-2")
    assert len(first["samples"]) == 3
    assert {b["name"] for b in first["baselines"]} >= {"gzip -9", "xz -9", "unigram", "bigram"}
    assert 0 < first["bits_per_byte"] < 10
    assert first["checkpoint"] == "best"
    assert first["overlap"]["length"] >= 1


def test_a_text_too_small_to_hold_anything_out_is_refused_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.txt").write_text("Hi")
    with pytest.raises(SystemExit) as exit_:
        main(["quickstart", "tiny.txt"])
    assert exit_.value.code == 2
    assert "kilobytes" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.txt"]


TEXTS = {
    "three hundred bytes": ("text.txt", "First came the cold. Then came the long dark, and with it the wolves. " * 5),
    "one repeated character": ("text.txt", "a" * 20_000),
    "emoji": ("text.txt", "😀😃 😄😁😆 😅🤣😂🙂 " * 900),
    "Chinese": ("text.txt", "天地玄黄 宇宙洪荒 日月盈昃 辰宿列张 寒来暑往 秋收冬藏\n" * 400),
    "code": ("text.py", "def area(width: float, height: float) -> float:\n    return width * height\n\n\n" * 300),
    "one long line": ("text.txt", "no line ends here but many words follow one another " * 4000),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.long] if kind.startswith("one ") else []) for kind in TEXTS],
)
def test_any_text_gives_a_model_that_beats_counting_bytes(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    in_steps = partial(
        EarlyStopping, StepLength(STEPS), patience=None, time_limit=None
    )  # results within a time depend on the machine
    monkeypatch.setattr("groundup.run.trainer.EarlyStopping", lambda length, best, *limits: in_steps(best=best))
    name, text = TEXTS[kind]
    (tmp_path / name).write_text(text)
    quickstart(name, "--minutes", "0.1", "--json")
    found = json.loads(capsys.readouterr().out)
    unigram = next(b for b in found["baselines"] if b["name"] == "unigram")
    assert found["bits_per_byte"] <= unigram["bits_per_byte"] + 0.01
    assert found["steps"] == STEPS


def test_standard_input_is_a_text_like_any_other(tmp_path, monkeypatch, capsys, sentences):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(sentences(500).encode())))
    quickstart("-", "--minutes", "0.02", "--json", "--out", "from stdin [x]")
    assert json.loads(capsys.readouterr().out)["run"] == "from stdin [x]"
    assert not list(tmp_path.rglob("standard-input*"))


def test_brackets_and_spaces_in_names_are_printed_as_they_are(book, capsys):
    quickstart("book.txt", "--minutes", "0.02", "--out", "my [/b] run")
    out = capsys.readouterr().out
    assert "groundup generate 'my [/b] run'" in out
    assert "run in my [/b] run" in out


def test_a_folder_that_holds_a_run_is_refused_before_anything_is_read(book, capsys):
    quickstart("book.txt", "--minutes", "0.02", "--out", "run")
    before = {path: path.stat().st_mtime_ns for path in (book.parent / "run").rglob("*")}
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["quickstart", "no-such-file.txt", "--out", "run"])
    assert exit_.value.code == 2
    assert "holds a run already" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (book.parent / "run").rglob("*")}


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("my book.v2.txt", "runs/my-book"),
        ("texts/*.txt", "runs/texts"),
        ("hf:a/b:c@d#e", "runs/a-b-c-d-e"),
        ("-", "runs/text"),
    ],
)
def test_a_run_is_named_after_its_text_in_plain_letters(source, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert free_folder([source]).as_posix() == folder


def test_what_to_try_next_is_quoted_for_the_shell(capsys):
    run = Path("runs/it's mine")
    result = TrainResult(run, run / "checkpoints", 9, 9, EvalLosses(), BestLoss())
    words = {"sources": ["my book.txt"], "data": run / "data", "result": result, "prompt": "don't"}
    numbers = {"checkpoint": "latest", "loss": 1.0, "bits_per_byte": 1.0, "how": "", "baselines": [], "compared": 0}
    show(Report(**words, **numbers, samples=[], overlap=Memorization("", 0, 0)))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    generate, again, _, train = (shlex.split(line) for line in lines if line.startswith("groundup "))
    assert generate == ["groundup", "generate", str(run), "--prompt", "don't", "--num-samples", "3"]
    assert again == ["groundup", "quickstart", "my book.txt", "--minutes", "15"]
    assert train[:4] == ["groundup", "train", "modern-mini", "--data"]
    assert train[4] == str(run / "data")
