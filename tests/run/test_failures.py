"""Failures of a run: rollbacks, halved micro-batches, and stops that leave a checkpoint."""

import shutil
import signal
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import groundup
from groundup.checkpoint.log import read_log
from groundup.checkpoint.metadata import load_metadata
from groundup.checkpoint.run_folder import RunFolder
from groundup.data.shards import DOCUMENT, Tokens
from groundup.data.windows import ShuffledWindows
from groundup.model.gpt import NextTokenLoss
from groundup.run.failures import documents_of
from groundup.training.micro_batches import BatchLoader

OVERRIDES = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 32},
    "train": {"max_steps": 40, "batch_tokens": 256, "threads": 1, "precision": "fp32", "device": "cpu"},
    "evaluate": {"every_steps": 10, "tokens": 500, "sample_tokens": 4},
    "checkpoint": {"every_steps": 8, "save_best": False},
    "guard": {"max_bad_steps": 3},
}
BATCH_SIZE = 8  # sequences per step


@pytest.mark.parametrize("damage", ["moved", "no such source"])
def test_without_a_readable_index_no_documents_are_named(damage, prepared, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "data")
    windows = ShuffledWindows(Tokens.open(folder, "train"), 32, seed=1)
    assert documents_of(folder, windows, 0, 9)
    index = folder / "documents-train.bin"
    if damage == "moved":
        index.unlink()
    else:
        records = np.fromfile(index, DOCUMENT)
        records["source"] = 99
        records.tofile(index)
    assert documents_of(folder, windows, 0, 9) == []


def events(run, kind):
    return [record for record in read_log(run / "log.jsonl") if record["event"] == kind]


@pytest.fixture
def poison(monkeypatch):
    """Make the loss NaN for sequences at these positions, as a broken document might."""
    bad, position = set(), [0]
    batches, loss = BatchLoader.micro_batches, NextTokenLoss.forward

    def micro_batches(self, cursor, fraction, size):
        position[0] = cursor
        return batches(self, cursor, fraction, size)

    def forward(self, ids, targets):
        found = loss(self, ids, targets)
        return found * float("nan") if self.training and position[0] in bad else found

    monkeypatch.setattr(BatchLoader, "micro_batches", micro_batches)
    monkeypatch.setattr(NextTokenLoss, "forward", forward)
    return bad


def test_a_rollback_skips_the_sequences_of_the_bad_steps_and_names_their_documents(prepared, tmp_path, poison):
    poison |= {BATCH_SIZE * step for step in (20, 21, 22)}  # sequences of steps 21 to 23
    result = groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES)
    (back,) = events(tmp_path / "run", "rollback")
    assert (back["step"], back["bad_step"]) == (16, 23)
    assert back["skipped"] == [20 * BATCH_SIZE, 23 * BATCH_SIZE]
    assert back["documents"]
    assert all(":" in name for name in back["documents"])
    after = events(tmp_path / "run", "step")[-24:]
    assert [record["step"] for record in after] == list(range(17, 41))
    assert [record["cursor"] for record in after] == [BATCH_SIZE * n for n in [16, 17, 18, 19, *range(23, 43)]]
    assert result.step == 40
    weights = load_file(result.checkpoint / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert groundup.resume(tmp_path / "run", overrides={"train": {"max_steps": 42}}).step == 42


def test_bad_from_the_first_step_on_the_run_is_reset(prepared, tmp_path, poison):
    poison |= {0, BATCH_SIZE, 2 * BATCH_SIZE}
    groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES)
    assert events(tmp_path / "run", "rollback")[0]["step"] == 0
    poison.clear()
    clean = {**OVERRIDES, "train": {**OVERRIDES["train"], "max_steps": 1}}
    groundup.train(prepared, tmp_path / "clean", overrides=clean)
    steps = events(tmp_path / "run", "step")
    assert steps[0]["cursor"] == 3 * BATCH_SIZE
    assert steps[0]["loss"] == pytest.approx(events(tmp_path / "clean", "step")[0]["loss"], abs=0.1), "fresh weights"


