"""The best checkpoint is kept; early stopping ends a run whose validation loss stops falling."""

import itertools
import json
import signal
from dataclasses import replace

import pytest

import groundup
from groundup.checkpoint.log import read_history, read_log
from groundup.checkpoint.run_folder import RunFolder
from groundup.checkpoint.state import load_metadata
from groundup.comparison.table import compare, notes
from groundup.diagnostics.run_checks import check_run
from groundup.evaluation.loss import Interrupted, Loss
from groundup.run.evaluator import Evaluator
from groundup.training.early_stopping import BestLoss
from groundup.ui.display import Display, NullDisplay, PlainDisplay
from groundup.ui.watch import ClosableDisplay
from groundup.utils.files import write_checksums

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
    monkeypatch.setattr("groundup.run.evaluator.split_loss", lambda *args, **kwargs: Loss(next(losses), 100))


def merged(**changes):
    return {name: {**BASE.get(name, {}), **changes.get(name, {})} for name in {*BASE, *changes}}


def test_the_best_checkpoint_is_kept_and_can_be_loaded(prepared, tmp_path, scripted):
    overrides = merged(train={"max_steps": 35})
    result = groundup.train(prepared, tmp_path / "run", overrides=overrides)
    assert replace(result.best, text=None) == BestLoss(loss=1.0, step=15, since=4, seen=35)
    assert [folder.name for folder in RunFolder(tmp_path / "run").steps()] == ["step-00000015", "step-00000035"]
    assert groundup.load(tmp_path / "run", checkpoint="best").folder.name == "step-00000015"
    assert groundup.load(tmp_path / "run").folder.name == "step-00000035"
    assert (tmp_path / "run" / "best").resolve().name == "step-00000015"


def test_without_save_best_only_the_last_checkpoints_are_kept(prepared, tmp_path, scripted):
    groundup.train(
        prepared, tmp_path / "run", overrides=merged(checkpoint={"save_best": False}, train={"max_steps": 35})
    )
    assert [folder.name for folder in RunFolder(tmp_path / "run").steps()] == ["step-00000035"]
    with pytest.raises(groundup.CheckpointError, match="use latest"):
        groundup.load(tmp_path / "run", checkpoint="best")


def test_patience_ends_the_run_at_the_last_of_its_evaluations(prepared, tmp_path, scripted):
    evaluate = {"sample_tokens": 3, "sample_every_steps": 20}
    result = groundup.train(
        prepared, tmp_path / "run", overrides=merged(train={"early_stopping_patience": 3}, evaluate=evaluate)
    )
    assert result.step == 30  # 15 was the best; 20, 25 and 30 were not better
    assert result.signal is None
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert [record["step"] for record in log if record["event"] == "eval"] == [5, 10, 15, 20, 25, 30]
    assert [record["step"] for record in log if record["event"] == "sample"] == [20, 30]  # the final sample
    again = groundup.resume(tmp_path / "run")
    assert again.step == 30, "a run that lost patience is finished"
    assert groundup.resume(tmp_path / "run", overrides={"train": {"early_stopping_patience": 50}}).step == 40


@pytest.mark.parametrize("stops", [[7], [10], [15], [6, 8, 10, 11], [25, 30], [30]], ids=str)
def test_interruptions_change_neither_the_best_step_nor_the_end(stops, prepared, tmp_path, monkeypatch, curve):
    """Losses follow from the step, as if trained; SIGTERM comes in the middle of the steps named."""
    overrides = merged(train={"early_stopping_patience": 3}, checkpoint={"keep_last": 3})
    groundup.train(prepared, tmp_path / "untouched", overrides=overrides)
    monkeypatch.setattr("groundup.training.guard.LossGuard.allows_step", killing(set(stops)))
    result = groundup.train(prepared, tmp_path / "run", overrides=overrides)
    while result.signal:
        result = groundup.resume(tmp_path / "run")
    untouched = groundup.resume(tmp_path / "untouched")
    assert (result.step, result.best) == (untouched.step, untouched.best)
    assert (result.step, replace(result.best, text=None)) == (30, BestLoss(1.0, 15, 3, 30))
    assert final_losses(tmp_path / "run") == final_losses(tmp_path / "untouched")
    assert groundup.load(tmp_path / "run", checkpoint="best").folder.name == "step-00000015"
    metadata = [load_metadata(done.checkpoint) for done in (result, untouched)]
    assert metadata[0]["best"] == metadata[1]["best"]
    assert metadata[0]["parent"] != {**metadata[0]["parent"], "step": 30}, "no checkpoint continues from itself"
    assert check_run(tmp_path / "run").ok
    logged = (tmp_path / "run" / "log.jsonl").read_bytes()
    groundup.resume(tmp_path / "run")
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == logged


