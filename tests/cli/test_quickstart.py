"""`groundup quickstart` within seconds."""

import io
import json
import shlex
import shutil
from functools import partial
from pathlib import Path

import pytest

import groundup
from groundup.checkpoint.run_folder import RunFolder
from groundup.cli import main
from groundup.cli.quickstart_report import show
from groundup.config.schema import Config
from groundup.evaluation.baselines import Baseline
from groundup.evaluation.memorization import Memorization
from groundup.first_model import workflow
from groundup.first_model.existing import ExistingRun, run_folder
from groundup.first_model.report import Report
from groundup.optim.run_length import StepLength
from groundup.run.evaluator import EvalLosses
from groundup.run.memorization import Sample
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


def test_it_reports_bars_samples_and_next_commands(book, capsys):
    quickstart("book.txt", "--minutes", "0.05")
    out = capsys.readouterr().out
    for name in ("this model", "gzip -9", "xz -9", "bigram", "before training"):
        assert f"\n{name} " in out
    assert "sample 3" in out
    assert "bits for each byte of a text it has never read; gzip needs" in out
    assert "groundup generate runs/book" in out
    assert RunFolder(book.parent / "runs" / "book").steps()
    assert "It does not copy" in out or "It copies" in out
    assert "warning" not in out, "a plan of its own making needs no advice"


def test_explain_adds_how_each_figure_was_computed(book, capsys):
    quickstart("book.txt", "--minutes", "0.03", "--explain")
    out = capsys.readouterr().out
    for name in ("this model", "gzip -9", "xz -9", "gzip -9, primed", "xz -9, primed", "unigram", "bigram"):
        assert f"  {name}: " in out


def test_json_is_one_object(book, capsys):
    quickstart("book.txt", "--minutes", "0.03", "--tokenizer", "char", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == "runs/book"
    assert len(found["samples"]) == len(found["prompts"]) == 3
    assert {b["name"] for b in found["baselines"]} >= {"gzip -9", "xz -9", "unigram", "bigram"}
    assert 0 < found["bits_per_byte"] < 10
    assert found["untrained_bits_per_byte"] > found["bits_per_byte"]
    assert found["checkpoint"] == "best"
    assert found["overlap"]["length"] >= 1
    text = book.read_text()
    for prompt in found["prompts"]:
        assert f".\n{prompt}" in text, "samples begin with a line of the text"
    assert found["prompts"][0] + found["held_out_continuation"] in text
    assert all(growth["text"].startswith(found["growth"][0]["text"][:16]) for growth in found["growth"])


def test_a_second_one_names_the_commands_that_continue_or_start_afresh(book, capsys):
    quickstart("book.txt", "--minutes", "0.03", "--json")
    log = (book.parent / "runs/book/log.jsonl").read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["quickstart", "book.txt", "--minutes", "0.06"])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert "runs/book: holds a run of 0.03 minutes already" in error
    longer, fresh = (shlex.split(command)[1:] for command in error.split("`")[1::2])
    assert longer == ["quickstart", "book.txt", "--minutes", "0.06", "--continue"]
    assert fresh == ["quickstart", "book.txt", "--minutes", "0.06", "--fresh"]
    quickstart(*fresh[1:], "--json")
    assert json.loads(capsys.readouterr().out)["run"] == "runs/book-2"
    assert (book.parent / "runs/book/log.jsonl").read_bytes() == log
    steps = RunFolder(book.parent / "runs/book").steps()[-1].name
    quickstart(*longer[1:], "--json")
    continued = capsys.readouterr()
    found = json.loads(continued.out)
    assert found["run"] == "runs/book"
    assert found["steps"] > int(steps.removeprefix("step-"))
    assert "the run's length changed, and with it the learning rate" in continued.err
    assert (book.parent / "runs/book/log.jsonl").read_bytes().startswith(log)


