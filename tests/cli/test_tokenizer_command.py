"""`groundup tokenizer`, as a user types it."""

import io
import json
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from groundup.cli import tokenizer as command
from groundup.preprocess import train_tokenizer
from groundup.tokenizers.registry import choose_tokenizer

TEXT = "The low lower lowest newer newest wide wider widest.\n" * 40


@pytest.fixture
def text(tmp_path, groundup):
    (tmp_path / "text.txt").write_text(TEXT)
    return "text.txt"


def test_a_trained_tokenizer_serves_prepare_and_show(groundup, text, tmp_path):
    done = groundup("tokenizer", "train", text, "--size", "270", "--special", "<|pad|>", "--out", "tok")
    assert done.status == 0
    assert "tokenizer bpe, 270 ids; written to tok" in done.out
    assert f"{len(TEXT):,} bytes" in done.out
    following = next(line for line in done.out.splitlines() if line.startswith("next: groundup "))
    assert groundup(*following.removeprefix("next: groundup ").split()).status == 0
    expected = choose_tokenizer("tok")
    for place in ("tok", "data/tok", "tok/tokenizer.json"):
        shown = json.loads(groundup("tokenizer", "show", "lower", "--tokenizer", place, "--json").out)
        assert [piece["id"] for piece in shown["pieces"]] == expected.encode("lower").tolist()


def test_fewer_merges_than_requested_are_reported(groundup, text):
    done = groundup("tokenizer", "train", text, "--size", "5000", "--min-frequency", "2", "--out", "tok")
    assert done.status == 0
    assert "ids and not 5,000: the text holds no more merges; written to tok" in done.out


def test_training_as_json(groundup, text):
    done = groundup("tokenizer", "train", text, "--size", "270", "--out", "tok", "--json")
    result = json.loads(done.out)
    assert (result["n_vocab"], result["bytes"]) == (270, len(TEXT))
    assert result["bytes_per_token"] == len(TEXT) / result["tokens"]
    assert result["fingerprint"] == choose_tokenizer("tok").fingerprint


def test_a_column_of_json_lines_and_odd_bytes(groundup, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"body": "low lower caf\xe9"}\n' * 20)
    wrong = groundup("tokenizer", "train", "a.jsonl", "--size", "300", "--out", "tok", "--column", "body")
    assert (wrong.status, (tmp_path / "tok").exists()) == (2, False)
    done = groundup(
        "tokenizer", "train", "a.jsonl", "--size", "300", "--out", "tok", "--column", "body", "--errors", "replace"
    )
    assert done.status == 0


