"""A hangup of the terminal ends a run in a checkpoint, and no display raises."""

import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from groundup.checkpoint.run_folder import RunFolder
from groundup.cli.display import finish
from groundup.run.evaluator import EvalLosses
from groundup.run.trainer import TrainResult
from groundup.training.early_stopping import BestLoss
from groundup.ui.watch import ClosableDisplay


class Broken:
    """A display on a terminal that was closed."""

    shows_history = False

    def __init__(self, error):
        self.error, self.calls = error, 0

    def message(self, text):
        self.calls += 1
        raise self.error

    begin = step = evaluation = sample = message


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), BrokenPipeError(), ValueError("closed file")])
def test_a_closed_display_is_not_called_again_and_a_reader_that_is_gone_ends_the_run(error, monkeypatch):
    raised = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    broken = Broken(error)
    display = ClosableDisplay(broken)
    display.message("a")
    display.sample("b")
    assert broken.calls == 1
    assert raised == [signal.SIGTERM] * isinstance(error, BrokenPipeError)


def test_other_errors_are_not_hidden():
    with pytest.raises(RuntimeError, match="ours"):
        ClosableDisplay(Broken(RuntimeError("ours"))).message("a")
    ClosableDisplay(Broken(RuntimeError("reentrant call inside <_io.BufferedWriter>"))).message("a")


@pytest.mark.parametrize(("number", "best"), [(None, 9), (None, 5), (signal.SIGINT, 9)])
def test_the_next_command_is_quoted_for_the_shell(number, best, capsys):
    run = Path("runs/it's mine")
    result = TrainResult(run, run / "checkpoints", 9, 9, EvalLosses(1.0, 1.0, 1.0), BestLoss(1.0, best, 0), number)
    finish(result, as_json=False)
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("next: "))
    if number:
        assert words == ["groundup", "resume", str(run)]
    else:
        options = ["--checkpoint", "best"] if best < 9 else []
        assert words == ["groundup", "generate", str(run), "--prompt", "TEXT", *options]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("dumb", marks=pytest.mark.long), "xterm-256color"])
def test_a_terminal_that_is_closed_ends_the_run_in_a_checkpoint(kind, prepared, tmp_path):
    ours, theirs = pty.openpty()
    words = ["train", "gpt2-nano", "--data", str(prepared), "--out", str(tmp_path / "run")]
    options = ["--train.max_steps", "1000000", "--checkpoint.every_steps", "0", "--evaluate.every_steps", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "groundup", *words, *options, "--train.threads", "1"],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env={**os.environ, "TERM": kind},
    )  # fmt: skip
    os.close(theirs)
    log, deadline = tmp_path / "run" / "log.jsonl", time.monotonic() + 300
    while not (log.exists() and log.stat().st_size > 2000) and time.monotonic() < deadline:
        os.read(ours, 65536)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(300) in (129, 143)
    assert RunFolder(tmp_path / "run").steps()
