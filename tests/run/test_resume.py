"""A run killed at any moment and resumed ends with the weights of an uninterrupted one, bit for bit."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from configs import STEPS, TOY
from safetensors.torch import load_file, save_file

import groundup
from groundup.api import configure
from groundup.checkpoint.log import read_log
from groundup.checkpoint.run_folder import RunFolder, find_checkpoint
from groundup.config.presets import GPT1_PARTS, MODERN_PARTS, PREVIOUS
from groundup.config.schema import Config
from groundup.diagnostics.run_checks import check_run
from groundup.distributed.process_group import ProcessGroup
from groundup.errors import UnreadableError
from groundup.run.dataset import PreparedData
from groundup.run.start import check_ranks_agree, start_or_resume
from groundup.ui.display import PlainDisplay
from groundup.utils.files import SUMS, sha256

STATE = ("model.safetensors", "optimizer/state.safetensors", "average.safetensors")

# A child process that kills itself without warning at the n-th call of a function.
CHILD = """
import os, signal, sys, importlib, json
import groundup.api
module, name, n, action, run, data, overrides = json.loads(sys.argv[1])
owner = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    owner = getattr(owner, part)
original, calls = getattr(owner, last), 0
def fatal(*args, **kwargs):
    global calls
    calls += 1
    if calls == n:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(owner, last, fatal)
if action == "train":
    groundup.train(data, run, overrides=overrides)
else:
    groundup.resume(run)