def test_only_the_beginning_of_a_large_text_is_measured(groundup, text, monkeypatch):
    monkeypatch.setattr(command, "MEASURED_BYTES", 10)
    assert "(the beginning of the text)" in groundup("tokenizer", "train", text, "--size", "300", "--out", "tok").out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["train", "text.txt", "--size", "10", "--out", "tok"], "bpe:10: the size must be a whole number"),
        (["train", "text.txt", "--size", "many", "--out", "tok"], "bpe:many: the size must be a whole number"),
        (["train", "text.txt", "--min-frequency", "0", "--out", "tok"], "min_frequency 0: must be 1 or more"),
        (["train", "text.txt", "--special", "pad", "--out", "tok"], "special token 'pad'"),
        (["train", "nowhere.txt", "--out", "tok"], "nowhere.txt"),
        (["train", "text.txt"], "--out"),
        (["train", "text.txt", "--out", "text.txt"], "text.txt: is a file"),
        (["train", "text.txt", "--sice", "3", "--out", "tok"], "did you mean --size?"),
        (["show", "a", "--tokenizer", "bpe:300"], "is trained on a corpus"),
        (["show", "a", "--tokenizer", "gpt"], "did you mean gpt"),
        (["show", "a", "--tokenizer", "text.txt"], "text.txt: not JSON"),
        (["show", "a", "--tokenizer", "none.json"], "none.json: there is no such file"),
        (["show", "a", "--file", "text.txt"], "give one of the two"),
        (["show", "two", "words"], "one argument too many"),
        (["show", "--file", "nowhere.txt"], "nowhere.txt"),
        (["show", "a\udce9"], "TEXT: 'a\\udce9' is not UTF-8"),
        (["shwo"], "train"),
        ([], "train|show"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(argv, sentence, groundup, text, tmp_path):
    done = groundup("tokenizer", *argv)
    assert (done.status, done.out) == (2, "")
    assert sentence in done.err
    assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [text]


@pytest.mark.parametrize("spec", ["x" * 5000, "a/" + "x" * 5000, "a/x\0y"])
def test_a_tokenizer_that_is_not_a_path_is_one_sentence(groundup, spec):
    done = groundup("tokenizer", "show", "hi", "--tokenizer", spec)
    assert (done.status, done.out) == (2, "")
    assert re.search("no path|there is no such file|has a NUL", done.err)
    assert done.err.count("\n") == 1


def test_it_is_trained_as_prepare_trains_it(groundup, text, monkeypatch):
    """The same chunks of text, and no more of it."""
    monkeypatch.setattr(train_tokenizer, "MAX_TRAIN_CHARS", 500)
    monkeypatch.setattr(train_tokenizer, "CHUNK_CHARS", 100)
    done = groundup("tokenizer", "train", text, "--size", "300", "--out", "tok")
    assert re.search(r"^tokenizer trained on \d{3} of 2,120 characters, taken evenly from the text$", done.err, re.M)
    assert groundup("prepare", text, "--tokenizer", "bpe:300", "--val_fraction", "0", "--out", "d").status == 0
    assert choose_tokenizer("tok").fingerprint == choose_tokenizer("d").fingerprint


def test_pieces_are_printed_above_their_ids(groundup):
    done = groundup("tokenizer", "show", "Hello, [red]world[/red]\n日\t")
    assert "Hello│, │·[ │red│] │world│[/   │red│] │⏎  \n15496│11│685│445│60│6894 │13412│445│60│198\n" in done.out
    assert r"\xe6\x97│\xa5│⇥" in done.out
    assert "⇥" in done.out
    assert "28 bytes, 13 tokens, 2.15 bytes per token" in done.out
    assert "│\\xa0│" in groundup("tokenizer", "show", "a\u00a0b").out  # no space, though it looks like one


def test_of_a_long_file_the_beginning_is_shown(groundup, text, monkeypatch):
    monkeypatch.setattr(command, "SHOWN_CHARS", 100)
    done = groundup("tokenizer", "show", "--file", text)
    assert re.search(r"^\d\d bytes, \d\d tokens, .* per token: the first \d\d characters$", done.out, re.M)
    shown = json.loads(groundup("tokenizer", "show", "--file", text, "--json").out)
    assert not shown["is_all"]
    ids = [piece["id"] for piece in shown["pieces"]]
    assert ids == choose_tokenizer("gpt2").encode(TEXT).tolist()[: len(ids)]
    assert 80 < shown["bytes"] <= 100
    monkeypatch.setattr(command, "SHOWN_CHARS", len(TEXT))
    complete = json.loads(groundup("tokenizer", "show", "--file", text, "--json").out)
    assert (complete["is_all"], complete["bytes"]) == (True, len(TEXT))


def test_without_a_text_the_tokenizer_is_described(groundup):
    assert groundup("tokenizer", "show").out == "gpt2: 50,257 ids, of which 50256 (<|endoftext|>) ends a document\n"


def test_a_lossy_tokenizer_reports_what_it_loses(groundup, shared_data):
    done = groundup("tokenizer", "show", "Ünder", "--tokenizer", f"gpt1:{shared_data / 'gpt1-vocab'}")
    assert "of which 40477 (⏎) ends a document\nlossy: decoding does not give back upper case, accents" in done.out
    assert "under·" in done.out
    assert "6 bytes, 1 token, 6.00 bytes per token" in done.out  # of the original text


@pytest.mark.parametrize("text", ["a[bold]b[/]  \u200b\x1b[31m\\x", "日本 🙂\n", "\n", "</s>"])
def test_the_pieces_in_json_are_the_text(groundup, text):
    shown = json.loads(groundup("tokenizer", "show", text, "--json").out)
    assert bytes.fromhex("".join(piece["bytes"] for piece in shown["pieces"])).decode() == text
    assert (shown["bytes"], shown["tokens"]) == (len(text.encode()), len(shown["pieces"]))


def test_text_from_standard_input_and_files(groundup, text, monkeypatch):
    from_file = groundup("tokenizer", "show", "--file", text, "--tokenizer", "byte", "--json")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    from_pipe = groundup("tokenizer", "show", "-", "--tokenizer", "byte", "--json")
    assert json.loads(from_file.out) == json.loads(from_pipe.out)
    assert json.loads(from_pipe.out)["bytes"] == len(TEXT)


def test_the_tokenizer_of_a_run_is_found(groundup, run):
    shown = json.loads(groundup("tokenizer", "show", "ab", "--tokenizer", run, "--json").out)
    assert (shown["tokenizer"], shown["n_vocab"]) == ("byte", 257)
    checkpoint = next((run / "checkpoints").iterdir())
    assert groundup("tokenizer", "show", "ab", "--tokenizer", checkpoint, "--json").status == 0


def drawn(text, monkeypatch, *, width=80, **console):
    file = io.StringIO()
    tokens = list(command._pieces(choose_tokenizer("gpt2"), text))
    command._print_pieces(Console(file=file, width=width, highlight=False, **console), tokens)
    return file.getvalue()


def test_a_terminal_gets_colours_instead_of_separators(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = drawn("Hello [red]", monkeypatch, force_terminal=True, color_system="standard")
    assert "\x1b[30;46mHello\x1b[0m \x1b[30;43m·[ \x1b[0m \x1b[30;46mred\x1b[0m" in shown
    assert "│" not in shown


def test_no_color_is_respected(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    shown = drawn("Hello [red]", monkeypatch, force_terminal=True, color_system="standard")
    assert "\x1b[3" not in shown
    assert "Hello│·[ │red" in shown


def test_nothing_in_a_text_reaches_the_terminal_as_a_command(monkeypatch):
    shown = drawn("\x1b[31m\x07\r\u202e", monkeypatch)
    assert all(char.isprintable() or char == "\n" for char in shown)


@pytest.mark.parametrize("width", [1, 10, 33])
def test_lines_fit_the_width(monkeypatch, width):
    lines = drawn("low lower lowest " * 20, monkeypatch, width=width).splitlines()
    assert len(lines) % 2 == 0
    assert max(map(len, lines)) <= max(width, 7)  # the widest piece
    ids = [int(id_) for line in lines[1::2] for id_ in line.split("│")]
    assert ids == choose_tokenizer("gpt2").encode("low lower lowest " * 20).tolist()


def test_a_text_on_the_command_line_is_utf8_in_every_locale():
    words = ["tokenizer", "show", "café ※ 😀", "--tokenizer", "byte", "--json"]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "groundup", *words]
    done = subprocess.run(command, capture_output=True, env=os.environ | locale, check=True)
    assert bytes.fromhex("".join(piece["bytes"] for piece in json.loads(done.stdout)["pieces"])).decode() == words[2]
