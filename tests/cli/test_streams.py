"""Standard streams: what a terminal would obey is escaped; full, closed or unread ones do not end the work."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.live import Live
from rich.text import Text

from groundup.checkpoint.log import read_log
from groundup.checkpoint.run_folder import RunFolder
from groundup.cli import main
from groundup.ui.console import Console
from groundup.ui.format import json_line
from groundup.ui.streams import printable_streams, unescaped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")

LOST = "groundup: standard output cannot be written (No space left on device); continuing without it\n"
COMMANDS = (
    ["--help"], ["--version"], ["train", "--help"], ["corpora"], ["corpora", "--json"], ["tokenizer", "show", "hello"],
    ["plan", "gpt2"], ["plan", "gpt2", "--json"], ["compare", "RUN", "OTHER"], ["fsck", "RUN"], ["why", "RUN", "1"],
    ["generate", "RUN", "--max-tokens", "9"], ["generate", "RUN", "--max-tokens", "9", "--json"],
    ["evaluate", "RUN", "--no-baselines"], ["prepare", "text.txt", "--out", "data", "--tokenizer", "byte"],
)  # fmt: skip


def full_disk():
    return Path("/dev/full").open("w")


def unread_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def call(monkeypatch, stdout, *words):
    """Run a command with this standard output; returns the exit status."""
    with monkeypatch.context() as patch, stdout:
        patch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as exit_:
            main(list(words))
    return exit_.value.code


@pytest.fixture
def words(run, trained, tmp_path, monkeypatch):
    """Function that puts the run's path into a command line; the folder has a text to prepare."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("Once upon a time.\n" * 30)
    return lambda argv: [{"RUN": str(run), "OTHER": str(trained)}.get(word, word) for word in argv]


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_full_disk_under_standard_output_is_one_line_and_a_status_of_its_own(argv, words, monkeypatch, capsys):
    assert call(monkeypatch, full_disk(), *words(argv)) == 74
    assert capsys.readouterr().err.count(LOST) == 1
    assert Path("data/manifest.json").exists() == (argv[0] == "prepare")


def test_a_reader_that_is_gone_ends_a_command_in_silence(words, monkeypatch, capsys):
    assert call(monkeypatch, unread_pipe(), *words(["generate", "RUN"])) == 141
    assert call(monkeypatch, unread_pipe(), *words(["fsck", "RUN"])) == 141
    assert capsys.readouterr().err == ""