def test_the_run_ends_after_max_rollbacks(prepared, tmp_path, poison):
    poison |= set(range(0, 4000, BATCH_SIZE))
    overrides = {**OVERRIDES, "guard": {"max_bad_steps": 2, "max_rollbacks": 2}}
    with pytest.raises(groundup.TrainingError, match="not finite, 2 steps in a row"):
        groundup.train(prepared, tmp_path / "run", overrides=overrides)
    assert len(events(tmp_path / "run", "rollback")) == 2


def test_interrupted_after_a_rollback_the_run_ends_with_the_same_weights(prepared, tmp_path, poison, monkeypatch):
    poison |= {BATCH_SIZE * step for step in (20, 21, 22)}
    groundup.train(prepared, tmp_path / "untouched", overrides=OVERRIDES)
    stop_at(monkeypatch, 30)
    assert groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES).signal == signal.SIGTERM
    result = groundup.resume(tmp_path / "run")
    ours, theirs = (load_file(path / "model.safetensors") for path in (result.checkpoint, last(tmp_path / "untouched")))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_frequent_checkpoints_do_not_delete_the_rollback_target(prepared, tmp_path, poison):
    poison |= {BATCH_SIZE * step for step in (20, 21, 22)}
    overrides = {**OVERRIDES, "checkpoint": {"every_steps": 1, "keep_last": 2, "save_best": False}}
    groundup.train(prepared, tmp_path / "run", overrides=overrides)
    assert events(tmp_path / "run", "rollback")[0]["step"] == 20


def test_a_resumed_run_remembers_its_rollbacks(prepared, tmp_path, poison):
    poison |= {BATCH_SIZE * step for step in (20, 21, 22, 30, 31, 32)}
    overrides = {**OVERRIDES, "guard": {"max_bad_steps": 3, "max_rollbacks": 1}}
    with pytest.raises(groundup.TrainingError, match="not finite, 3 steps in a row"):
        groundup.train(prepared, tmp_path / "run", overrides=overrides)
    with pytest.raises(groundup.TrainingError, match="not finite, 3 steps in a row"):
        groundup.resume(tmp_path / "run")
    assert len(events(tmp_path / "run", "rollback")) == 1
    assert groundup.resume(tmp_path / "run", overrides={"guard": {"max_rollbacks": 2}}).step == 40


def test_rollback_in_fp16(prepared, tmp_path, poison):
    poison |= {BATCH_SIZE * step for step in (6, 7)}
    train = {**OVERRIDES["train"], "precision": "fp16", "max_steps": 9}
    overrides = {
        **OVERRIDES,
        "train": train,
        "guard": {"max_bad_steps": 2},
        "evaluate": {"every_steps": 0, "tokens": 40},
    }
    for every in (3, 0):  # to a checkpoint, and to the initial weights
        run = tmp_path / f"run{every}"
        result = groundup.train(prepared, run, overrides={**overrides, "checkpoint": {"every_steps": every}})
        assert result.step == 9
        assert len(events(run, "rollback")) == 1


def test_out_of_memory_while_compiling_halves_the_micro_batch(prepared, tmp_path, monkeypatch, caplog):
    original = NextTokenLoss.forward

    def forward(self, ids, targets):
        if len(ids) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return original(self, ids, targets)

    monkeypatch.setattr(NextTokenLoss, "forward", forward)
    monkeypatch.setattr("groundup.run.start._with_speed", lambda plan, *_: plan)
    overrides = {**OVERRIDES, "train": {**OVERRIDES["train"], "compile": "eager", "max_steps": 3}}
    caplog.set_level("INFO", "groundup")
    assert groundup.train(prepared, tmp_path / "run", overrides=overrides).step == 3
    assert [record["micro_batch"] for record in events(tmp_path / "run", "out_of_memory")] == [4]
    assert caplog.text.count("compiling the model, which may take minutes; not counted as training time") == 1


