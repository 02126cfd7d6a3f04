"""Checks of a run: every kind of damage is found and named; a healthy run has none and is not changed."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import groundup
from groundup.checkpoint import files
from groundup.checkpoint.run_folder import RunFolder
from groundup.diagnostics.run_checks import check_lone_checkpoint, check_run
from groundup.errors import DataError
from groundup.ui.display import PlainDisplay
from groundup.utils.files import SUMS, sha256
from groundup.utils.lock import locked

OVERRIDES = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
    "train": {"max_steps": 12, "batch_tokens": 256, "threads": 1, "precision": "fp32", "device": "cpu"},
    "evaluate": {"every_steps": 6, "tokens": 200, "sample_tokens": 4},
    "checkpoint": {"every_steps": 3, "keep_last": 3},
}
FILES = [
    "config.json",
    "progress.json",
    "model.safetensors",
    "optimizer/state.safetensors",
    "tokenizer/groundup-tokenizer.json",
    SUMS,
]
LAST = "step-00000012"


@pytest.fixture(scope="module")
def healthy(prepared, tmp_path_factory) -> Path:
    """A finished run with three checkpoints."""
    folder = tmp_path_factory.mktemp("fsck") / "run"
    groundup.train(prepared, folder, overrides=OVERRIDES)
    return folder


@pytest.fixture
def run(healthy, tmp_path) -> Path:
    """A copy to be damaged."""
    shutil.copytree(healthy, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def reseal(checkpoint: Path) -> None:
    """Recompute the checksums."""
    names = [line.partition("  ")[2] for line in (checkpoint / SUMS).read_text().splitlines()]
    (checkpoint / SUMS).write_text("".join(f"{sha256(checkpoint / name)}  {name}\n" for name in names))


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and modification time of every file."""
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_a_healthy_run_has_no_problems_and_is_not_changed(healthy):
    before = content(healthy)
    found = check_run(healthy)
    assert found.ok
    assert not found.problems + found.notes
    assert [(c.name, c.problems) for c in found.checkpoints] == [(f"step-{n:08d}", ()) for n in (6, 9, 12)]
    assert found.resume_from == LAST
    assert found.command == f"groundup resume {healthy}"
    assert content(healthy) == before


def test_the_list_of_files_is_that_of_a_checkpoint(healthy):
    checkpoint = healthy / "checkpoints" / LAST
    assert sorted(p.relative_to(checkpoint).as_posix() for p in checkpoint.rglob("*") if p.is_file()) == sorted(FILES)