def test_training_goes_on_without_its_lines_on_a_full_disk(prepared, fast, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    train = ["train", "gpt2-nano", "--data", str(prepared), "--out", str(run), *fast]
    assert call(monkeypatch, full_disk(), *train) == 74
    assert [record["step"] for record in read_log(run / "log.jsonl") if record["event"] == "save"][-1] == 12
    assert capsys.readouterr().err.count(LOST) == 1


def test_training_whose_reader_leaves_ends_with_a_checkpoint(prepared, fast, tmp_path, monkeypatch, capsys):
    class Pipe(io.StringIO):
        def write(self, text):
            if text.startswith("step 5/"):
                raise BrokenPipeError
            return super().write(text)

    run = tmp_path / "run"
    train = ["train", "gpt2-nano", "--data", str(prepared), "--out", str(run), *fast]
    assert call(monkeypatch, Pipe(), *train) == 141
    assert [folder.name for folder in RunFolder(run).steps()] == ["step-00000005"]
    assert capsys.readouterr().err == ""


def test_lines_are_printed_again_once_there_is_room(monkeypatch, capsys):
    class Disk(io.StringIO):
        full = False

        def flush(self):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", disk := Disk())
    with printable_streams() as output:
        for disk.full in (False, True, True, False):
            print("line", flush=True)
    assert (disk.getvalue(), output.error.errno) == ("line\n" * 4, errno.ENOSPC)
    assert capsys.readouterr().err == LOST


@pytest.mark.parametrize("stderr", [full_disk, unread_pipe])
def test_standard_error_that_cannot_be_written_changes_nothing(stderr, monkeypatch):
    with monkeypatch.context() as patch, stderr() as stream:
        patch.setattr(sys, "stderr", stream)
        assert call(monkeypatch, io.StringIO(), "trian") == 2


CLOSED = """
import os, sys
from groundup.cli import main
try:
    main()
finally:
    with open("descriptor", "w") as file:
        file.write(str(os.open(".", os.O_RDONLY)))
"""


@pytest.mark.parametrize(
    ("words", "closed", "status", "err"),
    [
        (["--version"], ">&-", 0, ""),
        (["--version"], "<&- >&- 2>&-", 0, ""),
        (["trian"], "2>&-", 2, ""),
        (
            ["prepare", "-", "--out", "data"],
            "<&-",
            2,
            "groundup: -: standard input is closed; redirect it from a file, or name one\n",
        ),
    ],
)
def test_closed_streams(words, closed, status, err, tmp_path):
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    done = subprocess.run(
        [*shell, sys.executable, "-c", CLOSED, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, err)
    # A file with the descriptor of standard output would receive what C code prints.
    assert int((tmp_path / "descriptor").read_text()) > 2


COMMANDS_TO_A_TERMINAL = "\x1b]0;title\x07\x9b2J\x7f\r\u202e\u2066\ud800"
AS_TEXT = r"\x1b]0;title\x07\x9b2J\x7f\r\u202e\u2066\ud800"


def test_errors_and_lines_have_no_control_characters(groundup, monkeypatch):
    done = groundup(COMMANDS_TO_A_TERMINAL)
    assert done.err.startswith(f"groundup: {AS_TEXT}: there is no such command")
    monkeypatch.setattr("groundup.cli.corpora.run", lambda _: print(COMMANDS_TO_A_TERMINAL))
    assert groundup("corpora").out == AS_TEXT + "\n"


def test_libraries_see_no_terminal_as_their_colours_would_be_escaped(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    with printable_streams():
        assert not sys.stderr.isatty()
        assert unescaped(sys.stderr).isatty()


def test_an_error_stays_one_line(groundup):
    done = groundup("a\ngroundup: all is well")
    assert done.err.startswith("groundup: a⏎groundup: all is well: there is no such command")
    assert done.err.count("\n") == 1


def test_a_console_keeps_its_own_codes_and_escapes_those_in_texts(monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal := io.StringIO())
    with printable_streams():
        console = Console(force_terminal=True, color_system="standard", width=200)
        console.print(Text(COMMANDS_TO_A_TERMINAL, "red"), f"[link=file:///]{COMMANDS_TO_A_TERMINAL}")
    shown = AS_TEXT.replace(r"\x07", "").replace(r"\r", "")  # rich drops these two
    assert terminal.getvalue() == f"\x1b[31m{shown}\x1b[0m [link=file:///]{shown}\n"


def test_a_live_display_keeps_its_own_codes_and_escapes_what_is_printed_meanwhile(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal := io.StringIO())
    with printable_streams(), Live("bar", console=Console(force_terminal=True)) as live:
        live.refresh()
        print("\x1b]8;;\x07\x1b[2J\x1b\\link\u202e")
    assert terminal.getvalue().startswith("\x1b[?25l")
    assert terminal.getvalue().count("link\\u202e") == 1
    for codes in ("\\x1b", "\x07", "\x1b[2J"):
        assert codes not in terminal.getvalue()


@pytest.mark.parametrize("text", [COMMANDS_TO_A_TERMINAL, "\x00\n\t 한국 😀"])
def test_json_is_printable_and_exact(text):
    line = json_line({text: text})
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {text: text}


def test_a_text_is_generated_into_a_pipe_as_it_is_and_onto_a_terminal_escaped(run, groundup, monkeypatch):
    monkeypatch.setattr("groundup.generation.completion.stream_request", lambda *_, **__: iter([["\x1b[1m"]]))
    assert groundup("generate", run, "--prompt", "Once").out == "Once\x1b[1m\n"
    monkeypatch.setattr("groundup.ui.streams.Output.isatty", lambda _: True)
    assert groundup("generate", run, "--prompt", "Once").out == "Once\\x1b[1m\n"


def test_a_program_may_have_replaced_standard_output_by_an_object_that_can_only_write(run, monkeypatch):
    written = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=written.append, flush=list))
    with pytest.raises(SystemExit) as exit_:
        main(["generate", str(run), "--prompt", "Once", "--max-tokens", "1"])
    assert (exit_.value.code, "".join(written)[:4]) == (0, "Once")
