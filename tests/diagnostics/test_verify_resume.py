"""verify-resume: exact resumes pass, lost state is found, and no files or processes are left."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundup.api import configure
from groundup.checkpoint.run_folder import RunFolder
from groundup.diagnostics.verify_resume import (
    _command,
    _refuse_small_disk,
    _terminable,
    differing_metadata,
    largest_difference,
    same_bits,
    shortened,
    verify_resume,
)
from groundup.errors import TrainingError, UsageError
from groundup.optim.run_length import build_run_length
from groundup.utils.files import SUMS, sha256

OVERRIDES = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "dropout": 0.1},
    "optimizer": {"ema_decay": 0.9},
    "schedule": {"warmup_steps": 5},
    "train": {
        "micro_batch_size": 5,
        "max_steps": 2000,
        "batch_tokens": 256,
        "threads": 1,
        "precision": "fp32",
        "device": "cpu",
    },
    "evaluate": {"sample_tokens": 4},
}
WORDS = [
    f"--{section}.{key}={value}" for section, values in OVERRIDES.items() for key, value in values.items()
]  # the same, as options


@pytest.fixture
def children(forks, monkeypatch):
    """Run the trial runs as forks; new processes are tested below."""
    monkeypatch.setattr(
        "groundup.diagnostics.verify_resume._command", lambda words: [*forks.words, "-m", "groundup", *words, "--json"]
    )
    monkeypatch.setattr("groundup.diagnostics.verify_resume.subprocess.Popen.kill", lambda child: forks.kill(child))


def test_trial_runs_import_nothing_from_the_current_folder(tmp_path):
    (tmp_path / "argparse.py").write_text("open('executed', 'w')")
    done = subprocess.run(_command(["--version"]), cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, (tmp_path / "executed").exists()) == (0, False), done.stderr


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """Empty folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.mark.slow
def test_a_run_restored_completely_is_bitwise(prepared, empty, children):
    lines = []
    outcome = verify_resume(configure(prepared, overrides=OVERRIDES), steps=6, report=lines.append)
    assert outcome.bitwise
    assert (outcome.steps, outcome.killed_after) == (6, 3)
    assert outcome.tensors > 60  # weights, EMA, two tensors of optimizer state and a count for each
    assert "about" in lines[0]
    assert lines[0].endswith("s left")
    assert lines[1].startswith("changed for this test: ")
    assert "checkpoint.every_steps 1000 -> 3" in lines[1]
    assert not list(empty.iterdir())


def zero_a_moment(run: Path) -> None:
    """Zero one tensor of optimizer state in the newest checkpoint and recompute its checksums."""
    checkpoint = RunFolder(run).steps()[-1]
    path = checkpoint / "optimizer/state.safetensors"
    tensors = load_file(path)
    tensors["ln_f.bias|exp_avg"].zero_()
    save_file(tensors, path)
    names = [line.partition("  ")[2] for line in (checkpoint / SUMS).read_text().splitlines()]
    (checkpoint / SUMS).write_text("".join(f"{sha256(checkpoint / name)}  {name}\n" for name in names))


@pytest.mark.slow
def test_optimizer_state_that_is_lost_is_found(prepared, empty, children):
    """Negative control: state that is not restored shows in tensors and losses, and the kill is named as cause."""
    outcome = verify_resume(configure(prepared, overrides=OVERRIDES), steps=8, before_resume=zero_a_moment)
    assert not outcome.bitwise
    assert outcome.repeatable
    assert outcome.difference.largest > 0
    assert outcome.losses_from in (6, 7, 8)  # step 5 is computed before the state has an effect
    assert not list(empty.iterdir())


@pytest.mark.slow
def test_a_run_that_started_again_proves_nothing(prepared, empty, children):
    def lose(run: Path) -> None:
        shutil.rmtree(run / "checkpoints")
        (run / "log.jsonl").unlink()  # which says that there was a checkpoint

    with pytest.raises(TrainingError, match="did not resume from its checkpoint at step 2"):
        verify_resume(configure(prepared, overrides=OVERRIDES), steps=4, before_resume=lose)
    assert not list(empty.iterdir())


def new_process(*words: object) -> list[str]:
    """Arguments that start the command."""
    return [sys.executable, "-m", "groundup", "verify-resume", "gpt2-nano", *map(str, words)]


LONG = pytest.mark.long


@pytest.mark.slow
@pytest.mark.parametrize("trials", ["forks", pytest.param("new processes", marks=LONG)])
def test_the_command_prints_lines_and_json(trials, prepared, forks, empty, command, request):
    if trials == "forks":
        request.getfixturevalue("children")
    options = [word for word in WORDS if "max_steps" not in word]
    words = ["verify-resume", "gpt2-nano", "--data", prepared, "--steps", 4, "--json", *options]
    status, out, err = command(*words, "--train.max_time=20s")
    assert status == 0
    values = json.loads(out)
    assert values["bitwise"]
    assert values["losses_from"] is None
    assert "train.max_time 20.0 -> None" in err
    assert not list(empty.iterdir())


