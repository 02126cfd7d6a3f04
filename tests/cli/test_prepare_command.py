"""`groundup prepare` as a user types it: messages, and on which stream."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from groundup.ui import progress
from groundup.ui.progress import byte_progress


@pytest.fixture
def texts(tmp_path, sentences):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(sentences(100))
    (tmp_path / "texts" / "b.py").write_text("print(1)\n" * 30)
    (tmp_path / "texts" / "c.png").write_bytes(b"\x89PNG\0")
    return tmp_path / "texts"


def test_reading_a_folder_is_reported_on_standard_error(groundup, texts):
    done = groundup("prepare", "texts", "--out", "d", "--tokenizer", "byte")
    assert done.status == 0
    assert done.err == "texts: reads 1 .py, 1 .txt; leaves out 1 .png (not read)\n"
    assert re.match(r"train +2 documents +[\d,]+ bytes +[\d,]+ tokens of 1\.00 bytes\nval ", done.out)
    command, time, presets = done.out.splitlines()[-3:]
    assert re.fullmatch(r"next: groundup train gpt2-nano --data d --out runs/d --train\.epochs \d+", command)
    assert re.fullmatch(r" +about \d+ s on \d+ cores?; all presets, timed here:", time)
    assert presets == "      groundup plan --data d"


def test_the_next_run_gets_a_folder_of_its_own(groundup, texts):
    (texts.parent / "runs" / "d").mkdir(parents=True)
    done = groundup("prepare", "texts", "--out", "d", "--tokenizer", "byte")
    assert "--out runs/d-2 " in done.out


def test_a_text_that_suits_no_preset_is_said_to(groundup, texts):
    (texts.parent / "tiny.txt").write_text("just a few words " * 4)
    done = groundup("prepare", "tiny.txt", "--out", "d", "--tokenizer", "byte")
    assert done.out.endswith("next: give more text; this is less than one sequence of the smallest preset\n")
    unsuited = groundup("prepare", "texts", "--out", "e", "--tokenizer", "gpt2").out
    assert "warning  " in unsuited
    assert "prepare the data with a smaller vocabulary, such as --tokenizer bpe:" in unsuited


def test_one_document_is_no_plural(groundup, texts):
    done = groundup("prepare", "texts/a.txt", "--out", "d")
    assert re.match(r"train +1 document +[\d,]+ bytes", done.out)
    assert done.err.startswith("tokenizer byte: too little text to train a vocabulary on")


def test_the_next_command_is_quoted_for_the_shell_too(groundup, texts):
    done = groundup("prepare", "texts", "--out", "my data", "--tokenizer", "byte")
    words = shlex.split(done.out.splitlines()[-3].removeprefix("next: "))
    assert words[:7] == ["groundup", "train", "gpt2-nano", "--data", "my data", "--out", "runs/my data"]


def test_repeating_the_command_reports_that_it_is_done(groundup, texts):
    first = groundup("prepare", "texts", "--out", "d", "--tokenizer", "byte")
    again = groundup("prepare", "texts", "--out", "d", "--tokenizer", "byte")
    assert (again.status, again.out) == (0, first.out)
    assert again.err.endswith("d: already prepared from the same inputs in the same way; nothing to do\n")


def test_json_is_the_manifest_and_nothing_else(groundup, texts):
    done = groundup("prepare", "texts", "--out", "d", "--tokenizer", "byte", "--json")
    assert done.err == ""
    assert json.loads(done.out) == json.loads((texts.parent / "d" / "manifest.json").read_text())


def test_options_reach_the_work(groundup, texts):
    words = (
        "--tokenizer byte --max-tokens 100 --max-documents 1 --clean lowercase,punctuation --threads 1 --val-fraction 0"
    )
    groundup("prepare", "texts/*.txt", "--out", "d", *words.split())
    manifest = json.loads((texts.parent / "d" / "manifest.json").read_text())
    assert manifest["splits"]["train"]["tokens"] == 100
    settings = json.loads((texts.parent / "d" / "request.json").read_text())["settings"]
    assert (settings["max_documents"], settings["clean"]) == (1, "lowercase,punctuation")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["texts/*.csv"], "texts/*.csv: no file matches this pattern"),
        (["texts", "--clean", "vowels"], "clean: 'vowels' is not one of lowercase, digits, punctuation"),
        (["texts", "--max-tokens", "0"], "max_tokens: 0 is less than 1; leave it out for no limit"),
        (["texts", "--max-documents", "-1"], "max_documents: -1 is less than 1"),
        (["texts", "--threads", "0"], "threads: 0 is less than 1"),
        (["texts", "--threads", "many"], "'many'"),
        (["texts/a.txt.zst"], "there is no such file or folder; did you mean a.txt?"),
        (["tiny.txt"], "no text is left to train on"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(words, sentence, groundup, texts, tmp_path):
    (tmp_path / "tiny.txt").write_text("x")
    done = groundup("prepare", *words, "--out", "d", "--tokenizer", "byte")
    assert done.status == 2
    assert sentence in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts", "tiny.txt"]


@pytest.mark.parametrize("name", ["-leading.txt", "--overwrites"])
def test_a_name_that_begins_with_a_dash_is_explained(groundup, tmp_path, name):
    (tmp_path / name).write_text("some text of a file")
    done = groundup("prepare", name, "--out", "d", "--tokenizer", "byte")
    assert (done.status, done.out) == (2, "")
    assert f"{name}: taken for an option; a file of that name is given as ./{name}" in done.err
    assert groundup("prepare", f"./{name}", "--out", "d", "--tokenizer", "byte").status == 0


def test_a_column_without_rows_is_an_error(groundup, texts):
    done = groundup("prepare", "texts", "--out", "d", "--tokenizer", "byte", "--column", "body")
    assert done.status == 2
    assert done.err.endswith("column 'body': none of the sources has columns; leave --column out\n")


def test_json_lines_of_any_name_are_reported(groundup, tmp_path):
    (tmp_path / "lines.json").write_text('{"text": "some text of a row"}\n' * 9)
    done = groundup("prepare", "lines.json", "--out", "d", "--tokenizer", "byte")
    assert done.err == "lines.json: JSON lines, so each line is a document\n"
    assert done.out.startswith("train        9 documents")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_sigterm_leaves_no_copy_of_standard_input(tmp_path, sentences):
    (tmp_path / "tmp").mkdir()
    words = ["prepare", "-", "--out", "d", "--tokenizer", "byte"]
    with subprocess.Popen(
        [sys.executable, "-m", "groundup", *words], cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")}, text=True,
    ) as process:  # fmt: skip
        process.stdin.write(sentences(10_000))
        process.stdin.flush()
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not any((tmp_path / "tmp").iterdir()):
            time.sleep(0.01)
        process.terminate()
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 143
    assert "Traceback" not in errors
    assert list((tmp_path / "tmp").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]


SLOW = """
import sys
from groundup.preprocess import encoding, pipeline
from groundup.cli import main
pipeline.JOURNAL_SECONDS, encoding.JOB_CHARS = 0.0, 2000
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_ctrl_c_prints_how_to_resume_and_the_same_command_resumes(groundup, tmp_path, sentences):
    (tmp_path / "long.txt").write_text("")
    with (tmp_path / "long.txt").open("a") as file:
        for i in range(30):
            file.write(sentences(10_000, i))
    words = ["prepare", "long.txt", "--out", "d", "--tokenizer", "gpt2"]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        journal, deadline = tmp_path / ".d.partial" / "journal.json", time.monotonic() + 300
        while time.monotonic() < deadline and not (journal.exists() and json.loads(journal.read_text())["share"] > 0.2):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert re.search(r"^d: \d\d% is done and kept; the same command resumes from there$", errors, re.M)
    assert "Traceback" not in errors
    done = groundup(*words)
    assert done.status == 0
    assert re.search(r"^resuming at \d\d%$", done.err, re.M)
    assert not journal.exists()