def last(run):
    return RunFolder(run).steps()[-1]


def test_interrupted_among_bad_steps_the_count_continues(prepared, tmp_path, poison, monkeypatch):
    poison |= {BATCH_SIZE * step for step in (20, 21, 22)}
    stop_at(monkeypatch, 22)
    assert groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES).step == 22
    groundup.resume(tmp_path / "run")
    (back,) = events(tmp_path / "run", "rollback")
    assert (back["step"], back["bad_step"], back["skipped"]) == (16, 23, [20 * BATCH_SIZE, 23 * BATCH_SIZE])


def stop_at(monkeypatch, step):
    """Send SIGTERM in the middle of a step, once."""
    original, done = groundup.training.train_state.LossGuard.allows_step, []

    def allows_step(self, at, loss, grad_norm):
        if at == step and not done:
            done.append(at)
            signal.raise_signal(signal.SIGTERM)
        return original(self, at, loss, grad_norm)

    monkeypatch.setattr("groundup.training.guard.LossGuard.allows_step", allows_step)


def test_out_of_memory_halves_the_micro_batch_and_the_batch_stays(prepared, tmp_path, monkeypatch):
    groundup.train(prepared, tmp_path / "complete", overrides=OVERRIDES)
    original = NextTokenLoss.forward

    def forward(self, ids, targets):
        if len(ids) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return original(self, ids, targets)

    monkeypatch.setattr(NextTokenLoss, "forward", forward)
    monkeypatch.setattr("groundup.run.start._with_speed", lambda plan, *_: plan)
    groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES)
    assert [record["micro_batch"] for record in events(tmp_path / "run", "out_of_memory")] == [4, 2]
    losses = [[r["loss"] for r in events(tmp_path / name, "step")] for name in ("run", "complete")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert load_metadata(last(tmp_path / "run"))["micro_batch_size"] == {"configured": 8, "used": 2}
    assert len(events(tmp_path / "run", "eval")) == len(events(tmp_path / "complete", "eval"))


def test_out_of_memory_with_one_sequence_is_an_error_with_advice(prepared, tmp_path, monkeypatch):
    def forward(self, ids, targets):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(NextTokenLoss, "forward", forward)
    monkeypatch.setattr("groundup.run.start._with_speed", lambda plan, *_: plan)
    with pytest.raises(groundup.TrainingError, match="out of memory with micro-batches of 1; take a smaller model"):
        groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES)


@pytest.mark.parametrize("at", [10, 40], ids=["in the middle", "at the end"])
def test_an_evaluation_that_a_stop_interrupts_runs_after_the_resume(at, prepared, tmp_path, monkeypatch):
    from groundup.run import evaluator

    original = evaluator.split_loss

    def signalled(*args, **kwargs):
        if events(tmp_path / "run", "step")[-1]["step"] == at:  # a save of an earlier step may be logged after it
            signal.raise_signal(signal.SIGTERM)
        return original(*args, **kwargs)

    groundup.train(prepared, tmp_path / "untouched", overrides=OVERRIDES)
    monkeypatch.setattr(evaluator, "split_loss", signalled)
    groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES)
    monkeypatch.setattr(evaluator, "split_loss", original)
    assert at not in [record["step"] for record in events(tmp_path / "run", "eval")]
    assert last(tmp_path / "run").name == f"step-{at:08d}"
    groundup.resume(tmp_path / "run")
    groundup.resume(tmp_path / "run")  # nothing is missed now
    assert [record["step"] for record in events(tmp_path / "run", "eval")].count(at) == 1
    found, due = ({r["step"]: r["val_loss"] for r in events(tmp_path / n, "eval")} for n in ("run", "untouched"))
    assert found == due


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no such signal")
def test_slurms_time_limit_stops_the_run_with_a_checkpoint(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1")
    result = groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES)
    assert (result.signal, result.step) == (signal.SIGTERM, 0), "there is no time for a step"
    assert result.checkpoint.is_dir()
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert groundup.resume(tmp_path / "run").step == 40


