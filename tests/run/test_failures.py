"""A run that goes wrong goes back, takes less at a time, or stops in a checkpoint: it is never lost."""

import shutil
import signal
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import groundup
from groundup.checkpoint.log import read_log
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
ROWS = 8  # windows a step


@pytest.mark.parametrize("damage", ["moved", "no such source"])
def test_documents_that_nobody_can_find_are_none(damage, prepared, tmp_path):
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
    """Windows at these places make the loss NaN, as a broken document might."""
    bad, place = set(), [0]
    batches, loss = BatchLoader.micro_batches, NextTokenLoss.forward

    def micro_batches(self, cursor):
        place[0] = cursor
        return batches(self, cursor)

    def forward(self, ids, targets):
        found = loss(self, ids, targets)
        return found * float("nan") if self.training and place[0] in bad else found

    monkeypatch.setattr(BatchLoader, "micro_batches", micro_batches)
    monkeypatch.setattr(NextTokenLoss, "forward", forward)
    return bad


def test_bad_steps_send_it_back_past_their_windows_and_name_the_documents(prepared, tmp_path, poison):
    poison |= {ROWS * step for step in (20, 21, 22)}  # what steps 21 to 23 read
    result = groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES)
    (back,) = events(tmp_path / "run", "rollback")
    assert (back["step"], back["bad_step"]) == (16, 23)
    assert back["skipped"] == [20 * ROWS, 23 * ROWS]
    assert back["documents"]
    assert all(":" in name for name in back["documents"])
    after = events(tmp_path / "run", "step")[-24:]
    assert [record["step"] for record in after] == list(range(17, 41))
    assert [record["cursor"] for record in after] == [ROWS * n for n in [16, 17, 18, 19, *range(23, 43)]]
    assert result.step == 40
    weights = load_file(result.checkpoint / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert groundup.resume(tmp_path / "run", overrides={"train": {"max_steps": 42}}).step == 42


def test_bad_from_the_first_step_on_it_begins_again(prepared, tmp_path, poison):
    poison |= {0, ROWS, 2 * ROWS}
    groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES)
    assert events(tmp_path / "run", "rollback")[0]["step"] == 0
    poison.clear()
    clean = {**OVERRIDES, "train": {**OVERRIDES["train"], "max_steps": 1}}
    groundup.train(prepared, tmp_path / "clean", overrides=clean)
    steps = events(tmp_path / "run", "step")
    assert steps[0]["cursor"] == 3 * ROWS
    assert steps[0]["loss"] == pytest.approx(events(tmp_path / "clean", "step")[0]["loss"], abs=0.1), "fresh weights"


def test_it_gives_up_after_so_many_returns(prepared, tmp_path, poison):
    poison |= set(range(0, 4000, ROWS))
    overrides = {**OVERRIDES, "guard": {"max_bad_steps": 2, "max_rollbacks": 2}}
    with pytest.raises(groundup.TrainingError, match="not finite, 2 steps in a row"):
        groundup.train(prepared, tmp_path / "run", overrides=overrides)
    assert len(events(tmp_path / "run", "rollback")) == 2


def test_interrupted_after_a_return_it_ends_with_the_same_weights(prepared, tmp_path, poison, monkeypatch):
    poison |= {ROWS * step for step in (20, 21, 22)}
    groundup.train(prepared, tmp_path / "untouched", overrides=OVERRIDES)
    stop_at(monkeypatch, 30)
    assert groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES).signal == signal.SIGTERM
    result = groundup.resume(tmp_path / "run")
    ours, theirs = (load_file(path / "model.safetensors") for path in (result.checkpoint, last(tmp_path / "untouched")))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_frequent_checkpoints_do_not_push_out_the_one_to_go_back_to(prepared, tmp_path, poison):
    poison |= {ROWS * step for step in (20, 21, 22)}
    overrides = {**OVERRIDES, "checkpoint": {"every_steps": 1, "keep_last": 2, "save_best": False}}
    groundup.train(prepared, tmp_path / "run", overrides=overrides)
    assert events(tmp_path / "run", "rollback")[0]["step"] == 20


def test_how_often_it_may_go_back_is_not_forgotten_by_a_resume(prepared, tmp_path, poison):
    poison |= {ROWS * step for step in (20, 21, 22, 30, 31, 32)}
    overrides = {**OVERRIDES, "guard": {"max_bad_steps": 3, "max_rollbacks": 1}}
    with pytest.raises(groundup.TrainingError, match="not finite, 3 steps in a row"):
        groundup.train(prepared, tmp_path / "run", overrides=overrides)
    with pytest.raises(groundup.TrainingError, match="not finite, 3 steps in a row"):
        groundup.resume(tmp_path / "run")
    assert len(events(tmp_path / "run", "rollback")) == 1
    assert groundup.resume(tmp_path / "run", overrides={"guard": {"max_rollbacks": 2}}).step == 40


def test_in_fp16_it_goes_back_too(prepared, tmp_path, poison):
    poison |= {ROWS * step for step in (6, 7)}
    train = {**OVERRIDES["train"], "precision": "fp16", "max_steps": 9}
    overrides = {
        **OVERRIDES,
        "train": train,
        "guard": {"max_bad_steps": 2},
        "evaluate": {"every_steps": 0, "tokens": 40},
    }
    for every in (3, 0):  # to a checkpoint, and to the beginning
        run = tmp_path / f"run{every}"
        result = groundup.train(prepared, run, overrides={**overrides, "checkpoint": {"every_steps": every}})
        assert result.step == 9
        assert len(events(run, "rollback")) == 1