@pytest.mark.parametrize(
    "damage", ["flip the first", "flip the middle", "flip the last", "truncate", "empty", "delete"]
)
@pytest.mark.parametrize("name", FILES)
def test_damage_to_any_file_is_found_and_named(damage, name, run):
    path = run / "checkpoints" / LAST / name
    data = bytearray(path.read_bytes())
    place = {"flip the first": 0, "flip the middle": len(data) // 2, "flip the last": -1}.get(damage)
    if damage == "delete":
        path.unlink()
    elif place is None:
        path.write_bytes(data[: len(data) // 2] if damage == "truncate" else b"")
    else:
        data[place] ^= 1
        path.write_bytes(data)
    found = check_run(run)
    assert not found.ok
    *others, last = found.checkpoints
    assert all(checkpoint.ok for checkpoint in others)
    assert any(name in problem for problem in last.problems)
    assert found.resume_from == "step-00000009"
    assert found.command == f"groundup resume {run}"


def test_every_damaged_file_is_named_not_the_first_alone(run):
    checkpoint = run / "checkpoints" / LAST
    (checkpoint / "config.json").unlink()
    (checkpoint / "model.safetensors").write_bytes(b"x")
    (checkpoint / "stranger").write_text("x")
    problems = " ".join(check_run(run).checkpoints[-1].problems)
    assert all(name in problems for name in ("config.json", "model.safetensors", "stranger"))


def spoil_tensor(name: str, change) -> object:
    def corrupt(checkpoint: Path) -> None:
        tensors = load_file(checkpoint / name)
        change(tensors)
        save_file(tensors, checkpoint / name)

    return corrupt


def spoil_json(name: str, **values) -> object:
    def corrupt(checkpoint: Path) -> None:
        path = checkpoint / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return corrupt


def nan(key: str) -> object:
    def change(tensors: dict) -> None:
        tensors[key].view(-1)[1] = float("nan")

    return change


MODEL, MOMENTS = "model.safetensors", "optimizer/state.safetensors"
WRONG = {
    "a weight that is NaN": (spoil_tensor(MODEL, nan("ln_f.weight")), "ln_f.weight has 1 numbers that are not finite"),
    "a moment that is NaN": (spoil_tensor(MOMENTS, nan("ln_f.weight|exp_avg")), "exp_avg has 1 numbers"),
    "a weight missing": (spoil_tensor(MODEL, lambda t: t.pop("ln_f.bias")), "ln_f.bias of the model missing"),
    "a foreign weight": (spoil_tensor(MODEL, lambda t: t.update(x=torch.ones(2))), "x belongs to no parameter"),
    "a misshapen weight": (spoil_tensor(MODEL, lambda t: t.update({"ln_f.bias": torch.ones(3)})), "ln_f.bias is [3]"),
    "a misshapen moment": (
        spoil_tensor(MOMENTS, lambda t: t.update({"ln_f.bias|exp_avg": torch.ones(3)})),
        "ln_f.bias|exp_avg is [3]",
    ),
    "no tensors": (lambda c: (c / MODEL).write_bytes(b"x" * 100), "cannot be read as tensors"),
    "another step": (spoil_json("progress.json", step=11), "is of step 11, but the folder is step-00000012"),
    "a negative cursor": (spoil_json("progress.json", cursor=-1), "cursor is -1"),
    "an endless time": (spoil_json("progress.json", elapsed=float("inf")), "elapsed is inf"),
    "no format": (spoil_json("config.json", format=None), "config.json: damaged (its format is None, not 2 or less)"),
    "no fingerprint": (spoil_json("progress.json", data=None), "progress.json: damaged (data is None"),
    "no JSON": (lambda c: (c / "progress.json").write_text("{"), "progress.json: damaged"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_contents_with_right_checksums_are_found(kind, run):
    checkpoint = run / "checkpoints" / LAST
    corrupt, expected = WRONG[kind]
    corrupt(checkpoint)
    reseal(checkpoint)
    found = check_run(run)
    assert any(expected in problem for problem in found.checkpoints[-1].problems)
    assert found.resume_from == "step-00000009"
    assert found.command == f"rm -r -- {checkpoint} && groundup resume {run}"  # resume would refuse it


@pytest.mark.parametrize("name", [MODEL, MOMENTS, "average.safetensors"])
def test_a_file_missing_from_the_checksums_too_is_found(name, run):
    checkpoint = run / "checkpoints" / LAST
    if name == "average.safetensors":
        config = json.loads((checkpoint / "config.json").read_text())
        spoil_json("config.json", optimizer=config["optimizer"] | {"ema_decay": 0.9})(checkpoint)
    else:
        (checkpoint / name).unlink()
    present = [line.split("  ")[1] for line in (checkpoint / SUMS).read_text().splitlines()]
    there = [file for file in present if (checkpoint / file).exists()]
    (checkpoint / SUMS).write_text("".join(f"{sha256(checkpoint / file)}  {file}\n" for file in there))
    found = check_run(run)
    assert found.checkpoints[-1].problems[0] == f"{name}: missing, though {SUMS} does not list it"
    assert found.resume_from == "step-00000009"


def newer(checkpoint: Path) -> None:
    """Mark the checkpoint as one that only a later version can read."""
    spoil_json("config.json", format=99, model={"what": "later"})(checkpoint)
    reseal(checkpoint)


def test_a_checkpoint_of_a_newer_groundup_is_not_damaged_and_is_never_deleted(run, command):
    newer(run / "checkpoints" / LAST)
    found = check_run(run)
    assert not found.ok
    assert found.update
    assert found.command is None
    status, out, _ = command("fsck", run)
    assert status == 1
    assert f"✗ checkpoint  {LAST}: config.json: of format 99, which a newer groundup wrote" in out
    assert "damaged" not in out
    assert "rm " not in out
    assert out.endswith("→ update groundup\n\n1 problem and 1 warning\n")
    assert json.loads(command("fsck", run, "--json")[1])["update"]


def test_resume_refuses_a_checkpoint_of_a_newer_groundup_and_touches_nothing(run, command):
    newer(run / "checkpoints" / LAST)
    before = content(run)
    status, _, err = command("resume", run, "--train.max_steps", 20)
    assert status == 2
    assert err.splitlines()[-1].endswith("which a newer groundup wrote (this one reads up to 2); update groundup")
    (lock,) = {name for name, value in content(run).items() if value != before[name]}
    assert lock.endswith("/.lock")


def test_the_command_to_resume_is_quoted_for_the_shell(run, tmp_path, prepared):
    odd = tmp_path / "my run; rm x"
    run.rename(odd)
    spoil_json("progress.json", step=11)(odd / "checkpoints" / LAST)
    reseal(odd / "checkpoints" / LAST)
    shutil.copytree(prepared, tmp_path / "my data")
    line = check_run(odd, tmp_path / "my data").command
    remove, _, resume = line.partition(" && ")
    assert shlex.split(remove) == ["rm", "-r", "--", str(odd / "checkpoints" / LAST)]
    assert shlex.split(resume) == ["groundup", "resume", str(odd), "--data", str(tmp_path / "my data")]


def test_nothing_is_hashed_twice(run, monkeypatch):
    (run / "checkpoints" / LAST / "config.json").write_text("{}")
    hashed = []
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path) or sha256(path))
    check_run(run)
    assert len(hashed) == len(set(hashed)) == 3 * (len(FILES) - 1)


def with_parents(run: Path) -> None:
    """Record in each checkpoint its parent."""
    parent = None
    for folder in RunFolder(run).steps():
        spoil_json("progress.json", parent=parent)(folder)
        reseal(folder)
        parent = {"step": int(folder.name[5:]), "sha256": sha256(folder / SUMS)}


def test_a_replaced_parent_checkpoint_is_found(run):
    with_parents(run)
    assert check_run(run).ok
    middle = run / "checkpoints" / "step-00000009"
    spoil_json("progress.json", elapsed=1.5)(middle)
    reseal(middle)
    (problem,) = check_run(run).problems
    assert "step-00000009" in problem
    assert "step-00000012 continued from" in problem
    shutil.rmtree(middle)
    assert check_run(run).ok  # a missing parent is no evidence


def test_damaged_checksums_are_told_apart_from_a_replaced_parent(run):
    with_parents(run)
    sums = run / "checkpoints" / "step-00000009" / SUMS
    data = bytearray(sums.read_bytes())
    data[3] ^= 1
    sums.write_bytes(data)
    (_, middle, _) = check_run(run).checkpoints
    assert middle.problems[0] == f"{SUMS}: not the file that step-00000012 continued from"


@pytest.mark.parametrize(("text", "what"), [("model: [", "no YAML"), ("", "cut short")])
def test_a_lost_config_is_named_with_what_resume_does(text, what, run):
    (run / "config.yaml").write_text(text)
    found = check_run(run)
    assert found.problems == (f"config.yaml: {what}; resume rebuilds it from {LAST}",)
    assert found.command == f"groundup resume {run}"


def test_a_mistake_in_the_config_is_named_and_nothing_is_proposed(run):
    path = run / "config.yaml"
    path.write_text(path.read_text() + "nonsense: 1\n")
    found = check_run(run)
    assert any("nonsense: unknown key" in problem for problem in found.problems)
    assert found.command is None


def test_a_checkpoint_that_cannot_be_read_is_not_proposed_for_deletion(run, monkeypatch):
    def fail(path):
        if path.parts[-2:] == (LAST, MODEL):
            raise OSError(5, "Input/output error", str(path))
        return sha256(path)

    monkeypatch.setattr("groundup.checkpoint.files.sha256", fail)
    found = check_run(run)
    assert found.checkpoints[-1].problems == (f"{MODEL}: cannot be read (Input/output error)",)
    assert (found.command, found.ok) == (None, False)


@pytest.mark.parametrize("where", ["damage", "_wrong_contents", "_check_disk"])
def test_checkpoints_that_training_deletes_meanwhile_are_never_missed(where, run, monkeypatch):
    """Whenever the newest is deleted, another is there."""
    from groundup.diagnostics import run_checks

    original, folder, step = getattr(run_checks, where), run / "checkpoints", [int(LAST[5:])]

    def race(argument, *rest):
        if step[0] < int(LAST[5:]) + 3:
            old, step[0] = folder / f"step-{step[0]:08d}", step[0] + 1
            shutil.copytree(old, folder / f"step-{step[0]:08d}")
            shutil.rmtree(old)
        return original(argument, *rest)

    for older in RunFolder(run).steps()[:-1]:
        shutil.rmtree(older)
    monkeypatch.setattr(run_checks, where, race)
    found = check_run(run)
    assert [checkpoint.name for checkpoint in found.checkpoints] == [f"step-{int(LAST[5:]) + 3:08d}"]
    assert not any("missing" in problem for problem in (*found.problems, *found.checkpoints[0].problems))
    assert not any("no checkpoint yet" in note for note in found.notes)


def test_a_config_that_differs_from_the_checkpoints_is_found(run):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("n_layer: 1", "n_layer: 3"))
    assert any("model.n_layer" in problem for problem in check_run(run).problems)


@pytest.mark.parametrize("name", ["log.jsonl", "environment.json", "config.yaml"])
def test_a_missing_file_of_the_run_is_named(name, run):
    (run / name).unlink()
    assert any(name in problem for problem in check_run(run).problems)


def test_a_damaged_environment_is_named(run):
    (run / "environment.json").write_text("[" * 100_000)
    assert check_run(run).problems == ("environment.json: missing or damaged; ignore it: training does not need it",)


@pytest.mark.parametrize("name", ["log.jsonl", ".lock"])
def test_a_link_that_resume_refuses_is_named(name, run):
    (run / name).rename(run / "elsewhere")
    (run / name).symlink_to("elsewhere")
    assert check_run(run).problems == (f"{name}: a link, which is not followed; remove it, or resume refuses the run",)
    with pytest.raises(groundup.GroundupError, match=f"{re.escape(name)}: is a link, which is not followed; remove it"):
        groundup.resume(run, overrides={"train": {"max_steps": 13}})


def test_leftovers_of_a_crash_are_notes_not_problems(run):
    log = run / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines, lines[-1][:9], *lines[4:]]) + '\n{"event": "st')  # torn, rolled back, torn
    (run / "checkpoints" / ".step-00000015.partial").mkdir()
    (run / "latest").unlink()
    (run / "latest").symlink_to("checkpoints/step-00000099")
    found = check_run(run)
    assert found.ok
    assert all(any(word in note for note in found.notes) for word in ("2 lines", ".step-00000015.partial", "latest"))