def test_a_stop_in_the_last_step_says_so_and_resume_makes_the_last_evaluation(prepared, tmp_path, monkeypatch, curve):
    monkeypatch.setattr("groundup.training.guard.LossGuard.allows_step", killing({40}))
    stopped = groundup.train(prepared, tmp_path / "run", overrides=merged())
    assert (stopped.step, stopped.signal, stopped.best.seen) == (40, signal.SIGTERM, 35)
    lines = []
    monkeypatch.setattr("groundup.run.start.changed_numerics", lambda *_: "changed: kernels")
    result = groundup.resume(tmp_path / "run", display=PlainDisplay(lines.append))
    assert "changed: kernels" in lines, "the last evaluation rounds otherwise"
    assert (result.signal, result.best.step, load_metadata(result.checkpoint)["best"]["step"]) == (None, 40, 40)
    assert groundup.load(tmp_path / "run", checkpoint="best").folder == result.checkpoint
    assert (tmp_path / "run" / "best").resolve() == result.checkpoint
    logged = (tmp_path / "run" / "log.jsonl").read_bytes()
    lines.clear()
    assert groundup.resume(tmp_path / "run", display=PlainDisplay(lines.append)).best.step == 40
    assert "changed: kernels" not in lines, "nothing is computed"
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == logged


@pytest.fixture
def curve(monkeypatch):
    """The validation loss is a function of the step: CURVE at every fifth."""
    original = Evaluator.evaluate

    def evaluate(self, step):
        value = CURVE[step // 5 - 1] if step % 5 == 0 else 9.0

        def split_loss(*args, stop, **kwargs):
            if stop():
                raise Interrupted
            return Loss(value, 100)

        monkeypatch.setattr("groundup.run.evaluator.split_loss", split_loss)
        original(self, step)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)


def killing(steps: set[int]):
    """A guard that lets each of these steps be interrupted once."""

    def allows_step(self, step, loss, grad_norm):
        if step in steps:
            steps.remove(step)
            signal.raise_signal(signal.SIGTERM)
        return True

    return allows_step


def test_losses_of_other_text_are_not_compared_with_the_best_so_far(prepared, tmp_path, scripted, caplog):
    """With evaluate.tokens changed, 1.5 at step 20 is not worse than the 1.0 at step 15: it is of other text."""
    run = tmp_path / "run"
    groundup.train(prepared, run, overrides=merged(train={"max_steps": 15}))
    caplog.set_level("INFO", "groundup")
    changes = {"train": {"max_steps": 20, "early_stopping_patience": 1}, "evaluate": {"tokens": 400}}
    result = groundup.resume(run, overrides=changes)  # step 15 again: 1.5, and step 20: not a number
    assert "the best so far, 1.0000 at step 15, and patience start over" in caplog.text
    assert (result.best.loss, result.best.step, result.best.since) == (1.5, 15, 1)
    history = read_history(run / "log.jsonl").evaluations
    assert [(point.step, point.text) for point in history] == [(5, 0), (10, 0), (15, 1), (20, 1)]
    assert [point.step for point in compare([run]).runs[0].points] == [15]
    assert "run: losses before step 15 are of other text, and left out" in notes(compare([run]))


class Begun(Display):
    """Keeps what a display gets of a resumed run."""

    def begin(self, total_steps, losses=(), evaluations=()):
        self.losses, self.evaluations = list(losses), list(evaluations)


def test_a_display_gets_the_losses_so_far_but_none_of_other_text(prepared, tmp_path, scripted):
    run, shown = tmp_path / "run", Begun()
    groundup.train(prepared, run, overrides=merged(train={"max_steps": 15}))
    with (run / "log.jsonl").open("a") as log:  # by hand
        log.write('{"event": "step", "step": "x", "loss": 1}\n{"event": "step", "step": 16, "loss": "y"}\n')
        log.write('{"event": "eval", "step": 5, "val_loss": [2]}\n{"event": "resume", "step": null}\n')
    groundup.resume(run, overrides={"train": {"max_steps": 17}}, display=shown)
    assert [step for step, _ in shown.losses] == list(range(1, 16))
    assert [(step, val) for step, _, val in shown.evaluations] == [(5, 3.0), (10, 2.0), (15, 1.0)]
    groundup.resume(run, overrides={"train": {"max_steps": 19}, "evaluate": {"tokens": 400}}, display=shown)
    assert [step for step, _ in shown.losses] == list(range(1, 18))
    assert shown.evaluations == []


