"""Several processes compute what one computes: the same batches, losses, evaluations and weights, up to rounding."""

import hashlib
import json
import shutil
from pathlib import Path

import jobs
import numpy as np
import pytest
import torch
import work
from safetensors.torch import load_file

from groundup.config.presets import FAST_PARTS, GPT1_PARTS, MODERN_OPTIMIZER, MODERN_PARTS
from groundup.data.windows import ShuffledWindows
from groundup.model.gpt import IGNORED
from groundup.training.micro_batches import BatchLoader

STEPS, BATCH_SIZE, BLOCK = 12, 10, 32
BOUND = 2e-5  # nats per token, at every step, in fp32
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": BLOCK}
BASE = {
    "model": SHAPE,
    "guard": {},
    "optimizer": {"learning_rate": 3e-3},
    "schedule": {"warmup_steps": 2},
    "train": {
        "micro_batch_size": 3,
        "max_steps": STEPS,
        "batch_tokens": BATCH_SIZE * BLOCK,
        "threads": 1,
        "precision": "fp32",
        "device": "cpu",
    },
    "evaluate": {"every_steps": 5, "tokens": 500, "sample_every_steps": 6, "sample_tokens": 8},
    "checkpoint": {"every_steps": 6, "keep_last": 3},
}
MODELS = {
    "gpt1": {"model": GPT1_PARTS},
    "gpt2": {"optimizer": {"ema_decay": 0.9}},
    "modern": {"model": MODERN_PARTS, "optimizer": MODERN_OPTIMIZER | {"learning_rate": 3e-3, "eps": 1e-8}},
    "fast": {
        "model": FAST_PARTS | {"ngram": 3, "ngram_rows": 512, "ngram_width": 260},
        "optimizer": MODERN_OPTIMIZER | {"learning_rate": 3e-3, "eps": 1e-8, "orthogonalize": "polar_express"},
        "train": {"seq_len_warmup_from": 8},
    },
}


def config(name, **sections):
    layers = (BASE, MODELS[name], sections)
    return {name: {k: v for layer in layers for k, v in layer.get(name, {}).items()} for name in BASE}


def steps(run: Path) -> dict[int, dict]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {record["step"]: record for record in records if record["event"] == "step"}


def evaluations(run: Path) -> dict[int, tuple[float, float]]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {r["step"]: (r["train_loss"], r["val_loss"]) for r in records if r["event"] == "eval"}