def test_missing_steps_in_the_log_are_noted(run):
    log = run / "log.jsonl"
    lines = [line for line in log.read_text().splitlines() if '"step": 5,' not in line]
    log.write_text("\n".join(lines) + "\n")
    assert check_run(run).notes == ("log.jsonl: 1 step missing: not logged, or lost with a cut line",)


def test_a_disk_too_full_for_a_checkpoint_is_noted(run, monkeypatch):
    monkeypatch.setattr(
        "groundup.diagnostics.run_checks.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0)
    )
    (note,) = check_run(run).notes
    assert re.fullmatch(r"disk: 0 B free, but a checkpoint takes [\d.]+ kB; make room first", note)


def test_moved_changed_or_truncated_data_is_found(run, prepared, tmp_path):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(prepared), str(tmp_path / "gone")))
    (note,) = check_run(run).notes
    assert note == f"{tmp_path / 'gone'}: there is no such folder; give the path of the run's data with --data DIR"
    assert check_run(run).ok
    with pytest.raises(DataError, match="no such folder"):
        check_run(run, tmp_path / "nowhere")
    assert check_run(run, prepared).ok
    assert check_run(run, prepared).command.endswith(f" --data {prepared}")
    shutil.copytree(prepared, tmp_path / "gone")
    assert check_run(run).ok
    shard = tmp_path / "gone" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    assert any("train-00000.bin" in problem for problem in check_run(run).problems)
    (tmp_path / "text.txt").write_text("Something else.\n" * 90)
    groundup.prepare(tmp_path / "text.txt", tmp_path / "other", tokenizer="byte")
    assert any("not the data" in problem for problem in check_run(run, tmp_path / "other").problems)


