"""Fixtures of command-line tests: an empty folder, and models that train in a second."""

import shutil
from pathlib import Path

import pytest

from groundup.cli import main
from groundup.ui.format import visible

FAST = (
    "--model.n_layer 1 --model.n_head 2 --model.n_embd 16 --model.block_size 16 --train.batch_tokens 256 "
    "--train.max_steps 12 --train.threads 1 --train.precision fp32 --train.device cpu --train.log_every 5 "
    "--schedule.warmup_steps 2 --evaluate.every_steps 6 --evaluate.sample_tokens 6 --checkpoint.every_steps 6"
).split()


class Done:
    """A finished command: exit status, standard output, standard error."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def groundup(capsys, tmp_path, monkeypatch):
    """Run a command line in an empty folder; none prints a control character."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: object) -> Done:
        with pytest.raises(SystemExit) as exit_:
            main([str(word) for word in argv])
        captured = capsys.readouterr()
        if "generate" not in argv:  # which writes a text into a pipe as it is
            assert visible(captured.out) == captured.out
        assert visible(captured.err) == captured.err
        return Done(exit_.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def trained(prepared, tmp_path_factory) -> Path:
    """A finished run of twelve steps, read only."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    with pytest.raises(SystemExit) as exit_:
        main(["train", "gpt2-nano", "--data", str(prepared), "--out", str(folder), *FAST])
    assert exit_.value.code == 0
    return folder


@pytest.fixture
def run(trained, tmp_path_factory) -> Path:
    """A copy for each test, as evaluations are added to a run's log."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("copy") / "run", symlinks=True)


@pytest.fixture(scope="session")
def fast() -> list[str]:
    """Options that make a training run small."""
    return FAST