def weights(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    folder = run / f"checkpoints/step-{step:08d}"
    tensors = {}
    for path in sorted(folder.rglob("*.safetensors")):
        tensors |= {f"{path.name}:{name}": tensor for name, tensor in load_file(path).items()}
    return tensors


def assert_same_up_to_rounding(one: Path, other: Path) -> None:
    ours, theirs = steps(one), steps(other)
    assert list(ours) == list(theirs) == list(range(1, STEPS + 1))
    for step, record in ours.items():
        assert record["cursor"] == theirs[step]["cursor"]
        assert record["loss"] == pytest.approx(theirs[step]["loss"], abs=BOUND), f"step {step}"
        assert record["grad_norm"] == pytest.approx(theirs[step]["grad_norm"], rel=2e-4), f"step {step}"
    losses = evaluations(other)
    assert list(losses) == [5, 10, STEPS]
    for step, found in evaluations(one).items():
        assert found == pytest.approx(losses[step], abs=BOUND)


def assert_bitwise(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def without_the_end(run: Path, place: Path) -> Path:
    """Copy of a run as it was half-way."""
    shutil.copytree(run, place, symlinks=True)
    for later in range(STEPS // 2 + 1, STEPS + 1):
        shutil.rmtree(place / f"checkpoints/step-{later:08d}", ignore_errors=True)
    assert (place / f"checkpoints/step-{STEPS // 2:08d}").is_dir()
    return place


def forget_evaluations(run: Path) -> None:
    """Edit the log as if a signal had interrupted the last evaluation."""
    folder = run / f"checkpoints/step-{STEPS // 2:08d}"
    metadata = json.loads((folder / "progress.json").read_text()) | {"best": {}}
    (folder / "progress.json").write_text(json.dumps(metadata))
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    digest = hashlib.sha256((folder / "progress.json").read_bytes()).hexdigest()
    lines = [f"{digest}  progress.json" if line.endswith("  progress.json") else line for line in sums]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory) -> Path:
    """A run of each model in one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name in MODELS:
        work.train_all(prepared, folder, {name: config(name)})
    return folder


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize("micro_batch_size", [1, 3, 10])
def test_the_micro_batches_of_all_processes_are_the_batch(size, micro_batch_size):
    class Numbers:
        def __len__(self):
            return 5000

        def read(self, start, n):
            return np.arange(start, start + n)

    windows, cpu = ShuffledWindows(Numbers(), BLOCK, seed=3), torch.device("cpu")
    ids, scored = [], 0
    for rank in range(size):
        loader = BatchLoader(windows, BATCH_SIZE, cpu, rank=rank, world_size=size)
        batches = list(loader.micro_batches(40, 0.0, micro_batch_size))
        assert [last for *_, last in batches] == [False] * (len(batches) - 1) + [True]
        assert sum(len(i) for i, _, _ in batches) == -(-BATCH_SIZE // size)  # equally many on each rank
        for micro_batch, targets, _ in batches:
            present = targets[:, 0] != IGNORED
            assert torch.equal(micro_batch[present][:, 1:], targets[present][:, :-1])
            ids.append(micro_batch[present])
            scored += int((targets != IGNORED).sum())
    assert scored == loader.scored == BATCH_SIZE * BLOCK
    assert torch.equal(torch.cat(ids), torch.from_numpy(windows.read(40, BATCH_SIZE)[:, :-1]))


@pytest.mark.slow
def test_two_processes_compute_what_one_does(prepared, alone, tmp_path):
    kinds = [(model, kind) for model in MODELS for kind in ("ddp", "fsdp")]
    kinds.remove(("gpt1", "fsdp"))  # below, recomputed
    cases = {f"{model} {kind}": config(model, train={"parallel": kind}) for model, kind in kinds}
    # Accumulation of 5, and none; three sequences per pass above.
    train = {"parallel": "ddp", "activation_checkpointing": "selective"}
    cases["gpt1 1"] = config("gpt1", train={**train, "micro_batch_size": 1})
    cheap = {"parallel": "fsdp", "activation_checkpointing": "selective"}
    cases["modern 5"] = config("modern", train={**cheap, "micro_batch_size": 5})
    cases["gpt1 recomputed"] = config("gpt1", train={"parallel": "fsdp", "activation_checkpointing": "full"})
    sgd = {"optimizer": {"name": "sgd", "learning_rate": 0.1}}
    cases["sgd 5"] = config("gpt2", train={"parallel": "ddp", "micro_batch_size": 5}, **sgd)
    work.train_all(prepared, tmp_path / "one", {"sgd": config("gpt2", **sgd)})
    jobs.run(2, work.train_all, prepared, tmp_path, cases, "cut_logits", place=tmp_path)  # logits: complete in `alone`
    for name in cases:
        model = name.split()[0]
        assert_same_up_to_rounding(tmp_path / name, (tmp_path / "one" if model == "sgd" else alone) / model)


@pytest.mark.long
@pytest.mark.parametrize("size", [3, 4])  # neither divides a step's sequences
def test_more_processes_compute_what_one_does(size, prepared, alone, tmp_path):
    cases = {name: config(name.split()[0], train={"parallel": name.split()[1]}) for name in ("gpt2 ddp", "modern fsdp")}
    jobs.run(size, work.train_all, prepared, tmp_path, cases, place=tmp_path)
    for name in cases:
        assert_same_up_to_rounding(tmp_path / name, alone / name.split()[0])
    # A sum of three depends on the order, and so on the gradient buckets.
    again = [str(without_the_end(tmp_path / name, tmp_path / f"{name} again")) for name in cases]
    jobs.run(size, work.resume_all, again, place=tmp_path / "again")
    for name in cases:
        assert_bitwise(tmp_path / name, tmp_path / f"{name} again")


@pytest.fixture(scope="module")
def pair(prepared, tmp_path_factory) -> list[Path]:
    """Runs of two processes."""
    dropout = {"dropout": 0.1}
    cases = {f"{model} {kind}": config(model, train={"parallel": kind}) for model, kind in
             (("gpt2", "ddp"), ("modern", "fsdp"))}  # fmt: skip
    cases["dropped fsdp"] = config("gpt2", model=dropout, train={"parallel": "fsdp"})
    folder = tmp_path_factory.mktemp("pair")
    jobs.run(2, work.train_all, prepared, folder, cases, place=folder)
    return [folder / name for name in cases]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, pytest.param(3, marks=pytest.mark.long)])
def test_a_checkpoint_of_two_processes_resumes_with_any_number(size, alone, pair, tmp_path):
    runs = [without_the_end(run, tmp_path / run.name) for run in pair]
    paths, place = [str(run) for run in runs], tmp_path / "job"
    found = [work.resume_all(paths)] if size == 1 else jobs.run(size, work.resume_all, paths, place=place)
    assert found == [[STEPS] * len(runs)] * size
    for before, after in zip(pair, runs, strict=True):
        if size == 2:
            assert_bitwise(before, after)
        elif "dropped" not in after.name:  # a different process draws different numbers
            assert_same_up_to_rounding(after, alone / after.name.split()[0])


@pytest.mark.slow
def test_two_processes_resume_a_run_of_one_and_make_its_due_evaluation_first(alone, tmp_path):
    back = without_the_end(alone / "modern", tmp_path / "modern from 1")
    forget_evaluations(back)
    more = {"train": {"parallel": "fsdp"}, "evaluate": {"every_steps": 3}}
    jobs.run(2, work.resume_all, [str(back)], more, place=tmp_path / "back")
    ours, theirs = steps(back), steps(alone / "modern")
    assert max(abs(ours[step]["loss"] - theirs[step]["loss"]) for step in range(1, STEPS + 1)) < BOUND
    assert 6 in evaluations(back)


@pytest.mark.slow
def test_each_process_draws_its_own_dropout_and_rank_0_that_of_a_single_one(prepared, tmp_path):
    dropped = config("gpt2", model={"dropout": 0.1})
    (alone,) = jobs.run(1, work.draws, prepared, tmp_path / "alone", dropped, place=tmp_path / "1")
    first, second = jobs.run(2, work.draws, prepared, tmp_path / "both", dropped, place=tmp_path / "2")
    assert first == alone
    assert not set(first) & set(second)
    assert len({*first, *second}) == 2 * STEPS


@pytest.mark.slow
def test_a_sharded_run_of_an_earlier_version_resumes_with_two_processes(tmp_path):
    old = Path(__file__).parents[1] / "fixtures" / "old-names"
    expected = json.loads((old / "expected.json").read_text())["runs"]["run-fsdp"]["two_processes"]
    shutil.copytree(old, tmp_path / "old")
    more = {"train": {"max_steps": 20, "threads": 1}}
    assert jobs.run(2, work.resume_in, str(tmp_path / "old"), "run-fsdp", more, place=tmp_path / "job") == [[20], [20]]
    losses = [record["loss"] for step, record in steps(tmp_path / "old" / "run-fsdp").items() if step > 12]
    assert losses == pytest.approx(expected["losses"], abs=1e-4)