def test_a_relative_data_path_that_is_missing_names_the_current_folder(run, prepared, tmp_path, monkeypatch):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(prepared), prepared.name))
    monkeypatch.chdir(tmp_path)
    found = check_run(run)
    assert found.ok
    assert found.notes[0].startswith(f"{prepared.name}: there is no such folder below {tmp_path}, the current folder")
    monkeypatch.chdir(prepared.parent)
    assert not check_run(run).notes


def test_a_run_in_use_is_noted_and_its_partial_checkpoint_is_not(run):
    (run / "checkpoints" / ".step-00000015.partial").mkdir()
    with locked(run, "training this run"):
        found = check_run(run)
    assert found.ok
    assert [note.partition("process")[0] for note in found.notes] == ["in use right now by "]


def test_a_run_without_checkpoints_is_ok_unless_its_log_says_that_there_was_one(run):
    shutil.rmtree(run / "checkpoints")
    for name in ("latest", "best"):
        (run / name).unlink(missing_ok=True)
    found = check_run(run)
    assert (found.command, found.notes) == (None, ())
    assert re.match(r"checkpoints: holds no checkpoint, though one of step \d+ was saved; mount it", found.problems[0])
    (run / "log.jsonl").write_text("")
    found = check_run(run)
    assert found.ok
    assert found.notes == ("no checkpoint yet: resume starts again, with the same weights",)


