"""What a run notes about where it was started."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from groundup.checkpoint import run_folder
from groundup.errors import CheckpointError


def git(*words, cwd):
    return subprocess.run(["git", *map(str, words)], cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """Make a git repository with one commit."""

    def make(path: Path) -> Path:
        path.mkdir(parents=True)
        git("init", "-q", cwd=path)
        (path / "file").write_text(path.name)
        git("add", "file", cwd=path)
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", cwd=path)
        return path

    return make


@pytest.mark.parametrize("way", ["monitor of files", "filter", "fetch of a missing object"])
def test_starting_a_run_executes_nothing_that_the_current_folder_names(way, repository, tmp_path, monkeypatch):
    here, marker = repository(tmp_path / "here"), tmp_path / "marker"
    command = tmp_path / "command"
    command.write_text(f"#!/bin/sh\ntouch {marker}\n")
    command.chmod(0o700)
    if way == "monitor of files":
        git("config", "core.fsmonitor", command, cwd=here)
    elif way == "filter":
        (here / ".git/info/attributes").write_text("* filter=any\n")
        git("config", "filter.any.clean", command, cwd=here)
        os.utime(here / "file", (1, 1))  # to be compared again
    else:
        other = repository(tmp_path / "other")
        branch = git("symbolic-ref", "HEAD", cwd=here)
        (here / ".git" / branch).write_text(git("rev-parse", "HEAD", cwd=other) + "\n")
        for key, value in (
            ("core.repositoryformatversion", 1), ("extensions.partialClone", "o"),
            ("remote.o.url", other), ("remote.o.promisor", "true"), ("remote.o.uploadpack", command),
        ):  # fmt: skip
            git("config", key, value, cwd=here)
    subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, check=False)
    if not marker.exists():
        pytest.skip("this version of git does not start it either")
    marker.unlink()
    monkeypatch.chdir(here)
    run_folder.environment()
    assert not marker.exists()


def test_the_commit_is_that_of_the_code_and_says_whether_it_was_edited(repository, tmp_path, monkeypatch):
    checkout = repository(tmp_path / "checkout")
    module = checkout / "src/groundup/checkpoint/run_folder.py"
    monkeypatch.setattr(run_folder, "__file__", str(module))
    assert re.fullmatch("[0-9a-f]{12}", run_folder.environment()["git"])
    (checkout / "file").write_text("y")
    assert run_folder.environment()["git"].endswith("-dirty")


def test_a_package_installed_within_another_repository_has_no_commit(repository, tmp_path, monkeypatch):
    package = repository(tmp_path / "theirs") / "lib/python3/site-packages/groundup"
    package.mkdir(parents=True)
    monkeypatch.setattr(run_folder, "__file__", str(package / "checkpoint/run_folder.py"))
    monkeypatch.chdir(tmp_path / "theirs")
    assert run_folder.environment()["git"] is None


def test_a_file_in_the_place_of_a_checkpoint_is_refused_before_training_would_fail_to_save_it(tmp_path):
    run = run_folder.RunFolder(tmp_path)
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "step-00000007").write_text("a file")
    with pytest.raises(CheckpointError, match="step-00000007: is no folder, and in the place of a checkpoint; move"):
        run.steps()


def test_only_folders_with_a_written_number_are_checkpoints(tmp_path):
    run = run_folder.RunFolder(tmp_path)
    for name in ("step-00000012", "step-2", "step-²", "step-٣", "step-", "step--1", "step-1.5", "step-" + "9" * 200):
        (run.checkpoints / name).mkdir(parents=True)
    assert [path.name for path in run.steps()] == ["step-2", "step-00000012"]
    with pytest.raises(CheckpointError, match="no checkpoint 'step-²'"):
        run_folder.find_checkpoint(tmp_path, "step-²")