@pytest.mark.parametrize("command", ["train", "resume"])
def test_a_flipped_bit_in_a_shard_is_found_before_the_first_step(command, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "data")
    groundup.train(tmp_path / "data", tmp_path / "run", overrides=OVERRIDES)
    shard = tmp_path / "data" / "train-00000.bin"
    contents = bytearray(shard.read_bytes())
    contents[1000] ^= 1
    shard.write_bytes(contents)
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    go = {
        "train": partial(groundup.train, tmp_path / "data", tmp_path / "other", overrides=OVERRIDES),
        "resume": partial(groundup.resume, tmp_path / "run", overrides={"train": {"max_steps": 50}}),
    }[command]
    with pytest.raises(groundup.DataError, match=r"train-00000\.bin: damaged \(its checksum is not the manifest's\)"):
        go()
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before
    assert not (tmp_path / "other").exists()


@pytest.fixture
def little_memory(monkeypatch):
    """More than this many sequences at a time do not fit into memory; None: all do."""
    limit, original = [None], NextTokenLoss.forward

    def forward(self, ids, targets):
        if limit[0] and len(ids) > limit[0]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return original(self, ids, targets)

    monkeypatch.setattr(NextTokenLoss, "forward", forward)
    monkeypatch.setattr("groundup.run.start._with_speed", lambda plan, *_: plan)
    return limit


def test_a_halved_micro_batch_is_kept_by_a_resume_and_the_config_is_not_rewritten(
    prepared, tmp_path, monkeypatch, little_memory
):
    run = tmp_path / "run"
    little_memory[0] = 3
    stop_at(monkeypatch, 12)
    assert groundup.train(prepared, run, overrides=OVERRIDES).step == 12
    assert [record["micro_batch"] for record in events(run, "out_of_memory")] == [4, 2]
    config = (run / "config.yaml").read_bytes()
    assert RunFolder(run).config().train.micro_batch_size is None
    assert load_metadata(last(run))["micro_batch_size"]["used"] == 2
    assert groundup.resume(run).step == 40
    assert [record["micro_batch"] for record in events(run, "out_of_memory")] == [4, 2], "not tried again"
    assert (run / "config.yaml").read_bytes() == config
    assert load_metadata(last(run))["micro_batch_size"]["used"] == 2


def test_a_killed_run_keeps_the_halved_micro_batch_of_its_last_checkpoint(
    prepared, tmp_path, monkeypatch, little_memory
):
    run = tmp_path / "run"
    little_memory[0] = 5
    groundup.train(prepared, run, overrides=OVERRIDES)
    config = (run / "config.yaml").read_bytes()
    for folder in RunFolder(run).steps()[1:]:  # as a kill after its first kept checkpoint leaves the run
        shutil.rmtree(folder)
    assert len(RunFolder(run).steps()) == 1
    assert groundup.resume(run).step == 40
    assert [record["micro_batch"] for record in events(run, "out_of_memory")] == [4]
    assert (run / "config.yaml").read_bytes() == config
    assert load_metadata(last(run))["micro_batch_size"]["used"] == 4


def test_a_given_micro_batch_size_replaces_the_halved_one(prepared, tmp_path, little_memory):
    run = tmp_path / "run"
    little_memory[0] = 3
    groundup.train(prepared, run, overrides=OVERRIDES)
    little_memory[0] = None
    assert groundup.resume(run, overrides={"train": {"micro_batch_size": 4, "max_steps": 42}}).step == 42
    assert load_metadata(last(run))["micro_batch_size"]["used"] == 4
    assert RunFolder(run).config().train.micro_batch_size == 4
    shutil.rmtree(last(run))  # killed before its next checkpoint: the size that was given still holds
    assert groundup.resume(run).step == 42
    assert load_metadata(last(run))["micro_batch_size"] == {"configured": 4, "used": 4}
