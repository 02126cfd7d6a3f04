"""Times at which checkpoints are written, and which of them are kept."""

import json
import re
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

import groundup
from groundup.checkpoint import state
from groundup.checkpoint.log import read_log
from groundup.checkpoint.metadata import load_metadata
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.distributed import gather
from groundup.distributed.process_group import ProcessGroup
from groundup.errors import TrainingError
from groundup.optim.optimizer import OptimizerContainer
from groundup.run.checkpointer import Checkpointer
from groundup.run.dataset import PreparedData
from groundup.run.resolve import detect_machine, resolve_config
from groundup.run.trainer import Trainer
from groundup.ui.display import NullDisplay
from groundup.utils.files import SUMS, sha256, write_checksums

OVERRIDES = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 32},
    "train": {"max_steps": 20, "batch_tokens": 256, "threads": 1, "precision": "fp32", "device": "cpu"},
    "evaluate": {"every_steps": 0, "tokens": 300, "sample_tokens": 0},
}


def train(prepared, run, **checkpoint):
    return groundup.train(prepared, run, overrides={**OVERRIDES, "checkpoint": {"save_best": False, **checkpoint}})


def steps(run):
    return [int(path.name[5:]) for path in RunFolder(run).steps()]


def test_multiples_of_keep_every_are_never_deleted(prepared, tmp_path):
    train(prepared, tmp_path / "run", every_steps=2, keep_last=1, keep_every=8)
    assert steps(tmp_path / "run") == [8, 16, 20]


def test_checkpoints_every_so_many_minutes(prepared, tmp_path, monkeypatch):
    ticks = iter(range(0, 100_000, 30))
    monkeypatch.setattr("groundup.training.hooks.time.monotonic", lambda: next(ticks))  # 30 s per reading of the clock
    train(prepared, tmp_path / "run", every_steps=0, every_minutes=2, keep_last=99)
    assert steps(tmp_path / "run")[-1] == 20
    assert len(steps(tmp_path / "run")) >= 4


@pytest.mark.parametrize("async_save", [True, False])
def test_a_checkpoint_is_the_same_written_in_the_background_or_not(async_save, prepared, tmp_path, monkeypatch):
    """The write of step 5 is held up: only a background save returns before it is done."""
    held, background, write, save = threading.Event(), [], state.save, Checkpointer.save

    def held_write(folder, snapshot):
        if folder.name == "step-00000005":
            held.wait(1)
        write(folder, snapshot)

    def watched_save(self, train_state, **options):
        save(self, train_state, **options)
        if train_state.progress.step == 5:
            background.append(not self.saved.is_dir())
            held.set()

    monkeypatch.setattr(state, "save", held_write)
    monkeypatch.setattr(Checkpointer, "save", watched_save)
    result = train(prepared, tmp_path / "run", every_steps=5, async_save=async_save)
    assert background == [async_save]
    again = train(prepared, tmp_path / "again", every_steps=0, async_save=False)
    for name in ("model.safetensors", "optimizer/state.safetensors"):
        assert (result.checkpoint / name).read_bytes() == (again.checkpoint / name).read_bytes()


