"""The prompt line of `generate` and `quickstart`: texts, commands, Ctrl-C, and when it opens."""

import asyncio
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
from functools import partial

import pytest
from prompt_toolkit.application import create_app_session, get_app
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from groundup.checkpoint.state import load
from groundup.cli import line_editor, prompt_line
from groundup.cli.generation_options import DEFAULTS, GENERATION_OPTIONS
from groundup.cli.prompt_commands import ACTIONS, is_command, parse_command, propose
from groundup.cli.prompt_history import PromptHistory
from groundup.cli.prompt_line import HINT, LEAVING, PromptLine, talk
from groundup.errors import UsageError
from groundup.generation.completion import engine_for
from groundup.generation.engine import Engine
from groundup.ui.format import visible
from groundup.utils import ending_signal

NOTE = re.compile(r"(\d+) of (\d+) tokens(?:, [\d.]+[KM]? tokens/s)?, seed (\d+)\n")


@pytest.fixture(scope="module")
def loaded(trained):
    return load(trained, device="cpu")


@pytest.fixture
def line(loaded, trained, monkeypatch):
    """A prompt line whose texts have 12 tokens."""
    monkeypatch.setenv("COLUMNS", "200")
    return PromptLine(
        loaded, partial(engine_for, loaded, 1), ["groundup", "generate", str(trained)], DEFAULTS | {"max_tokens": 12}
    )


@pytest.fixture
def answers(line, capsys):
    """Function that types lines, and returns what the last one printed."""

    def type_lines(*lines: str) -> str:
        for each in lines:
            capsys.readouterr()
            line.answer(each)
        return capsys.readouterr().out

    return type_lines


def text_of(printed: str) -> tuple[str, int]:
    """The text with its beginning, and its seed."""
    note = NOTE.search(printed)
    assert printed.startswith("> ")
    assert printed.endswith(note[0])
    return printed[2 : note.start()], int(note[3])


@pytest.mark.parametrize(
    ("lines", "beginning", "seed"),
    [
        (["The a"], "The a", 0),
        (["The a", "/again", "/again"], "The a", 2),
        (["/seed 7", "The"], "The", 7),
        (["/seed 1e3", "The", "time"], "time", 1001),
        ([f"/seed {2**63 - 1}", "The", "/again"], "The", 0),
        (["/temperature 0", "/stop e", '/stop "\\n"', "- he said: --no"], "- he said: --no", 0),
        (["/top-k 3", "/top_p=.9", "/min-p 1e-3", "/presence-penalty -1.5", "two\nlines"], "two\nlines", 0),
        (["/logit-bias 97=2", "/logit-bias 101=-100", "/max-tokens 5", "//usr"], "/usr", 0),
        (["/top-k 3", "/top-k all", "/stop e", "/stop none", "// x\n/y"], "// x\n/y", 0),
    ],
)
def test_a_text_is_that_of_the_command_which_settings_shows(lines, beginning, seed, answers, groundup):
    text, own_seed = text_of(answers(*lines))
    assert own_seed == seed
    assert text.startswith(beginning)
    command = shlex.split(answers("/settings").partition("The last text again:\n")[2])
    assert visible(groundup(*command[1:]).out) == text
    assert text_of(answers("/again"))[1] == (seed + 1) % 2**63


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_the_command_gives_a_beginning_with_tabs_and_controls_to_a_shell_as_it_is(answers, groundup):
    beginning = "\t'\\t\x1b\x85\u202e\n x"
    text = text_of(answers("/max-tokens 1", beginning))[0]
    command = answers("/settings").partition("The last text again:\n")[2]
    assert visible(command) == command
    script = command.replace("groundup generate", "printf '%s\\0'", 1)
    words = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split("\0")
    assert beginning in words
    assert visible(groundup("generate", *words[:-1]).out) == text


def test_an_option_that_was_not_changed_is_not_in_the_command(answers, trained):
    answers("The", "/temperature 0.5")
    assert answers("/settings").endswith(f"groundup generate {trained} --prompt The --max-tokens 12\n")
    answers("The")
    assert answers("/settings").endswith(" --max-tokens 12 --temperature 0.5 --seed 1\n")


