"""A few signals at random moments; `make torture` sends hundreds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from attempts import newest_good
from compare import differences
from safetensors.torch import load_file, save_file

import groundup
from groundup.checkpoint.run_folder import RunFolder

TORTURE = Path(__file__).parents[1] / "torture"
SMALL = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
    "train": {"max_steps": 6, "batch_tokens": 128, "threads": 1, "precision": "fp32", "device": "cpu"},
    "evaluate": {"tokens": 100, "sample_tokens": 4},
    "checkpoint": {"every_steps": 2, "keep_last": 3},
}


@pytest.fixture(scope="module")
def uninterrupted(prepared, tmp_path_factory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("torture") / "run"
    groundup.train(prepared, folder, overrides=SMALL)
    return folder


@pytest.fixture
def run(uninterrupted, tmp_path) -> Path:
    """A copy for each test."""
    shutil.copytree(uninterrupted, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def lose_optimizer_state(run: Path) -> None:
    path = RunFolder(run).steps()[-1] / "optimizer/state.safetensors"
    tensors = load_file(path)
    tensors["ln_f.bias|exp_avg"].zero_()
    save_file(tensors, path)


def spoil_metadata(run: Path) -> None:
    path = RunFolder(run).steps()[-1] / "progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cursor": 0}))


def lose_the_best(run: Path) -> None:
    path = RunFolder(run).steps()[-1] / "progress.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"best": values["best"] | {"loss": 1.0}}))


def change_config(run: Path) -> None:
    path = RunFolder(run).steps()[-1] / "config.json"
    path.write_text(path.read_text().replace("0.95", "0.96"))


def turn_link(run: Path) -> None:
    (run / "latest").unlink()
    (run / "latest").symlink_to("checkpoints/step-00000002")


def lose_link(run: Path) -> None:
    (run / "best").unlink()


def log_twice(run: Path) -> None:
    with (run / "log.jsonl").open("a") as log:
        log.write('{"event": "step", "step": 3, "loss": 1.0}\n')


def lose_a_line(run: Path) -> None:
    lines = (run / "log.jsonl").read_text().splitlines()
    (run / "log.jsonl").write_text("\n".join(line for line in lines if '"step": 3,' not in line) + "\n")


DAMAGES = [
    lose_optimizer_state, spoil_metadata, lose_the_best, change_config, turn_link, lose_link, log_twice, lose_a_line,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_changes_that_a_resume_must_not_make_are_found(damage, run, uninterrupted):
    assert differences(run, uninterrupted) == ""
    damage(run)
    assert differences(run, uninterrupted)


def test_a_checkpoint_lost_by_a_kill_is_found(run):
    failures: list[str] = []
    assert newest_good(run, 4, failures) == 6
    assert not failures
    (RunFolder(run).steps()[-1] / "model.safetensors").write_bytes(b"half")
    assert newest_good(run, 6, failures) == 4
    assert [failure.partition(":")[0] for failure in failures] == ["damaged", "lost"]


def torture(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TORTURE), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of itself")
def test_ended_at_random_moments_a_run_is_bitwise_equal_and_loses_no_checkpoint(tmp_path):
    done = torture("--kills", 6, "--only", "adamw", "--json", tmp_path / "table.json")
    assert done.returncode == 0, done.stdout + done.stderr
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["signals"] == sum(sum(table["configs"]["adamw"][kind].values()) for kind in ("kills", "soft")) >= 6
    assert table["configs"]["adamw"]["failures"] == []
    assert table["configs"]["adamw"]["runs"] >= 1
    assert done.stdout.splitlines()[0].startswith("| config | INT/TERM/")