def test_a_background_save_writes_the_step_it_was_requested_at(prepared, tmp_path, monkeypatch):
    """The writer is held until the run is over; it then writes the state of the step at which it was requested."""
    held, original = threading.Event(), state.save

    def save(folder, what):
        if folder.name == "step-00000005":
            held.wait(20)
        original(folder, what)

    monkeypatch.setattr(state, "save", save)
    threading.Timer(1.5, held.set).start()
    train(prepared, tmp_path / "run", every_steps=5, keep_last=9)
    train(prepared, tmp_path / "plain", every_steps=5, keep_last=9, async_save=False)
    for run in ("run", "plain"):
        assert steps(tmp_path / run) == [5, 10, 15, 20]
    files = [tmp_path / run / "checkpoints" / "step-00000005" / "model.safetensors" for run in ("run", "plain")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_without_memory_for_a_copy_training_waits(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("groundup.run.checkpointer.free_memory", lambda: 1000)
    copies, original = [], gather.gather
    monkeypatch.setattr(
        "groundup.run.checkpointer.gather", lambda *a, copy, **k: copies.append(copy) or original(*a, copy=copy, **k)
    )
    train(prepared, tmp_path / "run", every_steps=5)
    assert copies
    assert not any(copies)


def test_each_checkpoint_names_the_previous_one_by_its_checksums(prepared, tmp_path):
    train(prepared, tmp_path / "run", every_steps=10)
    first, last = RunFolder(tmp_path / "run").steps()
    assert load_metadata(last)["parent"] == {"step": 10, "sha256": sha256(first / SUMS)}
    assert load_metadata(first)["parent"] is None


def test_a_failure_in_the_background_is_raised_by_the_next_call(prepared, tmp_path, monkeypatch):
    def fail(folder, snapshot):
        raise OSError(28, "No space left on device")

    data = PreparedData.open(prepared)
    config = Config.model_validate({**OVERRIDES, "data": str(prepared)})
    resolved = resolve_config(config, data.tokenizer.n_vocab, detect_machine(config.train, tmp_path)[0])
    trainer = Trainer(resolved, data, RunFolder(tmp_path / "run"), NullDisplay())
    monkeypatch.setattr(state, "save", fail)
    trainer.checkpointer.save(trainer.state)
    with pytest.raises(OSError, match="No space left"):
        trainer.checkpointer.save(trainer.state, wait=True)
    trainer.checkpointer.close()


def test_the_best_checkpoint_of_each_kept_one_is_kept(tmp_path):
    """A rollback to step 100 must find step 90, the best at that time."""
    run = RunFolder(tmp_path)
    for step, best in ((80, 80), (90, 90), (95, 90), (100, 90), (110, 110)):
        run.checkpoint(step).mkdir(parents=True)
        metadata = {"step": step, "tokens": 0, "best": {"loss": 1.0, "step": best}}
        (run.checkpoint(step) / "progress.json").write_text(json.dumps(metadata))
    run.prune(2, {run.checkpoint(110)})
    assert steps(tmp_path) == [90, 100, 110]
    run.prune(1, set(), bests=False)
    assert steps(tmp_path) == [110]


@pytest.fixture
def spoil(monkeypatch):
    """A dictionary of optimizer steps, from 1, and what is made of the parameters and their state in them."""
    spoilers, original, calls = {}, OptimizerContainer.step, []

    def step(self):
        original(self)
        calls.append(1)
        if change := spoilers.get(len(calls)):
            for parameter, state in self.state.items():
                with torch.no_grad():
                    change(parameter, state)

    monkeypatch.setattr(OptimizerContainer, "step", step)
    return spoilers


def nan_weight(parameter, state):
    parameter.view(-1)[0] = torch.nan


def infinite_moment(parameter, state):
    state["exp_avg_sq"].view(-1)[0] = torch.inf


GUARDED = {"guard": {"max_rollbacks": 0}, "checkpoint": {"every_steps": 4, "keep_last": 9, "save_best": False}}
KINDS = {"weights": nan_weight, "optimizer state": infinite_moment}


def assert_all_finite(run):
    for file in run.rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values()), file


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [8, 20])  # at a checkpoint, and in the last step
def test_what_is_not_finite_is_never_saved(kind, at, prepared, tmp_path, spoil):
    spoil[at] = KINDS[kind]
    with pytest.raises(TrainingError, match=rf"step {at}: wte\.weight\S* \({kind}\) is not finite, so no checkpoint"):
        groundup.train(prepared, tmp_path / "run", overrides={**OVERRIDES, **GUARDED})
    assert steps(tmp_path / "run") == list(range(4, at, 4))
    assert_all_finite(tmp_path / "run")
    spoil.clear()
    assert groundup.resume(tmp_path / "run").step == 20


@pytest.mark.parametrize("at", [8, 20])
def test_before_a_checkpoint_that_is_not_finite_the_run_rolls_back_and_skips_the_step(at, prepared, tmp_path, spoil):
    spoil[at] = infinite_moment
    result = groundup.train(prepared, tmp_path / "run", overrides={**OVERRIDES, **GUARDED, "guard": {}})
    assert result.step == 20
    assert_all_finite(tmp_path / "run")
    (rollback,) = (record for record in read_log(tmp_path / "run" / "log.jsonl") if record["event"] == "rollback")
    assert (rollback["step"], rollback["skipped"]) == (at - 4, [8 * (at - 1), 8 * at])


def test_a_rank_refuses_what_another_found_not_finite(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(ProcessGroup, "max", lambda self, number: max(number, 2))
    with pytest.raises(TrainingError, match="is not finite"):
        groundup.train(prepared, tmp_path / "run", overrides={**OVERRIDES, **GUARDED})
    assert steps(tmp_path / "run") == []


@pytest.mark.parametrize("file", ["model.safetensors", "average.safetensors", "optimizer/state.safetensors"])
def test_resume_refuses_numbers_that_are_not_finite_and_names_the_tensor(file, prepared, tmp_path):
    overrides = {**OVERRIDES, "optimizer": {"ema_decay": 0.9}, "checkpoint": {"every_steps": 10}}
    groundup.train(prepared, tmp_path / "run", overrides=overrides)
    last = RunFolder(tmp_path / "run").steps()[-1]
    tensors = load_file(last / file)
    name = min(tensors)
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, last / file)
    (last / SUMS).unlink()
    write_checksums(last)
    with pytest.raises(groundup.CheckpointError, match=rf"{file}: {re.escape(name)} has 1 numbers that are not finite"):
        groundup.resume(tmp_path / "run", overrides={"train": {"max_steps": 21}})
    assert steps(tmp_path / "run") == [10, 20]


def test_such_a_rollback_in_fp16(prepared, tmp_path, spoil):
    spoil[10] = infinite_moment
    train = {**OVERRIDES["train"], "precision": "fp16"}
    result = groundup.train(prepared, tmp_path / "run", overrides={**OVERRIDES, **GUARDED, "guard": {}, "train": train})
    assert (result.step, len(load_metadata(result.checkpoint)["skips"])) == (20, 1)