def refused(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(["quickstart", *argv])
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_only_the_same_text_read_in_the_same_way_is_continued(book, capsys):
    quickstart("book.txt", "--minutes", "0.02", "--tokenizer", "char", "--json")
    for option, value in (("--tokenizer", "byte"), ("--encoding", "cp1252"), ("--separator", "\\n\\n")):
        error = refused(capsys, "book.txt", "--continue", option, value)
        assert f"runs/book: prepared with {option[2:]} " in error
        assert "start another with --fresh" in error
        error = refused(capsys, "book.txt", option, value)
        for command in error.split("`")[1::2]:
            words = shlex.split(command)
            assert words[words.index(option) + 1] == value
    book.write_text(book.read_text() + "More.\n")
    for same in ([], ["--tokenizer", "char"], ["--encoding", "utf8"]):
        error = refused(capsys, "book.txt", "--continue", *same)
        assert "runs/book: of another text (book.txt has changed" in error


def test_in_python_a_run_is_trained_longer_with_resume(book, capsys):
    first = groundup.quickstart("book.txt", minutes=0.03, progress=False)
    with pytest.raises(groundup.UsageError, match=r"resume=True to train it for 0\.06 .* fresh=True .* runs/book-2$"):
        groundup.quickstart("book.txt", minutes=0.06)
    with pytest.raises(groundup.UsageError, match=r"prepared with tokenizer .* start another with fresh=True$"):
        groundup.quickstart("book.txt", minutes=0.06, tokenizer="char", resume=True)
    again = groundup.quickstart("book.txt", minutes=0.06, resume=True, progress=False)
    assert (again.result.run, again.seconds) == (first.result.run, pytest.approx(3.6))
    assert again.result.step > first.result.step
    assert again.model.metadata["elapsed"] <= 3.6 + 1
    with pytest.raises(groundup.UsageError, match="resume: there is no run in elsewhere"):
        groundup.quickstart("book.txt", "elsewhere", resume=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("length", "ended_by", "again"),
    [({"epochs": 0.01, "time_limit": 1}, "max_steps", 1), ({"max_time": 1e-5}, "max_time", 0.5)],
    ids=["epochs", "time"],
)
def test_a_finished_quickstart_can_always_be_trained_longer(length, ended_by, again, prepared, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(prepared, out / "data")
    model = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16}
    train = length | {"batch_tokens": 256, "device": "cpu", "precision": "fp32", "threads": 1}
    first = groundup.train(out / "data", out, overrides={"model": model, "train": train}, progress=False)
    run = ExistingRun.find(out)
    assert run.ended_by == ended_by
    assert run.seconds(0.5) == pytest.approx(again, abs=0.01)
    second = groundup.resume(out, overrides=run.longer(run.seconds(0.5)), progress=False)
    assert second.step > first.step
    assert ExistingRun.find(out).ended_by == "max_time"


def test_an_interrupted_quickstart_keeps_its_plan():
    run = ExistingRun(RunFolder(Path("run")), Config(), step=5, planned=180.0, ended_by=None)
    assert run.seconds(60) == run.seconds(180) == 180
    assert run.longer(180) == {}
    assert run.longer(run.seconds(600)) == {"train": {"max_time": 600, "time_limit": None}}


def test_blank_lines_take_no_room_in_samples(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = "\n\nONE:\ntwo\n\n \n\nTHREE:\nfour\n\nfive\nsix"
    show(report(samples=[Sample("Zero", text), Sample("Zero", text)], truth=text))
    shown = [line.rstrip() for line in capsys.readouterr().out.partition("sample 2")[2].splitlines()]
    assert shown[1:7] == ["Zero", "ONE:", "two", "THREE:", "four", "five …"]
    rows = [line.split() for line in shown[9:15]]
    assert rows == [[word, *dots, word, *dots] for word, *dots in map(str.split, shown[1:7])]


def test_without_a_run_there_is_nothing_to_continue(book, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["quickstart", "book.txt", "--continue"])
    assert exit_.value.code == 2
    assert "--continue: there is no run in runs/book" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answers", "wants"), [("c\n", True), ("no\nF\n", False), ("q\n", None), ("", None)], ids=["c", "f", "q", "end"]
)
def test_on_a_terminal_it_asks(answers, wants, book, capsys, monkeypatch):
    quickstart("book.txt", "--minutes", "0.02", "--json")
    monkeypatch.setattr("groundup.cli.quickstart.can_talk", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO(answers))
    asked = []
    monkeypatch.setattr(workflow, "quickstart", lambda sources, out, **_: stop(asked, False, out))
    monkeypatch.setattr(workflow, "train_longer", lambda sources, run, seconds, **_: stop(asked, True, seconds))
    with pytest.raises(SystemExit) as exit_:
        main(["quickstart", "book.txt", "--minutes", "0.02"])
    assert exit_.value.code == 0
    assert asked == {True: [(True, pytest.approx(2.4))], False: [(False, Path("runs/book-2"))], None: []}[wants]
    assert "f  fresh: start another run in runs/book-2; nothing is deleted" in capsys.readouterr().out


def stop(asked, *found):
    asked.append(found)
    raise SystemExit(0)


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
    assert "groundup generate 'my [/b] run'" in capsys.readouterr().out


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
    assert run_folder([source]).as_posix() == folder


def report(run: Path = Path("run"), **values) -> Report:
    result = TrainResult(run, run / "checkpoints", 9, 9, EvalLosses(), BestLoss())
    words = {"sources": ["my book.txt"], "data": run / "data", "result": result, "model": None, "seconds": 180.0}
    numbers = {"checkpoint": "latest", "loss": 1.0, "bits_per_byte": 1.0, "untrained": 8.0, "how": "", "compared": 0}
    found = {"growth": [], "baselines": [Baseline("gzip -9", 3.0, "")], "overlap": Memorization("", 0, 0)}
    return Report(**words | numbers | found | values)


def test_what_to_try_next_is_quoted_for_the_shell(capsys):
    run = Path("runs/it's mine")
    texts = {"samples": [Sample("don't\ngo", " on")], "truth": " away", "growth": [(1, "x"), (2, "don't\ngo")]}
    show(report(run, **texts))
    lines = capsys.readouterr().out.splitlines()
    longer, generate, plan, _ = (shlex.split("groundup " + line.partition(" groundup ")[2]) for line in lines[-4:])
    assert longer == ["groundup", "quickstart", "my book.txt", "--out", str(run), "--minutes", "15", "--continue"]
    assert generate == ["groundup", "generate", str(run), "--prompt", "don't"]
    assert plan == ["groundup", "plan", "--data", str(run / "data")]
