"""Options of `groundup generate`, and `--quiet`."""

import io
import json
import os
import sys

import pytest


@pytest.mark.parametrize(
    "content", [b"It was\nhere", b"It was\nhere\n", b"It was\r\nhere\r\n", b"\xef\xbb\xbfIt was\nhere"]
)
@pytest.mark.parametrize("where", [["--prompt-file", "prompt.txt"], ["--prompt-file", "-"], ["--prompt", "-"]])
def test_a_prompt_is_read_without_its_last_line_end(where, content, groundup, run, tmp_path, monkeypatch):
    options = ("generate", run, "--max-tokens", 4, "--quiet", "--json")
    (tmp_path / "prompt.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    done = groundup(*options, *where)
    assert done.out == groundup(*options, "--prompt", "It was\nhere").out
    assert json.loads(done.out)["prompt"] == "It was\nhere"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--prompt-file", "no.txt"], "no.txt: cannot be read (No such file or directory); name a text file"),
        (["--prompt-file", "."], "--prompt-file .: cannot be read (Is a directory)"),
        (["--prompt-file", "latin.txt"], "latin.txt: byte 3 is not UTF-8; give the text in that encoding"),
        (["--prompt-file", "latin.txt", "--prompt", "a"], "--prompt is given as well; give one of them"),
        (["--prompt-file", "latin.txt", "--prompt", ""], "--prompt is given as well; give one of them"),
        (["--prompt-file", "binary"], "--prompt-file binary: byte 1 is not UTF-8"),
        (["--prompt-file", "huge"], "--prompt-file huge: cannot be read (larger than 16,777,216 bytes"),
        (["--prompt-file", "pipe"], "--prompt-file pipe: cannot be read (not a regular file); name a text file"),
    ],
)  # fmt: skip
def test_a_prompt_that_cannot_be_read_is_one_sentence(words, sentence, groundup, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "binary").write_bytes(b"\x7f\xffELF\0")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate((16 << 20) + 1)
    os.mkfifo(tmp_path / "pipe")
    done = groundup("generate", "nowhere", *words)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert sentence in done.err


@pytest.mark.parametrize("where", ["file", "standard input"])
def test_an_empty_prompt_is_mentioned(where, groundup, run, tmp_path, monkeypatch):
    (tmp_path / "empty.txt").write_bytes(b"\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    words = ("--prompt-file", "empty.txt") if where == "file" else ("--prompt", "-")
    done = groundup("generate", run, "--max-tokens", 4, *words)
    assert (done.status, done.err.count("\n")) == (0, 1)
    assert f"{' '.join(words)}: is empty, so the model begins a text as without a prompt" in done.err
    assert done.out == groundup("generate", run, "--max-tokens", 4, "--prompt", "").out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert groundup("generate", run, "--max-tokens", 4, *words, "--quiet").err == ""


def test_on_a_terminal_a_prompt_from_standard_input_is_asked_for(groundup, run, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(b"The\n"))
    monkeypatch.setattr(stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", stdin)
    done = groundup("generate", run, "--max-tokens", 4, "--prompt", "-")
    assert done.out.startswith("The")
    assert done.err == "note  type the prompt; Ctrl-D at the beginning of a line ends it\n"


def test_one_line_of_a_model(groundup, run):
    options = (
        "generate",
        run,
        "--prompt",
        "The",
        "--num-samples",
        20,
        "--max-tokens",
        40,
        "--temperature",
        2,
        "--json",
    )
    whole, lines = (json.loads(groundup(*options, *more).out)["samples"] for more in ((), ("--one-line",)))
    assert lines == [text.partition("\n")[0] for text in whole]
    assert lines != whole


def test_quiet_prints_no_notes(groundup, run):
    options = ("generate", run, "--prompt", "x" * 40, "--max-tokens", 2)
    loud, quiet = groundup(*options), groundup(*options, "--quiet")
    assert (loud.out, quiet.err) == (quiet.out, "")
    assert "40 tokens: the model reads the last 16, its context" in loud.err


def test_quiet_training_prints_nothing_and_json_alone_with_json(groundup, prepared, fast, tmp_path):
    words = ("train", "gpt2-nano", "--data", prepared, *fast, "--train.max_steps", 2, "--out")
    done = groundup(*words, "a", "--quiet")
    assert (done.status, done.out, done.err) == (0, "", "")
    assert (tmp_path / "a" / "latest").exists()
    done = groundup("resume", "a", "--train.max_steps", 3, "--quiet", "--json")
    assert (json.loads(done.out)["step"], done.err) == (3, "")


def test_quiet_preparing_prints_nothing(groundup, tmp_path):
    (tmp_path / "t.txt").write_text("some text " * 50)
    done = groundup("prepare", "t.txt", "--out", "d", "--tokenizer", "byte", "--quiet")
    assert (done.status, done.out, done.err) == (0, "", "")
    assert (tmp_path / "d" / "manifest.json").exists()
