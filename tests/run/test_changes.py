"""What a resume says about changed arithmetic: a line where numbers will differ, and none where they will not."""

import json
import shutil
from pathlib import Path

import pytest

import groundup
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.resolved import OPEN
from groundup.run import changes
from groundup.ui.display import PlainDisplay
from groundup.utils.files import write_checksums

OVERRIDES = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
    "train": {"max_steps": 4, "batch_tokens": 64, "threads": 1, "device": "cpu", "precision": "fp32"},
    "schedule": {"warmup_steps": 1},
    "evaluate": {"sample_tokens": 0, "tokens": 64},
    "checkpoint": {"every_steps": 2, "keep_last": 9},
}
CHANGED = " up to rounding, not bit for bit"


@pytest.fixture(scope="module", params=[0.0, 0.1], ids=["", "dropout"])
def trained(request, prepared, tmp_path_factory):
    """A run of 4 steps, stopped after 2."""
    run = tmp_path_factory.mktemp("trained") / "run"
    model = OVERRIDES["model"] | {"dropout": request.param}
    groundup.train(prepared, run, overrides=OVERRIDES | {"model": model})
    shutil.rmtree(run / "checkpoints/step-00000004")
    return run


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def rewrite(run, change):
    """Change the newest checkpoint's metadata."""
    folder = RunFolder(run).steps()[-1]
    values = json.loads((folder / "progress.json").read_text())
    change(values)
    (folder / "progress.json").write_text(json.dumps(values))
    (folder / "SHA256SUMS").unlink()
    write_checksums(folder)


def said(run, **overrides):
    lines = []
    groundup.resume(run, display=PlainDisplay(lines.append), overrides=overrides)
    return [line for line in lines if "changed" in line]


def test_the_same_machine_says_nothing(run):
    assert said(run) == []


def test_a_checkpoint_that_notes_nothing_resumes_without_a_word(run):
    rewrite(run, lambda metadata: metadata.pop("numerics"))
    assert said(run) == []
    assert "numerics" in json.loads((RunFolder(run).steps()[-1] / "progress.json").read_text())


@pytest.mark.parametrize("fact", ["torch", "C++ kernels", "vector instructions", "MKL_CBWR", "processes"])
def test_another_fact_is_one_line_with_both_values(fact, run, request):
    rewrite(run, lambda metadata: metadata["numerics"].update({fact: "other"}))
    (line,) = said(run)
    now = json.loads((RunFolder(run).steps()[-1] / "progress.json").read_text())["numerics"][fact]
    assert line.startswith(f"changed: {fact} other -> {now}: ")
    assert CHANGED in line
    redrawn = "dropout" in request.node.callspec.id and fact in ("torch", "processes")
    assert ("dropout" in line) == redrawn


def test_kernels_that_are_gone_are_said_and_noted(run, monkeypatch):
    if changes.kernels().library is None:
        pytest.skip("no C++ kernels here")
    gone = changes.kernels()._replace(library=None, identity="", reason="no compiler", remedy="get one")
    monkeypatch.setattr("groundup.kernels.cpu_build.kernels", lambda: gone)
    monkeypatch.setattr(changes, "kernels", lambda: gone)
    lines = []
    groundup.resume(run, display=PlainDisplay(lines.append))
    (machine,) = (line for line in lines if line.startswith("machine  "))
    assert machine.endswith("; no C++ kernels: no compiler; get one")
    assert any("C++ kernels" in line and "-> none" in line and CHANGED in line for line in lines)
    assert said(run) == []  # it is finished


def test_threads_round_and_micro_batches_and_the_compiler_draw_dropout_again(run, request):
    (line,) = said(run, train={"threads": 2})
    assert line.startswith("changed: train.threads 1 -> 2: ")
    assert CHANGED in line
    assert "dropout" not in line
    config = RunFolder(run).config()
    smaller = config.model_copy(update={"train": config.train.model_copy(update={"micro_batch_size": 2})})
    larger = config.model_copy(update={"train": config.train.model_copy(update={"micro_batch_size": 4})})
    found = changes.changed_numerics(smaller, larger, {}, {})
    assert ("dropout" in found) == ("dropout" in request.node.callspec.id)


def test_keys_that_were_open_are_no_change(run):
    config = RunFolder(run).config()
    for value in OPEN:
        before = config.model_copy(update={"train": config.train.model_copy(update={"threads": value})})
        assert changes.changed_numerics(before, config, {}, {}) is None


def test_another_run_length_says_how_the_learning_rate_jumps(run):
    (line,) = said(run, train={"max_steps": 40})
    assert line.startswith("the run's length changed, and with it the learning rate: ")
    assert said(run, train={"max_steps": 40}) == []