"""


@pytest.fixture(scope="session")
def killed(forks):
    """Train or resume in a process that dies at the given call; fails if the call is not reached."""

    def kill(action: str, where: tuple[str, str, int], run: Path, data: Path, overrides: dict) -> None:
        arguments = json.dumps([*where, action, str(run), str(data), overrides])
        command = [*forks.words, "-c", CHILD, arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == -9, done.stderr

    return kill


def final(run: Path, step: int = STEPS) -> Path:
    return RunFolder(run).checkpoints / f"step-{step:08d}"


def same_state(a: Path, b: Path) -> bool:
    """Whether weights and optimizer state are equal bit for bit, and metadata is equal."""
    files = [name for name in STATE if (a / name).exists() or (b / name).exists()]
    metadata = [json.loads((folder / "progress.json").read_text()) for folder in (a, b)]
    for values in metadata:
        del values["elapsed"], values["dt"], values["parent"]  # an interruption saves an additional checkpoint
    return metadata[0] == metadata[1] and all((a / f).read_bytes() == (b / f).read_bytes() for f in files)


@pytest.fixture(scope="module")
def reference(prepared, tmp_path_factory) -> Path:
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("reference") / "run"
    groundup.train(prepared, run, overrides=OVERRIDES)
    return run


OVERRIDES = TOY | {
    "evaluate": {"every_steps": 10, "tokens": 500, "sample_every_steps": 20, "sample_tokens": 8},
    "checkpoint": {"every_steps": 9, "keep_last": 3},
}

SIXTEEN = {"micro_batch_size": 16}  # sequences, which two threads share evenly
PHASES = {
    "before the first checkpoint": ("groundup.training.guard", "LossGuard.allows_step", 3),
    "between micro-batches": ("groundup.training.micro_batches", "to_inputs_targets", 75),
    "before the optimizer's step": ("groundup.training.guard", "LossGuard.allows_step", 31),
    "in an evaluation": ("groundup.run.evaluator", "split_loss", 6),
    "while a sample is written": ("groundup.model.gpt", "SlotCache", 2),
    "while a checkpoint is written": ("groundup.utils.files", "sha256", 17),
    "while a checkpoint is flushed": ("groundup.utils.files", "flush", 40),
    "before old checkpoints are deleted": ("groundup.checkpoint.run_folder", "RunFolder.prune", 3),
    "while an old checkpoint is deleted": ("groundup.checkpoint.run_folder", "remove_folder", 1),
    "in the middle of epoch 2": ("groundup.training.guard", "LossGuard.allows_step", 50),
}


LIKE_OTHERS = {"between micro-batches", "while a checkpoint is flushed", "in the middle of epoch 2"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "phase", [pytest.param(phase, marks=[pytest.mark.long] * (phase in LIKE_OTHERS)) for phase in PHASES]
)
def test_killed_and_resumed_equals_the_uninterrupted_run_bitwise(phase, reference, prepared, tmp_path, killed):
    run = tmp_path / "run"
    killed("train", PHASES[phase], run, prepared, OVERRIDES)
    groundup.resume(run)
    assert same_state(final(run), final(reference))


@pytest.mark.slow
def test_a_resumed_resume_is_bitwise_equal_too(reference, prepared, tmp_path, killed):
    run = tmp_path / "run"
    killed("train", ("groundup.training.guard", "LossGuard.allows_step", 14), run, prepared, OVERRIDES)
    killed("resume", ("groundup.utils.files", "flush", 5), run, prepared, OVERRIDES)
    killed("resume", ("groundup.training.guard", "LossGuard.allows_step", 30), run, prepared, OVERRIDES)
    groundup.resume(run)
    assert same_state(final(run), final(reference))
    losses = {r["step"]: r["loss"] for r in read_log(run / "log.jsonl") if r["event"] == "step"}
    assert losses == {r["step"]: r["loss"] for r in read_log(reference / "log.jsonl") if r["event"] == "step"}


SHORT = 36  # steps, also more than an epoch; killed in step 31


def shortened(**changes: dict) -> dict:
    """OVERRIDES with changes, for as many steps as show them."""
    sections = {name: {**values, **changes.get(name, {})} for name, values in OVERRIDES.items()}
    return sections | {"train": sections["train"] | {"max_steps": SHORT}}


@pytest.mark.slow
@pytest.mark.parametrize("parts", ["modern", pytest.param("gpt1", marks=pytest.mark.long)])
def test_muon_and_every_part_resume_bitwise_too(parts, prepared, tmp_path, killed):
    rows = {"modern": MODERN_PARTS, "gpt1": GPT1_PARTS}
    muon = {"name": "muon", "learning_rate": 0.01, "embedding_learning_rate": 0.1}
    overrides = shortened(model=rows[parts], optimizer=muon)
    groundup.train(prepared, tmp_path / "uninterrupted", overrides=overrides)
    killed("train", ("groundup.training.guard", "LossGuard.allows_step", 31), tmp_path / "run", prepared, overrides)
    shutil.copytree(tmp_path / "run", tmp_path / "tampered", symlinks=True)
    groundup.resume(tmp_path / "run")
    assert same_state(final(tmp_path / "run", SHORT), final(tmp_path / "uninterrupted", SHORT))

    checkpoint = RunFolder(tmp_path / "tampered").steps()[-1]  # negative control: Muon's momentum is lost
    tensors = load_file(checkpoint / "optimizer/state.safetensors")
    tensors["h.0.mlp.c_fc.weight|momentum_buffer"].zero_()
    save_file(tensors, checkpoint / "optimizer/state.safetensors")
    reseal(checkpoint)
    groundup.resume(tmp_path / "tampered")
    assert not same_state(final(tmp_path / "tampered", SHORT), final(tmp_path / "uninterrupted", SHORT))


def copy_stopped_at(reference: Path, tmp_path: Path, step: int = 54) -> tuple[Path, Path]:
    """Copy of the reference run as it was at a checkpoint; returns run and checkpoint."""
    run = tmp_path / "run"
    shutil.copytree(reference, run, symlinks=True)
    shutil.rmtree(final(run))
    return run, RunFolder(run).checkpoints / f"step-{step:08d}"


def reseal(checkpoint: Path) -> None:
    """Recompute the checksums after tampering."""
    lines = (checkpoint / SUMS).read_text().splitlines()
    names = [line.partition("  ")[2] for line in lines]
    (checkpoint / SUMS).write_text("".join(f"{sha256(checkpoint / n)}  {n}\n" for n in names))


def drop_moments(checkpoint: Path) -> None:
    save_file({}, checkpoint / "optimizer/state.safetensors")


def drop_one_moment(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "optimizer/state.safetensors")
    tensors["h.0.ln_1.bias|exp_avg"].zero_()
    save_file(tensors, checkpoint / "optimizer/state.safetensors")


def change_progress(**values):
    def change(checkpoint: Path) -> None:
        path = checkpoint / "progress.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def test_resealing_alone_changes_nothing(reference, tmp_path):
    run, checkpoint = copy_stopped_at(reference, tmp_path)
    reseal(checkpoint)
    groundup.resume(run)
    assert same_state(final(run), final(reference))


@pytest.mark.parametrize(
    ("drop", "problem"),
    [(drop_moments, r"exp_avg.*more of the model missing"), (change_progress(step=53), "is of step 53")],
    ids=["moments", "step"],
)
def test_a_state_that_is_known_to_be_incomplete_is_refused(drop, problem, reference, tmp_path):
    run, checkpoint = copy_stopped_at(reference, tmp_path)
    drop(checkpoint)
    reseal(checkpoint)
    with pytest.raises(groundup.CheckpointError, match=problem):
        groundup.resume(run)


@pytest.mark.parametrize("drop", [drop_one_moment, change_progress(cursor=0)], ids=["one moment", "cursor"])
def test_a_lost_part_of_the_state_changes_the_result(drop, reference, tmp_path):
    """Negative control: if one part were not restored, the tests above would fail."""
    run, checkpoint = copy_stopped_at(reference, tmp_path)
    drop(checkpoint)
    reseal(checkpoint)
    groundup.resume(run)
    assert not same_state(final(run), final(reference))


def test_a_dropout_that_depended_on_the_interruption_changes_the_result(reference, tmp_path, monkeypatch):
    run, _ = copy_stopped_at(reference, tmp_path)
    monkeypatch.setattr("groundup.training.train_state.reseed", lambda seed, device: None)
    groundup.resume(run)
    assert not same_state(final(run), final(reference))


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        ("flip", "model.safetensors"),
        ("truncate", "optimizer/state.safetensors"),
        ("flip", "progress.json"),
        ("delete", "config.json"),
        ("delete", SUMS),
    ],
)
def test_a_damaged_checkpoint_is_rejected_by_name_and_the_previous_one_used(damage, name, reference, tmp_path):
    run, checkpoint = copy_stopped_at(reference, tmp_path)
    path = checkpoint / name
    data = path.read_bytes()
    if damage == "flip":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    lines = []
    groundup.resume(run, display=PlainDisplay(lines.append))
    assert any("rejected" in line and path.name in line for line in lines)
    assert same_state(final(run), final(reference))


def test_only_damaged_checkpoints_are_an_error_with_every_reason_and_a_remedy(reference, tmp_path):
    run, _ = copy_stopped_at(reference, tmp_path)
    for folder in RunFolder(run).steps():
        (folder / SUMS).unlink()
    with pytest.raises(groundup.CheckpointError, match="start a new run") as caught:
        groundup.resume(run)
    assert all(folder.name in str(caught.value) for folder in RunFolder(run).steps())


def test_a_rejected_checkpoint_never_replaces_a_good_one(reference, tmp_path):
    run, checkpoint = copy_stopped_at(reference, tmp_path)
    (checkpoint / SUMS).unlink()
    shorter = {"train": {"max_steps": 50}, "checkpoint": {"keep_last": 1}}
    groundup.resume(run, overrides=shorter)
    assert [path.name for path in RunFolder(run).steps()] == ["step-00000050"]
    assert groundup.resume(run).step == 50  # the one that was kept is complete


def test_overrides_of_a_resume_are_kept_in_the_run(reference, tmp_path):
    run, _ = copy_stopped_at(reference, tmp_path)
    groundup.resume(run, overrides={"train": {"max_steps": 58}, "checkpoint": {"every_steps": 2}})
    assert groundup.resume(run).step == 58
    assert RunFolder(run).config().checkpoint.every_steps == 2


def test_leftovers_of_a_crash_are_deleted(reference, tmp_path):
    run, _ = copy_stopped_at(reference, tmp_path)
    for name in (".step-00000009.deleted", ".step-00000060.partial"):
        (RunFolder(run).checkpoints / name).mkdir()
    groundup.resume(run)
    assert not list(RunFolder(run).checkpoints.glob(".*"))


def test_a_resume_is_logged_and_a_finished_run_logs_nothing(reference, tmp_path):
    run, _ = copy_stopped_at(reference, tmp_path)
    groundup.resume(run)
    assert [r["step"] for r in read_log(run / "log.jsonl") if r["event"] == "resume"] == [54]
    before = (run / "log.jsonl").read_bytes()
    groundup.resume(run)
    assert (run / "log.jsonl").read_bytes() == before


def test_a_missing_device_is_refused_with_advice(reference, tmp_path):
    run, _ = copy_stopped_at(reference, tmp_path)
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("device: cpu", "device: cuda:7"))
    with pytest.raises(groundup.ConfigError, match="cuda:7 is not on this machine; use auto or cpu"):
        groundup.resume(run)
    lines = []
    shown = PlainDisplay(lines.append)
    assert groundup.resume(run, overrides={"train": {"device": "cpu"}}, display=shown).step == STEPS
    assert not any("not bit for bit" in line for line in lines)  # the checkpoint was trained on a CPU as well


@pytest.mark.parametrize("text", ["model: [", "", None])
def test_a_lost_config_is_rebuilt_from_the_newest_checkpoint_and_the_file_kept(text, reference, tmp_path):
    run, _ = copy_stopped_at(reference, tmp_path)
    path = run / "config.yaml"
    whole = path.read_bytes()
    path.unlink()
    if text is not None:
        path.write_text(text)
        path.with_name("config.yaml.damaged").write_text("kept earlier")
    lines = []
    groundup.resume(run, display=PlainDisplay(lines.append))
    assert same_state(final(run), final(reference))
    assert path.read_bytes() == whole
    (line,) = (line for line in lines if "rebuilt from the newest checkpoint" in line)
    assert any(line.startswith("machine  ") for line in lines)
    if text is not None:
        assert line.endswith("kept as config.yaml.damaged1")
        assert path.with_name("config.yaml.damaged1").read_text() == text


def test_a_mistake_in_a_config_is_one_sentence(reference, tmp_path):
    run, _ = copy_stopped_at(reference, tmp_path)
    path = run / "config.yaml"
    path.write_text(path.read_text() + "nonsense: 1\n")
    with pytest.raises(
        groundup.CheckpointError, match=r"config\.yaml: nonsense: unknown key.*repair it, or remove it"
    ) as e:
        groundup.resume(run)
    assert "\n" not in str(e.value)


def test_a_config_that_cannot_be_read_is_not_rebuilt(reference, tmp_path, monkeypatch):
    run, _ = copy_stopped_at(reference, tmp_path)
    original, path = os.open, run / "config.yaml"

    def fail(target, *args, **kwargs):
        if target == path:
            raise PermissionError(13, "Permission denied", str(path))
        return original(target, *args, **kwargs)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(UnreadableError, match=r"config\.yaml: cannot be read \(Permission denied\)"):
        groundup.resume(run)


def test_a_config_that_is_a_link_is_refused(reference, tmp_path):
    run, _ = copy_stopped_at(reference, tmp_path)
    (run / "config.yaml").rename(tmp_path / "elsewhere.yaml")
    (run / "config.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    with pytest.raises(groundup.CheckpointError, match=r"config\.yaml: is a link, which is not followed"):
        groundup.resume(run)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("weight_decay: 0.1", "weight_decay: 0.2"), "optimizer.weight_decay is 0.2, not 0.1"),
        (lambda text: text.replace("n_layer: 2", "n_layer: 3"), "model.n_layer is 3, not 2"),
        (lambda text: text.partition("optimizer:")[0], "optimizer.learning_rate is missing, not 0.003"),
        (lambda text: text.partition("  keep_last:")[0], "checkpoint.keep_last is missing, not 3"),
    ],
)
def test_a_config_that_contradicts_the_checkpoint_is_refused_with_both_values(change, said, reference, tmp_path):
    run, _ = copy_stopped_at(reference, tmp_path)
    path = run / "config.yaml"
    path.write_text(change(path.read_text()))
    before = sorted(run.rglob("*"))
    with pytest.raises(groundup.CheckpointError, match=f"config.yaml: .*{said}.*step-00000054 was trained with; put"):
        groundup.resume(run)
    assert sorted(set(run.rglob("*")) - {run / ".lock"}) == sorted(set(before) - {run / ".lock"})
    assert any(said in problem for problem in check_run(run).problems)
    path.unlink()  # the remedy
    assert groundup.resume(run, overrides={"train": {"max_steps": 55}}).step == 55


def test_checkpoints_may_be_moved_to_another_disk(reference, tmp_path):
    run, checkpoint = copy_stopped_at(reference, tmp_path)
    big = tmp_path / "big" / "checkpoints of a run"
    big.parent.mkdir()
    shutil.move(checkpoint.parent, big)
    (run / "checkpoints").symlink_to(big)  # as one does, and as a run from others may have it
    with pytest.raises(groundup.CheckpointError, match=r"is a link, which is not followed.*--checkpoints DIR"):
        groundup.resume(run)
    whole = (run / "config.yaml").read_bytes()
    (run / "config.yaml").unlink()  # that is lost, too
    groundup.resume(run, checkpoints=big)
    assert (run / "config.yaml").read_bytes() == whole
    assert same_state(big / final(run).name, final(reference))
    assert check_run(run).ok
    assert groundup.load(run, checkpoint="best").folder.parent == big
    assert (run / "latest").resolve() == big / final(run).name
    assert groundup.resume(run, overrides={"train": {"max_steps": 61}}).checkpoint == big / "step-00000061"


def test_a_finished_run_with_max_time_is_not_continued(prepared, tmp_path):
    overrides = {**OVERRIDES, "train": {**OVERRIDES["train"], "max_time": "1s"}}
    del overrides["train"]["max_steps"]
    began = time.monotonic()
    step = groundup.train(prepared, tmp_path / "run", overrides=overrides).step
    assert groundup.resume(tmp_path / "run").step == step
    longer = f"{time.monotonic() - began + 1}s"
    assert groundup.resume(tmp_path / "run", overrides={"train": {"max_time": longer}}).step > step


def test_other_data_is_refused(reference, tmp_path):
    run, _ = copy_stopped_at(reference, tmp_path)
    (tmp_path / "other.txt").write_text("Some other text entirely.\n" * 200)
    groundup.prepare([tmp_path / "other.txt"], tmp_path / "other", tokenizer="byte")
    with pytest.raises(groundup.CheckpointError, match="not the data that this run was trained on"):
        groundup.resume(run, data=tmp_path / "other")
    groundup.prepare([tmp_path / "other.txt"], tmp_path / "chars", tokenizer="char")
    with pytest.raises(groundup.CheckpointError, match=r"chars: prepared with another tokenizer than the run's \(char"):
        groundup.resume(run, data=tmp_path / "chars")


def test_moved_data_is_found_at_the_given_path(reference, prepared, tmp_path):
    run, _ = copy_stopped_at(reference, tmp_path)
    shutil.copytree(prepared, tmp_path / "moved")
    groundup.resume(run, data=tmp_path / "moved")
    assert same_state(final(run), final(reference))


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("gpt2-nano", {"schedule": {"name": "wsd", "warmup_steps": 1}}),
        ("gpt2-nano", {"schedule": {"name": "onecycle", "warmup_steps": None}}),
        ("modern", {"schedule": {"warmup_fraction": 0.1}}),
        ("gpt2-nano", {"schedule": {"warmup_steps": 1}, "train": {"micro_batch_size": 1000}}),
    ],
    ids=["wsd", "onecycle", "muon", "large micro-batch"],
)
def test_a_repeated_command_changes_nothing(preset, overrides, prepared, tmp_path):
    small = {
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
        "train": {"max_steps": 3, "batch_tokens": 64, "device": "cpu", "threads": 1, **overrides.get("train", {})},
        "schedule": overrides["schedule"],
    }
    config = configure(prepared, preset=preset, overrides=small)
    lines = []
    start_or_resume(config, tmp_path / "run", PlainDisplay(lambda line: None))
    written = (tmp_path / "run" / "config.yaml").read_bytes()
    assert start_or_resume(config, tmp_path / "run", PlainDisplay(lines.append)).step == 3
    assert len(lines) == 1
    assert "finished at step 3" in lines[0]
    assert (tmp_path / "run" / "config.yaml").read_bytes() == written


@pytest.mark.parametrize("name", PREVIOUS)
def test_a_run_of_a_preset_that_has_another_shape_now_keeps_its_own(name, prepared, tmp_path):
    small = {
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
        "train": {"max_steps": 3, "batch_tokens": 64, "device": "cpu", "threads": 1},
    }
    shape = {key: value for key, value in PREVIOUS[name]["model"].items() if key not in small["model"]}
    before = configure(prepared, preset=name, overrides={**small, "model": {**small["model"], **shape}})
    start_or_resume(before, tmp_path / "run", PlainDisplay(lambda line: None), preset=name)
    written, longer = RunFolder(tmp_path / "run").config(), {**small, "train": {**small["train"], "max_steps": 5}}
    lines: list[str] = []
    again = configure(prepared, preset=name, overrides=longer)
    assert again.model.activation == "swiglu"
    assert start_or_resume(again, tmp_path / "run", PlainDisplay(lines.append), preset=name).step == 5
    assert f"keeps the shape that preset {name} had when it was started" in lines[0]
    assert RunFolder(tmp_path / "run").config().model == written.model
    other = configure(prepared, preset=name, overrides={**longer, "model": {**small["model"], "activation": "relu"}})
    with pytest.raises(groundup.ConfigError, match=r"model\.activation: cannot change"):
        start_or_resume(other, tmp_path / "run", PlainDisplay(lines.append), preset=name)


@pytest.mark.parametrize(
    "overrides", [{"model": {"n_layer": 3}}, {"optimizer": {"learning_rate": 1.0}}, {"train": {"seed": 1}}]
)
def test_keys_that_decide_the_result_cannot_change(overrides, reference, tmp_path):
    run, _ = copy_stopped_at(reference, tmp_path)
    with pytest.raises(groundup.ConfigError):
        groundup.resume(run, overrides=overrides)


def test_a_finished_run_is_not_continued_unless_its_run_length_grows(reference, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(reference, run, symlinks=True)
    assert groundup.resume(run).step == STEPS
    assert groundup.resume(run, overrides={"train": {"max_steps": STEPS + 5}}).step == STEPS + 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"ema_decay": 0.9}},
        {"optimizer": {"name": "sgd", "learning_rate": 0.05}, "schedule": {"name": "onecycle"}},
        pytest.param({"checkpoint": {"every_steps": 9, "async_save": False}}, marks=pytest.mark.long),
        {"train": {"activation_checkpointing": "full"}},
        {"train": {"threads": 2, "activation_checkpointing": "selective", **SIXTEEN}, "model": {"dropout": 0.0}},
    ],
    ids=["average", "sgd and onecycle", "synchronous", "recomputed", "windows shared by threads"],
)
def test_every_way_to_train_resumes_bitwise(changes, prepared, tmp_path, killed):
    overrides = shortened(**changes)
    groundup.train(prepared, tmp_path / "uninterrupted", overrides=overrides)
    config = RunFolder(tmp_path / "uninterrupted").config()
    assert config.train.microbatch_threads == (2 if SIXTEEN.items() <= changes.get("train", {}).items() else 1)
    killed("train", ("groundup.training.guard", "LossGuard.allows_step", 31), tmp_path / "run", prepared, overrides)
    groundup.resume(tmp_path / "run")
    assert same_state(final(tmp_path / "run", SHORT), final(tmp_path / "uninterrupted", SHORT))


@pytest.mark.slow
def test_a_lost_ema_changes_the_result(prepared, tmp_path):
    overrides = {**OVERRIDES, "optimizer": {**OVERRIDES["optimizer"], "ema_decay": 0.9}}
    groundup.train(prepared, tmp_path / "reference", overrides=overrides)
    run, checkpoint = copy_stopped_at(tmp_path / "reference", tmp_path)
    tensors = load_file(checkpoint / "average.safetensors")
    tensors["wte.weight"].zero_()
    save_file(tensors, checkpoint / "average.safetensors")
    reseal(checkpoint)
    groundup.resume(run)
    assert not same_state(final(run), final(tmp_path / "reference"))


@pytest.mark.slow
def test_early_stopping_ends_a_killed_run_at_the_same_step(prepared, tmp_path, killed):
    """Killed right after the checkpoint of the evaluation with which patience ends, or just before it."""
    overrides = {
        **OVERRIDES,
        "train": {**OVERRIDES["train"], "early_stopping_patience": 1},
        "optimizer": {"learning_rate": 0.5},  # so that losses rise
        "evaluate": {**OVERRIDES["evaluate"], "every_steps": 3},
        "checkpoint": {"every_steps": 3, "keep_last": 9},
    }
    groundup.train(prepared, tmp_path / "uninterrupted", overrides=overrides)
    end = RunFolder(tmp_path / "uninterrupted").steps()[-1]
    assert end.name < f"step-{STEPS:08d}", "patience ended it"
    saves = len(RunFolder(tmp_path / "uninterrupted").steps())
    for n in (saves - 1, saves):
        run = tmp_path / f"run{n}"
        killed("train", ("groundup.checkpoint.run_folder", "RunFolder.prune", n), run, prepared, overrides)
        groundup.resume(run)
        assert RunFolder(run).steps()[-1].name == end.name
        assert same_state(RunFolder(run).steps()[-1], end)


def test_a_checkpoint_that_cannot_be_read_ends_a_resume_and_nothing_is_deleted(reference, tmp_path, monkeypatch):
    run, checkpoint = copy_stopped_at(reference, tmp_path)

    def unreadable(path):
        if path.is_relative_to(checkpoint) and path.name == "model.safetensors":
            raise OSError(5, "Input/output error", str(path))
        return sha256(path)

    before = sorted({*run.rglob("*"), run / ".lock"})
    with monkeypatch.context() as patch:
        patch.setattr("groundup.checkpoint.files.sha256", unreadable)
        with pytest.raises(
            UnreadableError, match=r"model\.safetensors: cannot be read \(Input/output error\); nothing"
        ):
            groundup.resume(run)
    assert sorted(run.rglob("*")) == before
    groundup.resume(run)
    assert same_state(final(run), final(reference))


def test_a_rejected_checkpoint_is_kept_aside_and_never_deleted(reference, tmp_path):
    run, checkpoint = copy_stopped_at(reference, tmp_path)
    damaged = checkpoint / "model.safetensors"
    damaged.write_bytes(b"damaged")
    lines = []
    groundup.resume(run, display=PlainDisplay(lines.append))
    aside = checkpoint.with_name(".step-00000054.rejected")
    assert any(f"{damaged}: damaged" in line and f"kept as {aside}" in line for line in lines)
    assert (aside / damaged.name).read_bytes() == b"damaged"
    shutil.rmtree(final(run))
    damaged.write_bytes(b"damaged again")  # the same step once more
    groundup.resume(run)
    kept = sorted(RunFolder(run).checkpoints.glob(".*"))
    assert [path.name for path in kept] == [".step-00000054.rejected", ".step-00000054.rejected1"]
    assert [(path / damaged.name).read_bytes() for path in kept] == [b"damaged", b"damaged again"]
    assert any(
        "rejected and kept by resume" in note and ".step-00000054.rejected1" in note for note in check_run(run).notes
    )


def test_a_run_whose_checkpoints_are_gone_is_not_started_again(reference, tmp_path):
    """The disk that holds them may not be mounted."""
    run = tmp_path / "run"
    shutil.copytree(reference, run, symlinks=True)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(groundup.CheckpointError, match="holds no checkpoint, though one of step 60 was saved; mount"):
        groundup.resume(run)
    assert not (run / "checkpoints").exists()


def test_a_checkpoint_that_was_being_replaced_is_put_back(reference, tmp_path):
    run, checkpoint = copy_stopped_at(reference, tmp_path)
    for older in RunFolder(run).steps()[:-1]:
        shutil.rmtree(older)
    replaced = checkpoint.rename(checkpoint.with_name(".step-00000054.previous"))
    assert find_checkpoint(run) == replaced
    report = check_run(run)
    assert (report.ok, report.resume_from) == (True, checkpoint.name)
    assert f"checkpoints: {replaced.name} was being replaced at a crash; resume puts it back" in report.notes
    assert not any("tidies" in note or "starts again" in note for note in report.notes)
    groundup.resume(run)
    assert same_state(final(run), final(reference))


class Unlike(ProcessGroup):
    """Two processes; in the n-th comparison the second one has another value."""

    size = 2

    def __init__(self, n):
        self.left = n

    def all_gather_object(self, value):
        self.left -= 1
        return [value, ["far", "other"] if self.left == 0 else value]


@pytest.mark.parametrize(
    ("n", "what"), [(1, "groundup and torch are"), (2, "options unlike rank 0's"), (3, "the data in")]
)
def test_versions_options_and_data_that_differ_between_processes_are_refused(n, what, prepared):
    data = PreparedData.open(prepared)
    check_ranks_agree(Unlike(9), Config(data=str(prepared)), data)
    with pytest.raises(groundup.GroundupError, match=f"process 1 on far: {what}.* other, but "):
        check_ranks_agree(Unlike(n), Config(data=str(prepared)), data)


def test_processes_are_compared_before_a_run_starts_and_on_resume(reference, prepared, tmp_path, monkeypatch):
    def differ(*_):
        raise groundup.GroundupError("unlike")

    monkeypatch.setattr("groundup.run.start.check_ranks_agree", differ)
    with pytest.raises(groundup.GroundupError, match="unlike"):
        groundup.train(prepared, tmp_path / "new", overrides=OVERRIDES)
    with pytest.raises(groundup.GroundupError, match="unlike"):
        groundup.resume(copy_stopped_at(reference, tmp_path)[0])


def test_data_that_has_moved_is_asked_for_by_the_option(reference, tmp_path):
    run, _ = copy_stopped_at(reference, tmp_path)
    with pytest.raises(
        groundup.DataError, match="there is no such folder; give the path of the run's data with data=DIR"
    ):
        groundup.resume(run, data=tmp_path / "gone")


@pytest.mark.slow
def test_fp16_resumes_bitwise_with_its_scale_after_a_skipped_step(prepared, tmp_path, killed):
    """Two tokens per step: their gradients are so large that the first scale overflows."""
    overrides = {
        **OVERRIDES,
        "model": {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 2, "dropout": 0.1},
        "train": {"micro_batch_size": 1, **OVERRIDES["train"], "precision": "fp16", "batch_tokens": 2},
        "evaluate": {"every_steps": 0, "tokens": 20, "sample_tokens": 2},
    }
    groundup.train(prepared, tmp_path / "uninterrupted", overrides=overrides)
    skipped = [r["step"] for r in read_log(tmp_path / "uninterrupted" / "log.jsonl") if r["event"] == "skip"]
    assert skipped
    assert skipped[0] < 30
    killed("train", ("groundup.training.guard", "LossGuard.allows_step", 40), tmp_path / "run", prepared, overrides)
    shutil.copytree(tmp_path / "run", tmp_path / "tampered", symlinks=True)
    groundup.resume(tmp_path / "run")
    assert same_state(final(tmp_path / "run"), final(tmp_path / "uninterrupted"))

    checkpoint = RunFolder(tmp_path / "tampered").steps()[-1]  # negative control: the scale is lost
    change_progress(scaler={})(checkpoint)
    reseal(checkpoint)
    groundup.resume(tmp_path / "tampered")
    assert not same_state(final(tmp_path / "tampered"), final(tmp_path / "uninterrupted"))
