"""A run's folder: nothing is deleted because it cannot be read, and no link that others put there is followed."""

import errno
import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from groundup.checkpoint.files import verify
from groundup.checkpoint.log import Log, last_saved
from groundup.checkpoint.run_folder import RunFolder, find_checkpoint, read_checkpoint, run_of
from groundup.config.schema import Config
from groundup.errors import CheckpointError, UnreadableError, UsageError
from groundup.utils import files
from groundup.utils.files import SUMS, atomic_output, files_below, replace_text, write_checksums
from groundup.utils.lock import LOCK, holder, locked

ERRORS = [errno.EACCES, errno.EIO, errno.ESTALE]


def write_checkpoint(folder: Path, best: int = 0) -> Path:
    with atomic_output(folder) as partial:
        metadata = {"step": int(folder.name[5:]), "tokens": 0, "cursor": 0, "elapsed": 0.0, "dt": 0.0}
        (partial / "progress.json").write_text(json.dumps(metadata | {"best": {"loss": 1.0, "step": best}}))
        (partial / "optimizer").mkdir()
        (partial / "optimizer" / "state.safetensors").write_bytes(b"moments")
        write_checksums(partial)
    return folder


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints 4, 8 and 12; the last is the best."""
    folder = RunFolder(tmp_path / "run")
    folder.create(Config())
    for step in (4, 8, 12):
        write_checkpoint(folder.checkpoint(step), best=12)
    return folder


def tree(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def failing(monkeypatch):
    """Let opening or listing one path fail with an error; the tests run as root, whom no permission stops."""

    def fail(path: Path, number: int) -> None:
        error = OSError(number, os.strerror(number), str(path))
        for module, name in ((os, "open"), (io, "open"), (os, "scandir"), (os, "listdir")):
            original = getattr(module, name)

            def call(target, *args, original=original, **kwargs):
                if target in (path, str(path)):
                    raise error
                return original(target, *args, **kwargs)

            monkeypatch.setattr(module, name, call)

    return fail


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", [SUMS, "progress.json", "optimizer", "optimizer/state.safetensors", "", ".."], ids=str)
def test_what_cannot_be_read_is_never_rejected_and_never_deleted(name, number, run, failing, monkeypatch):
    place, before = Path(os.path.normpath(run.checkpoint(12) / name)), tree(run.path)
    failing(place, number)
    with pytest.raises(UnreadableError, match=re.escape(f"{place}: cannot be read ({os.strerror(number)}); nothing")):
        run.newest_good()
    monkeypatch.undo()
    assert tree(run.path) == before


def test_a_config_that_cannot_be_read_is_never_said_to_be_removed(run, failing):
    failing(run.path / "config.yaml", errno.EACCES)
    with pytest.raises(
        UnreadableError, match=r"config\.yaml: cannot be read \(Permission denied\); nothing was changed"
    ):
        run.config()


def test_damage_is_rejected_and_kept_aside(run):
    (run.checkpoint(12) / "progress.json").unlink()
    newest, rejected = run.newest_good()
    assert (newest, list(rejected)) == (run.checkpoint(8), [run.checkpoint(12)])
    for leftover in (".step-00000016.77.partial", ".step-00000004.deleted"):
        (run.checkpoints / leftover).mkdir()
    (line,) = run.go_back_to(newest, rejected)
    assert line.endswith(f"kept as {run.checkpoints / '.step-00000012.rejected'}")
    assert "progress.json: missing" in line
    assert [path.name for path in run.steps()] == ["step-00000004", "step-00000008"]
    assert [path.name for path in run.checkpoints.glob(".*")] == [".step-00000012.rejected"]
    run.prune(1, set())
    assert (run.checkpoints / ".step-00000012.rejected" / SUMS).exists()


def test_pruning_deletes_nothing_while_it_cannot_be_read_which_one_was_the_best(run, failing):
    failing(run.checkpoint(12) / "progress.json", errno.EIO)
    run.prune(1, set())
    assert len(run.steps()) == 3


def test_what_cannot_be_deleted_now_is_deleted_later_and_ends_nothing(run, monkeypatch):
    """As a file that another machine reads over NFS."""
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
        for _ in range(2):
            run.prune(1, set())
            write_checkpoint(run.checkpoint(8))
    assert len(list(run.checkpoints.glob(".step-00000008.deleted*"))) == 2
    run.prune(1, set())
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000012"]


def test_a_checkpoint_that_was_being_replaced_is_read_under_its_hidden_name(run):
    replaced = run.checkpoint(12).rename(run.checkpoints / ".step-00000012.previous")
    for folder in (replaced, run.checkpoint(12)):
        assert find_checkpoint(run.path) == folder
        assert run.newest_good() == (folder, {})
        run.restore_replaced()
    shutil.copytree(run.checkpoint(12), replaced)
    assert len(run.steps()) == 3


def test_links_to_checkpoints_that_are_gone_are_removed(run):
    for name in ("latest", "best"):
        run.set_link(name, run.checkpoint(12))
    run.go_back_to(run.checkpoint(12), {})
    assert (run.path / "latest").exists()
    run.go_back_to(run.checkpoint(8), {})
    assert not [name for name in ("latest", "best") if (run.path / name).is_symlink()]


def test_the_log_says_which_checkpoint_should_be_there(tmp_path):
    assert last_saved(tmp_path / "log.jsonl") is None
    log = Log(tmp_path / "log.jsonl")
    for event, step in (("save", 4), ("save", 8), ("rollback", 4), ("step", 9), ("save", 6)):
        log.write(event, step=step)
    assert last_saved(tmp_path / "log.jsonl") == 6
    log.write("rollback", step=0)
    log.close()
    assert last_saved(tmp_path / "log.jsonl") is None


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_a_log_that_cannot_be_read_is_not_taken_for_an_empty_one(number, run, failing):
    run.log.write_text('{"event": "save", "step": 12}\n')
    failing(run.log, number)
    with pytest.raises(UnreadableError, match=r"log\.jsonl: cannot be read"):
        last_saved(run.log)


# Links that a run's folder from others brings along. `outside` must never change.


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    write_checkpoint(folder / "step-00000099")
    (folder / ".step-00000099.partial").mkdir()
    (folder / "file").write_text("precious")
    before = tree(folder)
    yield folder
    assert tree(folder) == before


def test_a_lock_that_is_a_link_is_refused(run, outside):
    (run.path / LOCK).symlink_to(outside / "file")
    with pytest.raises(UsageError, match=r"\.lock: is a link, which is not followed; remove it"), locked(run.path, "x"):
        pass
    assert holder(run.path) is None


def test_a_lock_that_is_a_pipe_is_refused(run):
    os.mkfifo(run.path / LOCK)
    with pytest.raises(UsageError, match=r"\.lock: is no regular file"), locked(run.path, "x"):
        pass
    assert holder(run.path) is None


def test_a_log_that_is_a_link_is_refused(run, outside):
    run.log.symlink_to(outside / "file")
    with pytest.raises(CheckpointError, match=r"log\.jsonl: is a link, which is not followed; remove it"):
        Log(run.log)


@pytest.mark.parametrize("target", ["file", "step-00000099", "nothing"])
def test_the_place_of_a_partial_file_is_never_followed(target, run, outside):
    (run.path / ".config.yaml.partial").symlink_to(outside / target)
    replace_text(run.path / "config.yaml", "new")
    assert (run.path / "config.yaml").read_text() == "new"
    assert not (run.path / "config.yaml").is_symlink()
    assert not (outside / "nothing").exists()


def test_a_link_put_at_the_place_of_a_partial_file_just_after_it_was_cleared_is_not_followed(run, outside, monkeypatch):
    (run.path / ".config.yaml.partial").symlink_to(outside / "file")
    monkeypatch.setattr("groundup.utils.files.remove", lambda path: None)
    with pytest.raises(FileExistsError):
        replace_text(run.path / "config.yaml", "new")


def test_the_place_of_a_partial_folder_is_never_followed(run, outside):
    for pid in (os.getpid(), 999_999_999):
        (run.checkpoints / f".step-00000016.{pid}.partial").symlink_to(outside)
    (run.checkpoints / ".step-00000016.previous").symlink_to(outside / "step-00000099")
    write_checkpoint(run.checkpoint(16))
    assert not run.checkpoint(16).is_symlink()
    assert run.newest_good() == (run.checkpoint(16), {})


def test_leftovers_that_are_links_are_removed_and_not_followed(run, outside):
    for name in (".step-00000016.partial", ".step-00000012.deleted"):
        (run.checkpoints / name).symlink_to(outside)
    run.go_back_to(run.checkpoint(8), {})
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000004", "step-00000008"]


def test_a_link_is_not_put_back_as_a_checkpoint_that_was_being_replaced(run, outside):
    (run.checkpoints / ".step-00000016.previous").symlink_to(outside / "step-00000099")
    files.restore_previous(run.checkpoint(16))
    assert not os.path.lexists(run.checkpoint(16))
    with pytest.raises(CheckpointError, match=r"\.step-00000016\.previous: is a link, which is not followed"):
        run.steps()


def test_checkpoints_that_are_a_link_are_refused(run, outside):
    shutil.rmtree(run.checkpoints)
    (run.path / "checkpoints").symlink_to(outside)
    for use in (run.steps, run.newest_good, lambda: run.go_back_to(None, {}), lambda: find_checkpoint(run.path)):
        with pytest.raises(CheckpointError, match=r"checkpoints: is a link, which is not followed.*--checkpoints DIR"):
            use()


@pytest.mark.parametrize("target", ["step-00000099", "nothing"])
def test_a_checkpoint_that_is_a_link_is_refused(target, run, outside):
    run.checkpoint(16).symlink_to(outside / target)
    with pytest.raises(CheckpointError, match="step-00000016: is a link"):
        run.newest_good()


@pytest.mark.parametrize("name", [SUMS, "progress.json", "optimizer"])
def test_a_checkpoint_that_holds_a_link_is_damaged(name, run, outside):
    place = run.checkpoint(12) / name
    shutil.move(place, run.path / "moved")
    place.symlink_to(run.path / "moved")
    newest, rejected = run.newest_good()
    assert newest == run.checkpoint(8)
    assert list(rejected) == [run.checkpoint(12)]


def test_a_checkpoint_in_the_cache_of_the_hub_is_read(tmp_path, outside):
    """There all files are links into a folder next to the snapshots."""
    repository = tmp_path / "spaces--me--book"
    folder = write_checkpoint(repository / "snapshots" / "1f" / "step-00000004")
    (repository / "blobs").mkdir()
    for number, file in enumerate(files_below(folder)):
        file.rename(repository / "blobs" / str(number))
        file.symlink_to(os.path.relpath(repository / "blobs" / str(number), file.parent))
    verify(folder)
    (folder / "progress.json").unlink()
    (folder / "progress.json").symlink_to(outside / "step-00000099" / "progress.json")
    with pytest.raises(CheckpointError, match=r"progress\.json: a link, and a checkpoint holds its files itself"):
        verify(folder)


def test_the_links_latest_and_best_are_set_and_paths_through_them_are_read(run):
    for name, step in (("latest", 12), ("best", 8)):
        (run.path / name).symlink_to("checkpoints/step-00000004")
        run.set_link(name, run.checkpoint(step))
        assert find_checkpoint(run.path / name).resolve() == run.checkpoint(step).resolve()
        assert run_of(run.path / name) == run.path.resolve()


def test_a_run_may_be_named_by_a_link(run, tmp_path):
    (tmp_path / "link").symlink_to(run.path)
    assert find_checkpoint(tmp_path / "link") == tmp_path / "link" / "checkpoints" / "step-00000012"


# Checkpoints in a folder outside of the run.


def test_a_new_run_may_have_its_checkpoints_elsewhere(tmp_path):
    run, disk = RunFolder(tmp_path / "run"), tmp_path / "disk"
    run.create(Config(), disk)
    for step in (4, 8, 12):
        write_checkpoint(run.checkpoint(step), best=8)
    run.set_link("latest", run.checkpoint(12))
    assert find_checkpoint(run.path) == find_checkpoint(run.path / "latest").resolve() == disk / "step-00000012"
    assert find_checkpoint(run.path, "best") == disk / "step-00000008"
    assert run_of(disk / "step-00000004") == run.path
    run.prune(1, set())
    assert [path.name for path in run.steps()] == ["step-00000008", "step-00000012"]
    assert run.newest_good() == (disk / "step-00000012", {})
    run.go_back_to(run.checkpoint(8), {})
    assert [path.name for path in disk.iterdir() if path.name != ".run"] == ["step-00000008"]


def test_a_run_from_others_cannot_name_a_folder_that_is_not_its_own(run, outside, tmp_path):
    other = RunFolder(tmp_path / "other")
    other.create(Config(), tmp_path / "of other")
    shutil.rmtree(run.checkpoints)
    for folder in (outside, tmp_path / "of other", other.path, tmp_path / "gone"):
        (run.path / "checkpoints").write_bytes(f"{folder}\n".encode())
        for use in (run.steps, run.newest_good, lambda: run.go_back_to(None, {}), lambda: run.prune(1, set())):
            with pytest.raises(CheckpointError, match=f"checkpoints: names {folder}, (and|which).*--checkpoints DIR"):
                use()


def test_a_folder_with_anything_else_or_of_another_run_is_refused(run, tmp_path):
    other = RunFolder(tmp_path / "other")
    other.create(Config(), tmp_path / "of other")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    for folder, why in ((tmp_path / "of other", "holds the checkpoints of"), (tmp_path / "full", "holds thesis.txt")):
        with pytest.raises(UsageError, match=why):
            run.move_checkpoints(folder)
        for start in (RunFolder.refuse_existing, lambda new, folder: new.create(Config(), folder)):
            with pytest.raises(UsageError, match=why):
                start(RunFolder(tmp_path / "new"), folder)
    shutil.copytree(run.checkpoints, tmp_path / "moved")
    with pytest.raises(UsageError, match="move them there and remove"):
        run.move_checkpoints(tmp_path / "moved")
    assert len(run.steps()) == 3


def test_a_folder_that_holds_no_checkpoint_is_not_noted_and_not_made(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(Config(), tmp_path / "disk")
    with pytest.raises(UsageError, match="mistyped: holds no checkpoint; give the folder that they have been moved to"):
        run.move_checkpoints(tmp_path / "mistyped")
    assert not (tmp_path / "mistyped").exists()
    assert run.checkpoints == tmp_path / "disk"
    with pytest.raises(CheckpointError, match="no run: holds no run"):
        RunFolder(tmp_path / "no run").move_checkpoints(tmp_path / "disk")
    assert not (tmp_path / "no run").exists()


def test_links_and_mounts_that_lead_to_the_run_or_its_folder_do_not_matter(tmp_path, monkeypatch):
    run, disk, here = RunFolder(tmp_path / "run"), tmp_path / "disk", tmp_path / "here"
    run.create(Config(), disk)
    here.symlink_to(tmp_path)
    monkeypatch.setattr(Path, "resolve", Path.absolute)  # a mount is not resolved
    (disk / ".run").write_text(f"{here}/run\n")
    (disk / ".DS_Store").touch()
    assert run.checkpoints == disk
    run.move_checkpoints(here / "disk")
    assert (run.path / "checkpoints").read_text() == f"{here}/disk\n"
    own = RunFolder(tmp_path / "own")
    own.create(Config())
    write_checkpoint(own.checkpoint(4))
    own.move_checkpoints(here / "own" / "checkpoints")  # nothing to do
    assert len(own.steps()) == 1


def test_a_run_that_was_copied_does_not_share_the_folder_and_one_that_was_moved_takes_it_along(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(Config(), tmp_path / "disk")
    shutil.copytree(run.path, tmp_path / "copy")
    copy = RunFolder(tmp_path / "copy")
    with pytest.raises(CheckpointError, match="names another run"):
        copy.steps()
    with pytest.raises(UsageError, match="holds the checkpoints of"):
        copy.move_checkpoints(tmp_path / "disk")
    shutil.rmtree(run.path)
    copy.move_checkpoints(tmp_path / "disk")
    assert copy.checkpoints == tmp_path / "disk"


def test_a_folder_whose_checkpoints_and_run_were_deleted_may_be_used_again(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(Config(), tmp_path / "disk")
    (run.path / "config.yaml").unlink()  # as after a kill between the two, and where the folder is made anew
    run.create(Config(), tmp_path / "disk")
    assert run.checkpoints == tmp_path / "disk"


def test_a_run_that_took_its_checkpoints_back_is_found_by_them_even_when_copied(tmp_path):
    run, disk = RunFolder(tmp_path / "run"), tmp_path / "disk"
    run.create(Config(), disk)
    write_checkpoint(run.checkpoint(4))
    (run.path / "checkpoints").unlink()
    disk.rename(run.path / "checkpoints")
    shutil.copytree(run.path, tmp_path / "copy")
    for folder in (run.path, tmp_path / "copy"):
        assert run_of(find_checkpoint(folder)) == folder


# Reading beside a training process that deletes checkpoints.


def test_what_is_read_is_never_half_of_a_deleted_checkpoint(run):
    seen = []

    def read(folder):
        seen.append(folder.name)
        if len(seen) < 3:
            shutil.rmtree(folder)
            raise FileNotFoundError(folder)
        return folder

    assert read_checkpoint(run.path, "latest", read) == run.checkpoint(4)
    assert seen == ["step-00000012", "step-00000008", "step-00000004"]


def test_a_damaged_checkpoint_is_read_once(run):
    def read(folder):
        raise CheckpointError("damaged")

    with pytest.raises(CheckpointError, match=r"^damaged$"):
        read_checkpoint(run.path, "latest", read)


def test_a_deleted_checkpoint_that_was_named_is_one_sentence(run):
    def read(folder):
        shutil.rmtree(folder)
        raise RuntimeError

    with pytest.raises(CheckpointError, match=r"step-00000012: was deleted while it was read.*give the run"):
        read_checkpoint(run.checkpoint(12), "latest", read)