def test_settings_are_those_that_hold(answers):
    for command, shown in (
        ("/temperature 0.5", "temperature 0.5"), ("/top-k 40", "top-k 40"), ("/top-k all", "top-k all"),
        ("/stop END", 'stop "END"'), (r'/stop "\n"', r'stop "END", "\n"'), ("/stop", r'stop "END", "\n"'),
        (r"/stop \tau", r'stop "END", "\n", "\\tau"'), ('/stop "none"', r'stop "END", "\n", "\\tau", "none"'),
        ("/stop none", "stop none"), ("/logit-bias 5=-100", "logit-bias 5=-100"),
        ("/logit-bias 6=.5", "logit-bias 5=-100, 6=0.5"), ("/seed", "seed 0"), ("/min_p=0", "min-p 0"),
    ):  # fmt: skip
        assert answers(command) == shown + "\n"
    rows = dict(row.split(maxsplit=1) for row in answers("/settings").splitlines())
    assert list(rows) == [option.name for option in GENERATION_OPTIONS]
    assert (rows["temperature"], rows["top-k"], rows["logit-bias"]) == ("0.5", "all", "5=-100, 6=0.5")


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("/temperature warm", "/temperature: 'warm' is not a number"),
        ("/temperature nan", "temperature nan: must be 0 (greedy) or more"),
        ("/top-k 0", "top_k 0: must be 1 or more"),
        ("/top-k 1.5", "/top-k: '1.5' is not a whole number"),
        ("/top-p 2", "top_p 2.0: must be more than 0 and at most 1"),
        ("/min-p all of them", "/min-p: 'all of them' is not a number"),
        ("/max-tokens -1", "max_tokens -1: must be 0 or more"),
        ('/stop ""', "stop: an empty text would end every sample at once; leave it out"),
        ('/stop "\\x"', r'/stop: "\x" is no text in double quotes; write \\ for \ and \" for a quote'),
        ("/stop \udce9", r"'/stop \udce9' is not UTF-8; give the text in that encoding"),
        ("/logit-bias the", "/logit-bias: 'the' is not ID=NUMBER, such as 198=-100"),
        ("/logit-bias 257=1", "logit_bias: id 257 is not one of the model's, which are 0 to 256"),
        ("/seed -1", "seed -1: must be 0 or more and below 2^63"),
        ("/again", "/again: there is no text yet; type a beginning first"),
        ("/quit now", "/quit: takes no value; leave out now"),
        ("/tempratur 1", "/tempratur: there is no such command; did you mean /temperature?"),
        ("/usr/bin", "/usr/bin: there is no such command; /help lists them, and // begins a text with /"),
        ("/", "/: there is no such command; /help lists them, and // begins a text with /"),
        ("caf\udce9", r"'caf\udce9' is not UTF-8; give the text in that encoding"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(typed, sentence, line, answers):
    before = answers("/settings")
    with pytest.raises(UsageError, match=re.escape(sentence)):
        line.answer(typed)
    assert answers("/settings") == before


def test_a_mistake_on_the_command_line_is_found_before_the_prompt(groundup, run, monkeypatch):
    monkeypatch.setattr(prompt_line, "can_talk", lambda: True)
    for words, sentence in (
        (["--stop", ""], "stop: an empty text"),
        (["--logit-bias", "300=1"], "logit_bias: id 300 is not one of the model's"),
        (["--max-tokens", -1], "max_tokens -1: must be 0 or more"),
    ):
        done = groundup("generate", run, *words)
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
        assert sentence in done.err


def test_help_lists_every_command(answers):
    printed = answers("/help")
    for name in (*ACTIONS, *(option.name for option in GENERATION_OPTIONS)):
        assert f"  /{name} " in printed
    for key in ("Alt-Enter", "Ctrl-J", "Tab", "Ctrl-C", "//"):
        assert key in printed


def test_one_engine_writes_all_texts(line, answers, monkeypatch):
    monkeypatch.setattr(line, "_new_engine", None)
    texts = [text_of(answers("/seed 3", beginning)) for beginning in ("The", "much longer", "The")]
    assert texts[0] == texts[2] != texts[1]


def test_a_prompt_that_is_longer_than_the_context_is_mentioned(answers):
    assert answers("x" * 40).startswith("the prompt has 40 tokens: the model reads the last 16, its context\n> xxx")


def test_what_a_terminal_would_obey_is_shown(line, answers):
    printed = answers("/logit-bias 27=100", "/max-tokens 3", "a\x1b]0;title\x07b")
    assert printed.startswith(r"> a\x1b]0;title\x07b\x1b\x1b\x1b" + "\n3 of 3 tokens")
    with pytest.raises(UsageError) as error:
        line.answer("/\x1b[2J")
    line.say(str(error.value))


def test_enter_alone_continues_what_a_command_without_a_prompt_continues(answers, loaded, monkeypatch):
    monkeypatch.setattr("groundup.run.dataset.prompt_for", lambda model, seed: f"line {seed}: ")
    assert text_of(answers("/seed 4", ""))[0].startswith("line 4: ")
    assert text_of(answers("/again")) == text_of(answers("/seed 5", "line 4: "))


def interrupting_engine(monkeypatch, step, times=1):
    """In the step of this number Ctrl-C is pressed, once or more often."""
    original, steps = Engine.step, []

    def interrupted(engine):
        steps.append(1)
        if len(steps) == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return original(engine)

    monkeypatch.setattr(Engine, "step", interrupted)


@pytest.mark.parametrize("beginning", ["The", "some beginning"])
def test_ctrl_c_stops_a_text_and_the_next_one_is_as_ever(beginning, line, answers, monkeypatch):
    whole = text_of(answers("/seed 1", beginning))[0]
    with monkeypatch.context() as patch:
        interrupting_engine(patch, 4)
        printed = answers("/seed 1", beginning)
    cut = text_of(printed)[0]
    assert printed.count("4 of 12 tokens") == 1
    assert whole.startswith(cut.rstrip("\n"))
    assert text_of(answers("/seed 1", beginning))[0] == whole
    with monkeypatch.context() as patch:
        interrupting_engine(patch, 4, times=2)
        with pytest.raises(KeyboardInterrupt):
            line.answer(beginning)
    assert text_of(answers("/seed 1", beginning))[0] == whole
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def typed(loaded, monkeypatch, capsys):
    """Function that opens the prompt line, types keys, and returns what is printed besides the editor."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(line_editor, "create_output", lambda stdout: DummyOutput())

    def session(keys: str, **options) -> str:
        with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
            pipe.send_text(keys)
            talk(
                loaded,
                partial(engine_for, loaded, 1),
                ["groundup", "generate", "run"],
                DEFAULTS | {"max_tokens": 4},
                **options,
            )
        return capsys.readouterr().out

    return session


def test_it_continues_until_ctrl_d(typed):
    printed = typed("The a\r/top-k 0\r/nothing\r/again\r\x04")
    assert printed.startswith(f"{HINT}\n> The a")
    lines = printed.splitlines()
    assert "top_k 0: must be 1 or more" in lines
    assert sum(line.startswith("/nothing: there is no such command") for line in lines) == 1
    assert [note[3] for note in NOTE.finditer(printed)] == ["0", "1"]
    assert typed("The\r/quit\rThe\r").count("> The") == 1


def test_quiet_prints_the_texts_alone(typed):
    printed = typed("The\r\x04", quiet=True)
    assert HINT not in printed
    assert printed.startswith("> The")
    assert not NOTE.search(printed)


def test_ctrl_c_clears_a_line_and_on_an_empty_one_says_how_to_leave(typed):
    assert LEAVING not in typed("begun\x03\x04")
    assert typed("begun\x03\x03\x04").splitlines()[1:] == [LEAVING]


def test_two_ctrl_c_in_a_text_do_not_end_the_prompt_line(typed, monkeypatch):
    interrupting_engine(monkeypatch, 2, times=2)
    assert "> Then" in typed("The\rThen\r\x04")
    assert ending_signal.recorded() == 0  # so that a later error is reported as what it is


@pytest.mark.parametrize(
    ("keys", "beginning"),
    [
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("one\ntwo\r", "one\ntwo"),
        ("\x1b[200~one\r\ntwo\n/three\r\x1b[201~\r", "one\ntwo\n/three\n"),
        ("  indented\x1b\rx\r", "  indented\nx"),
        ("abc\x1b[D\x1b[DX\r", "aXbc"),
        ("a\x11\x07b\r", r"a\x07b"),
    ],
)
def test_keys(keys, beginning, typed):
    assert typed(keys + "\x04", quiet=True).rpartition("> ")[2].startswith(beginning)


@pytest.fixture
def edited(monkeypatch):
    """Function that types keys, the last one again until a text stands in the editor, then Enter; what was sent."""
    monkeypatch.setattr(line_editor, "create_output", lambda stdout: DummyOutput())

    def edit(keys: str, last: str, text: str, history=()) -> str:
        with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
            editor = line_editor.new_editor(history, propose)

            async def type_keys() -> None:  # completions and history come when the editor has time for them
                pipe.send_text(keys)
                for attempt in range(2000):
                    if editor.default_buffer.text == text:
                        pipe.send_text("\r")
                        return
                    if attempt % 100 == 0:
                        pipe.send_text(last)
                    await asyncio.sleep(0.01)
                get_app().exit(result=f"it has {editor.default_buffer.text!r}")

            return editor.prompt(pre_run=lambda: get_app().create_background_task(type_keys()))

    return edit


def test_tab_completes_commands_and_values(edited):
    for keys, text in (("/temp", "/temperature "), ("/top-k a", "/top-k all"), ("/ag", "/again")):
        assert edited(keys, "\t", text, InMemoryHistory()) == text


def test_arrows_bring_back_what_was_typed_also_in_another_session(edited, tmp_path):
    path = tmp_path / "state" / "history"
    assert edited("two\x1b\rlines", "", "two\nlines", PromptHistory(path)) == "two\nlines"
    assert edited("/top-k 3", "", "/top-k 3", PromptHistory(path)) == "/top-k 3"
    assert edited("", "\x1b[A", "/top-k 3", PromptHistory(path)) == "/top-k 3"
    assert edited("\x12lin", "\r", "two\nlines", PromptHistory(path)) == "two\nlines"  # Ctrl-R searches


def test_proposals():
    assert {word for word, _, _ in propose("/top")} == {"/top-k ", "/top-p "}
    assert {word.strip() for word, _, _ in propose("/")} == {f"/{name}" for name in ACTIONS} | {
        f"/{option.name}" for option in GENERATION_OPTIONS
    }
    assert [word for word, _, _ in propose("/repetition_pen")] == ["/repetition-penalty "]
    assert [word for word, _, _ in propose("/top-k ")] == ["10", "50", "200", "all"]
    for text in ("", "The /", "//top", "/top\n/top", "/again ", "/none x"):
        assert not list(propose(text))
    for option in GENERATION_OPTIONS:  # what is proposed is accepted
        for word, _, _ in propose(f"/{option.name} "):
            assert parse_command(f"/{option.name} {word}") == (option.name, word)
            if word != option.off:
                option.type(word)


def test_what_a_command_is():
    assert [text for text in ("/a", "a/", "//a", "/a\nb", "", " /a", "/") if is_command(text)] == ["/a", "/"]


@pytest.mark.parametrize(
    ("words", "opens"),
    [
        ([], True),
        (["--temperature", 0, "--seed", 3, "--stop", "x", "--checkpoint", "best", "--device", "cpu", "--quiet"], True),
        (["--prompt", ""], False),
        (["--prompt", "The"], False),
        (["--prompt-file", "prompt.txt"], False),
        (["--num-samples", 1], False),
        (["--json"], False),
        (["--memorization"], False),
    ],
)
def test_it_opens_where_a_person_asks_for_no_other_output(words, opens, groundup, run, tmp_path, monkeypatch):
    (tmp_path / "prompt.txt").write_text("The")
    opened = []
    monkeypatch.setattr(prompt_line, "talk", lambda *args, **options: opened.append((args, options)))
    words = ["generate", run, "--max-tokens", 3, *words]
    assert groundup(*words).status == 0
    assert not opened  # in a pipe
    monkeypatch.setattr(prompt_line, "can_talk", lambda: True)
    done = groundup(*words)
    assert done.status == 0
    assert bool(opened) == opens
    assert (done.out == "") == opens


def test_what_was_given_is_where_it_starts(groundup, run, monkeypatch):
    opened = []
    monkeypatch.setattr(prompt_line, "can_talk", lambda: True)
    monkeypatch.setattr(prompt_line, "talk", lambda *args, **options: opened.append((*args[2:], options)))
    groundup(
        "generate", run, "--checkpoint", "best", "--top-k", 5, "--stop", "x", "--one-line", "--device=cpu", "--seed", 9,
        "--speculation", "off",
    )  # fmt: skip
    ((command, values, options),) = opened
    words = ["--checkpoint", "best", "--device", "cpu", "--speculation", "off"]
    assert command == ["groundup", "generate", str(run), *words]
    assert values == DEFAULTS | {"top_k": 5, "stop": ["x", "\n"], "seed": 9}
    assert options == {"quiet": False}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["xterm-256color", "dumb"])
def test_on_a_terminal(kind, run, tmp_path):
    """A whole session: a text, Ctrl-C, what was typed meanwhile, and the terminal as it was."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-m", "groundup", "generate", str(run), "--max-tokens", "1000000", "--logit-bias", "10=100"],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "TERM": kind, "XDG_STATE_HOME": str(tmp_path)},
    )  # fmt: skip
    seen = b""

    def wait_for(words: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + 300
        while words not in seen and time.monotonic() < end and process.poll() is None:
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 65536)
        assert words in seen, (words, seen[-600:])
        seen = seen.partition(words)[2]

    wait_for(b"leaves.")
    wait_for(b">")
    os.write(ours, b"Once upon\r")
    wait_for(b"> Once upon")
    for _ in range(5):  # lines of the text
        wait_for(b"\n")
    os.write(ours, b"/quit\r")  # not shown while the text is written
    process.send_signal(signal.SIGINT)  # as the terminal's Ctrl-C does
    wait_for(b" of 1,000,000 tokens")
    assert process.wait(60) == 0
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)
