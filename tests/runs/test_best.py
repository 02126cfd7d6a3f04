"""The best checkpoint is kept, and patience ends a run that has stopped getting better."""

import itertools
import json
import shutil

import pytest

import groundup
from groundup.checkpoint.run import RunFolder, read_log
from groundup.evaluation.loss import Loss
from groundup.training.best import Best

BASE = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
    "train": {"max_steps": 40, "batch_tokens": 128, "threads": 1, "precision": "fp32", "device": "cpu"},
    "evaluate": {"every_steps": 5, "tokens": 200, "sample_tokens": 0},
    "checkpoint": {"every_steps": 0, "keep_last": 1},
}

CURVE = [3.0, 2.0, 1.0, 1.5, float("nan"), 1.0, 1.2, 0.5]  # validation losses at steps 5, 10, …, 40


@pytest.fixture
def scripted(monkeypatch):
    """Validation losses come from CURVE, whatever the model does; training losses too, one call later."""
    losses = itertools.chain.from_iterable((loss, loss) for loss in CURVE + CURVE)
    monkeypatch.setattr("groundup.build.split_loss", lambda *args, **kwargs: Loss(next(losses), 100))


def merged(**changes):
    return {name: {**BASE.get(name, {}), **changes.get(name, {})} for name in {*BASE, *changes}}


def test_the_best_checkpoint_stays_and_can_be_named(prepared, tmp_path, scripted):
    overrides = merged(train={"max_steps": 35})
    result = groundup.train(prepared, tmp_path / "run", overrides=overrides)
    assert result.best == Best(loss=1.0, step=15, since=4)
    assert [folder.name for folder in RunFolder(tmp_path / "run").steps()] == ["step-00000015", "step-00000035"]
    assert groundup.load(tmp_path / "run", checkpoint="best").folder.name == "step-00000015"
    assert groundup.load(tmp_path / "run").folder.name == "step-00000035"
    assert (tmp_path / "run" / "best").resolve().name == "step-00000015"


def test_without_best_only_the_last_stay(prepared, tmp_path, scripted):
    groundup.train(prepared, tmp_path / "run", overrides=merged(checkpoint={"best": False}, train={"max_steps": 35}))
    assert [folder.name for folder in RunFolder(tmp_path / "run").steps()] == ["step-00000035"]
    with pytest.raises(groundup.CheckpointError, match="use latest"):
        groundup.load(tmp_path / "run", checkpoint="best")


def test_patience_ends_the_run_one_step_after_its_last_evaluation(prepared, tmp_path, scripted):
    result = groundup.train(prepared, tmp_path / "run", overrides=merged(train={"patience": 3}))
    assert result.step == 31  # 15 was best; 20, 25 and 30 were not better
    assert result.signal is None
    steps = [record["step"] for record in read_log(tmp_path / "run" / "log.jsonl") if record["event"] == "eval"]
    assert steps == [5, 10, 15, 20, 25, 30, 31]
    again = groundup.resume(tmp_path / "run")
    assert again.step == 31, "a run that lost patience is finished"
    assert groundup.resume(tmp_path / "run", overrides={"train": {"patience": 50}}).step == 40


def test_patience_survives_an_interruption(prepared, tmp_path, scripted):
    overrides = merged(train={"patience": 3, "max_steps": 22}, checkpoint={"every_steps": 22})
    groundup.train(prepared, tmp_path / "run", overrides=overrides)
    (newest,) = [f for f in RunFolder(tmp_path / "run").steps() if f.name == "step-00000022"]
    assert json.loads((newest / "progress.json").read_text())["best"]["step"] == 15
    shutil.rmtree(tmp_path / "run" / "latest", ignore_errors=True)
    result = groundup.resume(tmp_path / "run", overrides={"train": {"max_steps": 40}})
    assert result.best.step == 15
    assert result.step < 40


def test_patience_without_anything_to_measure_is_an_error(prepared, tmp_path, sentences):
    with pytest.raises(groundup.ConfigError, match=r"evaluate\.every_steps is 0"):
        groundup.train(prepared, tmp_path / "run", overrides=merged(train={"patience": 3}, evaluate={"every_steps": 0}))
    (tmp_path / "text.txt").write_text(sentences(50), encoding="utf-8")
    groundup.prepare([tmp_path / "text.txt"], tmp_path / "data", tokenizer="byte", val_fraction=0.0)
    with pytest.raises(groundup.ConfigError, match="nothing was held out"):
        groundup.train(tmp_path / "data", tmp_path / "run", overrides=merged(train={"patience": 3}))
