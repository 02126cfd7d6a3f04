"""Times at which checkpoints are written, and which of them are kept."""

import json
import threading

import pytest

import groundup
from groundup.checkpoint import state
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.distributed import gather
from groundup.run.checkpointer import Checkpointer
from groundup.run.dataset import PreparedData
from groundup.run.resolve import detect_machine, resolve_config
from groundup.run.trainer import Trainer
from groundup.ui.display import NullDisplay

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
    from groundup.utils.files import SUMS, sha256

    train(prepared, tmp_path / "run", every_steps=10)
    first, last = RunFolder(tmp_path / "run").steps()
    assert state.load_metadata(last)["parent"] == {"step": 10, "sha256": sha256(first / SUMS)}
    assert state.load_metadata(first)["parent"] is None


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
        metadata = {"step": step, "best": {"loss": 1.0, "step": best}}
        (run.checkpoint(step) / "progress.json").write_text(json.dumps(metadata))
    run.prune(2, {run.checkpoint(110)})
    assert steps(tmp_path) == [90, 100, 110]
    run.prune(1, set(), bests=False)
    assert steps(tmp_path) == [110]