def test_out_of_memory_while_compiling_it_takes_less_as_well(prepared, tmp_path, monkeypatch):
    original = NextTokenLoss.forward

    def forward(self, ids, targets):
        if len(ids) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return original(self, ids, targets)

    monkeypatch.setattr(NextTokenLoss, "forward", forward)
    monkeypatch.setattr("groundup.run.start.with_speed", lambda plan, *_: plan)
    overrides = {**OVERRIDES, "train": {**OVERRIDES["train"], "compile": "eager", "max_steps": 3}}
    assert groundup.train(prepared, tmp_path / "run", overrides=overrides).step == 3
    assert [record["micro_batch"] for record in events(tmp_path / "run", "out_of_memory")] == [4]


def last(run):
    return RunFolder(run).steps()[-1]


def test_interrupted_among_bad_steps_it_remembers_them(prepared, tmp_path, poison, monkeypatch):
    poison |= {ROWS * step for step in (20, 21, 22)}
    stop_at(monkeypatch, 22)
    assert groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES).step == 22
    groundup.resume(tmp_path / "run")
    (back,) = events(tmp_path / "run", "rollback")
    assert (back["step"], back["bad_step"], back["skipped"]) == (16, 23, [20 * ROWS, 23 * ROWS])


def stop_at(monkeypatch, step):
    """SIGTERM in the middle of a step, once."""
    original, done = groundup.training.train_state.LossGuard.allows_step, []

    def allows_step(self, at, loss, grad_norm):
        if at == step and not done:
            done.append(at)
            signal.raise_signal(signal.SIGTERM)
        return original(self, at, loss, grad_norm)

    monkeypatch.setattr("groundup.training.guard.LossGuard.allows_step", allows_step)


def test_out_of_memory_it_takes_half_at_a_time_and_the_batch_stays(prepared, tmp_path, monkeypatch):
    groundup.train(prepared, tmp_path / "whole", overrides=OVERRIDES)
    original = NextTokenLoss.forward

    def forward(self, ids, targets):
        if len(ids) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return original(self, ids, targets)

    monkeypatch.setattr(NextTokenLoss, "forward", forward)
    monkeypatch.setattr("groundup.run.start.with_speed", lambda plan, *_: plan)
    groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES)
    assert [record["micro_batch"] for record in events(tmp_path / "run", "out_of_memory")] == [4, 2]
    losses = [[r["loss"] for r in events(tmp_path / name, "step")] for name in ("run", "whole")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert RunFolder(tmp_path / "run").config().train.micro_batch_size == 2
    assert len(events(tmp_path / "run", "eval")) == len(events(tmp_path / "whole", "eval"))


def test_where_one_window_is_too_much_a_sentence_says_what_to_do(prepared, tmp_path, monkeypatch):
    def forward(self, ids, targets):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(NextTokenLoss, "forward", forward)
    monkeypatch.setattr("groundup.run.start.with_speed", lambda plan, *_: plan)
    with pytest.raises(groundup.TrainingError, match="out of memory with 1 windows at a time; take a smaller model"):
        groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES)


@pytest.mark.parametrize("at", [10, 40], ids=["in the middle", "at the end"])
def test_a_stop_breaks_an_evaluation_off_and_a_resume_makes_up_for_it(at, prepared, tmp_path, monkeypatch):
    from groundup.run import evaluator

    original = evaluator.split_loss

    def signalled(*args, **kwargs):
        if read_log(tmp_path / "run" / "log.jsonl")[-1].get("step") == at:
            signal.raise_signal(signal.SIGTERM)
        return original(*args, **kwargs)

    groundup.train(prepared, tmp_path / "untouched", overrides=OVERRIDES)
    monkeypatch.setattr(evaluator, "split_loss", signalled)
    groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES)
    monkeypatch.setattr(evaluator, "split_loss", original)
    assert at not in [record["step"] for record in events(tmp_path / "run", "eval")]
    assert last(tmp_path / "run").name == f"step-{at:08d}"
    groundup.resume(tmp_path / "run")
    groundup.resume(tmp_path / "run")  # nothing is left to make up for
    assert [record["step"] for record in events(tmp_path / "run", "eval")].count(at) == 1
    found, due = ({r["step"]: r["val_loss"] for r in events(tmp_path / n, "eval")} for n in ("run", "untouched"))
    assert found == due


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no such signal")
def test_before_slurms_time_limit_and_on_sigusr1_it_stops_in_a_checkpoint(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1")
    result = groundup.train(prepared, tmp_path / "run", overrides=OVERRIDES)
    assert (result.signal, result.step) == (signal.SIGTERM, 0), "there is no time for a step"
    assert result.checkpoint.is_dir()
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert groundup.resume(tmp_path / "run").step == 40


@pytest.mark.parametrize("command", ["train", "resume"])
def test_a_flipped_bit_in_a_shard_is_found_before_a_step_is_made(command, prepared, tmp_path):
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