def test_a_display_without_a_curve_does_not_read_the_log(prepared, tmp_path, scripted, monkeypatch):
    groundup.train(prepared, tmp_path / "run", overrides=merged(train={"max_steps": 6}))
    monkeypatch.setattr("groundup.run.logger.iter_log", None)
    for steps, display in ((7, PlainDisplay(lambda line: None)), (8, ClosableDisplay(NullDisplay()))):
        assert (
            groundup.resume(tmp_path / "run", overrides={"train": {"max_steps": steps}}, display=display).step == steps
        )
    with pytest.raises(TypeError):
        groundup.resume(tmp_path / "run", overrides={"train": {"max_steps": 9}}, display=Begun())


def test_another_number_of_tokens_that_scores_the_same_text_changes_nothing(prepared, tmp_path, scripted, caplog):
    run = tmp_path / "run"
    groundup.train(prepared, run, overrides=merged(train={"max_steps": 10}, evaluate={"tokens": 100_000}))
    caplog.set_level("INFO", "groundup")
    result = groundup.resume(run, overrides={"train": {"max_steps": 20}, "evaluate": {"tokens": None}})
    assert "start over" not in caplog.text
    assert (result.best.loss, result.best.step, result.best.since) == (1.0, 15, 1)


@pytest.mark.parametrize("tokens", [200, 400])
def test_a_checkpoint_without_the_name_of_its_text_has_that_of_its_config(tokens, prepared, tmp_path, scripted, caplog):
    run = tmp_path / "run"
    groundup.train(prepared, run, overrides=merged(train={"max_steps": 15}))
    progress = RunFolder(run).steps()[-1] / "progress.json"
    values = json.loads(progress.read_text())
    del values["best"]["text"]
    progress.write_text(json.dumps(values))
    (progress.parent / "SHA256SUMS").unlink()
    write_checksums(progress.parent)
    caplog.set_level("INFO", "groundup")
    result = groundup.resume(run, overrides={"train": {"max_steps": 20}, "evaluate": {"tokens": tokens}})
    assert ("start over" in caplog.text, result.best.loss) == ((False, 1.0) if tokens == 200 else (True, 1.5))


@pytest.mark.parametrize(("loss", "warned"), [(5.5, False), (5.6, True)])
def test_a_run_that_ends_worse_than_guessing_says_so(loss, warned, prepared, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("groundup.run.evaluator.split_loss", lambda *args, **kwargs: Loss(loss, 100))
    caplog.set_level("INFO", "groundup")
    groundup.train(prepared, tmp_path / "run", overrides=merged(train={"max_steps": 2}))
    assert ("is worse than random guessing, 5.5491" in caplog.text) == warned


def final_losses(run) -> dict[int, float]:
    return {r["step"]: r["val_loss"] for r in read_log(run / "log.jsonl") if r["event"] == "eval" and r["step"] <= 30}


def test_a_time_limit_ends_the_run_before_its_run_length(prepared, tmp_path):
    overrides = merged(train={"max_steps": 1_000_000, "time_limit": "1s"}, evaluate={"every_steps": 0})
    result = groundup.train(prepared, tmp_path / "run", overrides=overrides)
    assert 1 <= result.step < 1_000_000
    assert result.signal is None
    step = groundup.resume(tmp_path / "run").step
    assert step == result.step, "the time limit is reached"
    assert groundup.resume(tmp_path / "run", overrides={"train": {"time_limit": "2s"}}).step > step


def test_patience_without_evaluations_or_validation_data_is_an_error(prepared, tmp_path, sentences):
    with pytest.raises(groundup.ConfigError, match=r"evaluate\.every_steps is 0"):
        groundup.train(
            prepared,
            tmp_path / "run",
            overrides=merged(train={"early_stopping_patience": 3}, evaluate={"every_steps": 0}),
        )
    (tmp_path / "text.txt").write_text(sentences(50), encoding="utf-8")
    groundup.prepare([tmp_path / "text.txt"], tmp_path / "data", tokenizer="byte", val_fraction=0.0)
    with pytest.raises(groundup.ConfigError, match="nothing was held out"):
        groundup.train(tmp_path / "data", tmp_path / "run", overrides=merged(train={"early_stopping_patience": 3}))
