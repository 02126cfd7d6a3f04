"""Ctrl-C at any moment is one line and exit status 130."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import groundup
from groundup.cli.interrupts import noting_interrupts
from groundup.diagnostics import verify_resume
from groundup.errors import UsageError
from groundup.training.signals import StopSignals
from groundup.utils import ending_signal

SOURCE = Path(groundup.__file__).parents[1]
INTERRUPTED = (130, "", "groundup: interrupted\n")

# A library that gets Ctrl-C in the middle of its import, after a part of it was imported.
LIBRARY = """
import os, signal, sys
from torch import distributed
os.kill(os.getpid(), signal.SIGINT)
for _ in range(1000):  # signals are handled between bytecodes
    pass
"""


def start(code: str, *words: object, python_path: tuple[object, ...] = (SOURCE,)) -> tuple[int, str, str]:
    """Run code in a new process; returns exit status, standard output, standard error."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, python_path))}
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", [["train", "gpt2-nano", "--data", "x", "--out", "y"], ["resume", "x"]])
def test_while_torch_is_imported(words, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(LIBRARY)
    (tmp_path / "torch" / "distributed.py").touch()
    code = "from groundup.cli import main; main()"
    assert start(code, *words, python_path=(tmp_path, SOURCE)) == INTERRUPTED


def test_again_while_libraries_clean_up():
    # As torch does when a process ends.
    clean_up = "import atexit, os, signal; atexit.register(lambda: [os.kill(os.getpid(), signal.SIGINT), None][1])"
    assert start(f"{clean_up}\nfrom groundup.cli import main; main()", "--version")[::2] == (0, "")


def test_before_the_command_line_is_imported():
    # Parsing takes most of the time until a command begins, so it is imported when Ctrl-C is answered already.
    code = "import sys, groundup.cli; print({'pydantic', 'numpy', 'rich', 'torch'} & {*sys.modules})"
    assert start(code) == (0, "set()\n", "")


def test_while_a_command_runs(groundup, monkeypatch):
    handlers = []

    def interrupt(*_):
        handlers.append(signal.getsignal(signal.SIGINT))
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("groundup.cli.corpora.run", interrupt)
    done = groundup("corpora")
    assert (done.status, done.out, done.err) == INTERRUPTED
    assert handlers != [before]
    assert signal.getsignal(signal.SIGINT) is before  # `main` was called with arguments, by another program


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("error", [ValueError("a shape"), UsageError("damaged"), OSError(2, "gone", "x"), None])
@pytest.mark.parametrize(
    ("number", "status", "line"),
    [(signal.SIGINT, 130, "groundup: interrupted\n"), (signal.SIGTERM, 143, "")],  # its handler has written a line
)
def test_c_code_replaces_the_exception_of_the_handler(number, status, line, error, groundup, monkeypatch):
    # As torch does in `torch.tensor(storage)`; code of ours may turn that into a sentence on a damaged file.
    def run(*_):
        try:
            signal.raise_signal(number)
        except BaseException:
            if error is None:
                raise
            raise error from None

    monkeypatch.setattr("groundup.cli.corpora.run", run)
    done = groundup("corpora")
    assert (done.status, done.out, done.err) == (status, "", line)
    assert groundup("--version").status == 0  # the signal is forgotten
    monkeypatch.setattr("groundup.cli.corpora.run", lambda *_: 1 // 0)
    assert "ZeroDivisionError" in groundup("corpora").err


def replaced(number, times=1):
    """The signal, and an exception of C code in the place of its handler's."""
    try:
        for _ in range(times):
            signal.raise_signal(number)
    except BaseException:
        raise ValueError("a shape") from None
    pytest.fail("the handler raised nothing")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("handlers", "number", "times"),
    [(noting_interrupts, "SIGINT", 2), (StopSignals, "SIGINT", 2), (verify_resume._terminable, "SIGHUP", 1)],
)
def test_every_handler_that_raises_records_its_signal(handlers, number, times, groundup, monkeypatch):
    def run(*_):
        with handlers():
            replaced(getattr(signal, number), times)

    monkeypatch.setattr("groundup.cli.corpora.run", run)
    done = groundup("corpora")
    assert done.status == 128 + getattr(signal, number)
    assert "Traceback" not in done.err


def test_an_error_long_after_a_signal_that_was_swallowed_is_reported(groundup, monkeypatch):
    def run(*_):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        now = time.monotonic()
        monkeypatch.setattr("groundup.utils.ending_signal.time.monotonic", lambda: now + ending_signal.SECONDS + 1)
        raise UsageError("a mistake")

    monkeypatch.setattr("groundup.cli.corpora.run", run)
    done = groundup("corpora")
    assert (done.status, done.err) == (2, "groundup: a mistake\n")


def test_a_program_that_handles_the_signal_itself_goes_on_doing_so(groundup):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert groundup("--version").status == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