def test_a_log_file_gets_progress_lines_at_intervals(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with byte_progress() as watch:
        watch.phase("encoding", 100_000_000)
        for seconds, done in ((5.0, 0), (15.0, 15_000_000), (16.0, 16_000_000), (30.0, 60_000_000)):
            now = seconds
            watch(done)
        watch.message("[bold]as it is[/bold]")
    assert capsys.readouterr().err.splitlines() == [
        "encoding | 15.0 MB | 1.0 MB/s | 15% | 85 s left",
        "encoding | 60.0 MB | 2.0 MB/s | 60% | 20 s left",
        "[bold]as it is[/bold]",
    ]


def test_a_first_report_that_comes_late_has_a_speed(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with byte_progress() as watch:
        watch.phase("encoding", 100_000_000, 40_000_000)  # resumed work
        now = 20.0
        watch(60_000_000)
    assert capsys.readouterr().err == "encoding | 60.0 MB | 1.0 MB/s | 60% | 40 s left\n"


def test_a_terminal_gets_a_bar_with_the_phase_and_the_time_left(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(progress, "can_redraw", lambda _: True)
    with byte_progress() as watch:
        watch.phase("learning bpe:300", 2_000_000)
        watch(1_000_000)
        watch._bar.refresh()
        watch.message("[bold]said as it is[/bold]")
    shown = capsys.readouterr().err
    assert "learning bpe:300" in shown
    assert "1.0/2.0 MB" in shown
    assert re.search(r"\d+s left|after \d+s", shown)
    assert "[bold]said as it is[/bold]" in shown