SIGNALS = [
    pytest.param(signal.SIGINT, 130, marks=LONG),
    pytest.param(signal.SIGTERM, 143, marks=LONG),
    (signal.SIGHUP, 129),
]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_interrupted_it_leaves_neither_files_nor_processes(number, status, prepared, tmp_path):
    env = os.environ | {"TMPDIR": str(tmp_path)}
    options = [*WORDS, "--train.batch_tokens=65536", "--train.micro_batch_size=64"]  # slow steps
    process = subprocess.Popen(
        new_process("--data", prepared, "--steps", 400, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=env,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("groundup-verify-*/straight/log.jsonl")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (folder,) = tmp_path.glob("groundup-verify-*")
        process.send_signal(number)
        out, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == status
    assert "changed for this test" in out
    assert not folder.exists()
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in read(p)]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "words"), [(1, []), (8, ["--train.max_steps=1"])])
def test_too_few_steps_are_one_sentence(steps, words, prepared, children, command):
    status, _, err = command("verify-resume", "gpt2-nano", "--data", prepared, "--steps", steps, *WORDS, *words)
    assert status == 2
    assert err.startswith("groundup: ")
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_errors_of_train_are_passed_on(prepared, empty, children):
    with pytest.raises(UsageError, match=r"no manifest\.json here"):
        verify_resume(configure(empty / "nothing", overrides=OVERRIDES), steps=8)
    assert not list(empty.iterdir())


def test_the_run_length_stays_unless_it_is_a_time(prepared):
    def run_length(config):
        return build_run_length(config.train, config.batch_size, epoch_sequences=100)

    config = configure(prepared, overrides=OVERRIDES)
    assert run_length(shortened(config, 2000, 8)) == run_length(config)
    in_time = configure(prepared, overrides=OVERRIDES | {"train": {"max_time": "30m"}})
    assert run_length(shortened(in_time, 777, 8)).total == 777


@pytest.mark.parametrize(("total", "steps", "half"), [(2000, 8, 4), (2000, 9, 4), (5, 8, 2), (2, 8, 1), (3, 2, 1)])
def test_the_kill_comes_half_way_and_between_evaluations(total, steps, half, prepared):
    short = shortened(configure(prepared, overrides=OVERRIDES), total, steps)
    assert short.checkpoint.every_steps == half
    assert 1 <= short.evaluate.every_steps <= half


def test_a_max_time_of_unknown_steps_is_refused(prepared):
    with pytest.raises(UsageError, match="max_steps"):
        shortened(configure(prepared, overrides=OVERRIDES), None, 8)


@pytest.fixture
def call(prepared, monkeypatch, command):
    """Run the command with scripted trial runs: exit status, standard output, standard error."""

    def call(error, *words):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr("groundup.diagnostics.verify_resume.verify_resume", fail)
        return command("verify-resume", "gpt2-nano", "--data", prepared, *words)

    return call


def test_a_trial_run_that_fails_exits_with_3(call):
    failed = TrainingError("a trial run ended with status -9: no message")
    status, out, err = call(failed)
    assert (status, out, err) == (3, "", f"groundup: {failed}\n")
    status, out, err = call(failed, "--json")
    assert (status, err) == (3, f"groundup: {failed}\n")
    assert json.loads(out) == {"bitwise": None, "error": str(failed)}
    assert call(UsageError("--steps 1: no"), "--json")[:2] == (2, "")


def test_a_disk_too_small_for_the_checkpoints_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "groundup.diagnostics.verify_resume.shutil.disk_usage", lambda place: shutil._ntuple_diskusage(9e9, 9e9, 4.9e9)
    )
    _refuse_small_disk(tmp_path / "x", 980_000_000)
    with pytest.raises(UsageError, match=rf"^{tmp_path}: 4\.9 GB free, but 5 GB are needed for a while; .*TMPDIR$"):
        _refuse_small_disk(tmp_path / "x", 1_000_000_000)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_an_ignored_signal_stays_ignored_and_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with _terminable():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != before
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGHUP, hangup)


def test_trackers_are_off(prepared):
    config = configure(prepared, overrides=OVERRIDES | {"tracking": {"backends": "wandb"}})
    assert shortened(config, 2000, 8).tracking.backends == ()


def test_bits_are_compared_not_values():
    zero = torch.zeros(3)
    nan = torch.full((2,), float("nan"))
    assert same_bits(zero, torch.zeros(3))
    assert same_bits(nan, nan.clone())
    assert not same_bits(zero, -zero)
    assert not same_bits(zero, torch.zeros(4))
    assert not same_bits(zero, torch.zeros(3, dtype=torch.bfloat16))
    assert same_bits(torch.tensor(1.0), torch.tensor(1.0))


def test_the_largest_difference_is_named_and_metadata_is_compared(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, x in ((a, 1.0), (b, 1.5)):
        folder.mkdir()
        save_file(
            {"same": torch.ones(2), "x": torch.tensor([0.0, x]), "y": torch.tensor([x / 9])}, folder / "m.safetensors"
        )
        (folder / "progress.json").write_text(
            json.dumps({"step": 1, "tokens": 8, "elapsed": x, "averaged": int(2 * x)})
        )
    found, compared = largest_difference(a, b)
    assert (found.file, found.tensor, found.largest, compared) == ("m.safetensors", "x", 0.5, 3)
    assert differing_metadata(a, b) == ["averaged"]
    assert largest_difference(a, a) == (None, 3)
    (b / "m.safetensors").unlink()
    assert largest_difference(a, b)[0].largest is None