def test_fsck_prints_a_line_per_checkpoint_and_how_to_resume(run, command):
    status, out, _ = command("fsck", run)
    assert status == 0
    assert out.splitlines() == [
        str(run), "✓ checkpoint  step-00000006", "✓ checkpoint  step-00000009", f"✓ checkpoint  {LAST}",
        f"✓ resume      finished; `groundup resume {run} --train.max_steps 24` makes it longer, from {LAST}", "",
        "no problems found",
    ]  # fmt: skip
    (run / "checkpoints" / LAST / MODEL).unlink()
    status, out, _ = command("fsck", run)
    assert status == 1
    assert f"✗ checkpoint  {LAST}: model.safetensors: missing\n" in out
    assert "resumes from step-00000009\n" in out
    for folder in RunFolder(run).steps():
        (folder / SUMS).unlink()
    status, out, _ = command("fsck", run)
    assert status == 1
    assert "✗ resume      no checkpoint is complete\n              → start a new run\n" in out


@pytest.mark.parametrize(
    ("train", "step", "option"),
    [
        ({"max_tokens": 1500}, 6, "--train.max_steps 12"),
        ({"epochs": 0.05}, 5, "--train.max_steps 10"),
        ({"max_steps": None, "max_time": 1e-5}, 1, "--train.max_time 1"),
        ({"max_steps": 12, "time_limit": 1e-5}, 1, "--train.time_limit 1"),
        ({"max_steps": 50, "early_stopping_patience": 1}, 24, "--train.early_stopping_patience 2"),
    ],
    ids=["tokens", "epochs", "time", "time limit", "patience"],
)
def test_fsck_knows_that_a_run_of_any_length_has_ended(train, step, option, prepared, tmp_path):
    """As `groundup resume` does, which names the same option."""
    changes = {"train": {"max_steps": None} | train, "evaluate": {"every_steps": 12}}
    changes["optimizer"] = {"learning_rate": 1e-12}  # no evaluation is better than the first
    overrides = {key: OVERRIDES.get(key, {}) | changes.get(key, {}) for key in OVERRIDES | changes}
    folder = tmp_path / "run"
    assert groundup.train(prepared, folder, overrides=overrides).step == step
    found = check_run(folder)
    assert found.longer == option
    lines = []
    groundup.resume(folder, display=PlainDisplay(lines.append))
    assert lines == [f"{folder}: finished at step {step}; a larger {option.split()[0]} continues it"]
    groundup.resume(folder, overrides=dict([option.removeprefix("--").split()]))
    assert RunFolder(folder).steps()[-1].name > f"step-{step:08d}"


def test_json_of_fsck_is_one_object(run, command):
    (run / "checkpoints" / LAST / SUMS).write_text("")
    status, out, _ = command("fsck", run, "--json")
    values = json.loads(out)
    assert status == 1
    assert not values["ok"]
    assert [checkpoint["ok"] for checkpoint in values["checkpoints"]] == [True, True, False]
    assert values["resume_from"] == "step-00000009"


def test_fsck_without_a_run_exits_with_2(tmp_path, command):
    status, _, err = command("fsck", tmp_path)
    assert status == 2
    assert "holds no run" in err


def test_doctor_finds_in_a_run_what_fsck_finds(run, command, monkeypatch):
    monkeypatch.setattr("groundup.cli.doctor.machine_findings", lambda folder: iter(()))
    (run / "checkpoints" / LAST / MODEL).unlink()
    assert command("doctor", run) == command("fsck", run)
    status, out, _ = command("doctor", run, "--json")
    findings = json.loads(out)["findings"]
    assert status == 1
    assert [finding["status"] for finding in findings] == ["ok", "ok", "problem", "ok"]
    assert findings[-1]["values"] == json.loads(command("fsck", run, "--json")[1])


def test_a_lone_checkpoint_is_checked_by_its_checksums(run):
    assert check_lone_checkpoint(run / "checkpoints" / LAST).status == "ok"
    newer(run / "checkpoints" / LAST)
    assert check_lone_checkpoint(run / "checkpoints" / LAST).remedy == "update groundup"
    (run / "checkpoints" / LAST / MODEL).unlink()
    assert "model.safetensors: missing" in check_lone_checkpoint(run / "checkpoints" / LAST).sentence


def test_a_changed_key_that_may_change_on_resume_is_no_problem(run):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("every_steps: 3", "every_steps: 4").replace("threads: 1", "threads: 2"))
    assert check_run(run).ok
    path.write_text(path.read_text().replace("seed: 1337", "seed: 1"))
    (found,) = check_run(run).problems
    assert found.startswith(f"config.yaml: train.seed is 1, not 1337, as {LAST} was trained with; put that back")
