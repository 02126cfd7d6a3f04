"""A folder is complete or absent, and damage to it is named."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from groundup.checkpoint.files import verify
from groundup.checkpoint.log import Log, read_log
from groundup.errors import CheckpointError
from groundup.utils import files
from groundup.utils.files import SUMS, atomic_output, distinct_names, replace_text, write_checksums


def write(folder) -> None:
    with atomic_output(folder) as partial:
        (partial / "a.txt").write_text("alpha")
        (partial / "sub").mkdir()
        (partial / "sub" / "b.txt").write_text("beta")
        write_checksums(partial)


def test_a_finished_folder_verifies_with_our_tool_and_with_sha256sum(tmp_path):
    write(tmp_path / "c")
    verify(tmp_path / "c")
    subprocess.run(["sha256sum", "--quiet", "--check", SUMS], cwd=tmp_path / "c", check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_an_error_leaves_neither_target_nor_partial_files(tmp_path):
    def fail():
        with atomic_output(tmp_path / "c") as partial:
            (partial / "a.txt").write_text("alpha")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_partial_files_of_a_killed_attempt_are_not_used(tmp_path):
    (tmp_path / ".c.999999999.partial").mkdir()
    (tmp_path / ".c.999999999.partial" / "old.txt").write_text("old")
    write(tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert not (tmp_path / "c" / "old.txt").exists()


@pytest.mark.parametrize("name", ["a.txt", "sub/b.txt"])
def test_a_flipped_bit_a_missing_and_a_foreign_file_are_named(tmp_path, name):
    write(tmp_path / "c")
    path = tmp_path / "c" / name
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(CheckpointError, match=f"{name}: damaged"):
        verify(tmp_path / "c")
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{name}: missing"):
        verify(tmp_path / "c")
    path.write_bytes(data)
    (tmp_path / "c" / "foreign").write_text("x")
    with pytest.raises(CheckpointError, match="does not list foreign"):
        verify(tmp_path / "c")


@pytest.mark.parametrize("name", [".DS_Store", "sub/._b.txt", "sub/.nfs000000000b4c01"])
def test_what_the_system_puts_into_a_folder_is_no_damage(tmp_path, name):
    write(tmp_path / "c")
    (tmp_path / "c" / name).write_text("x")
    verify(tmp_path / "c")


def test_a_folder_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, flush, replace = [], files.flush, Path.replace
    monkeypatch.setattr(files, "flush", lambda path: (done.append(path), flush(path)))
    monkeypatch.setattr(Path, "replace", lambda path, target: (done.append("named"), replace(path, target))[1])
    write(tmp_path / "c")
    partial = tmp_path / f".c.{os.getpid()}.partial"
    written = {partial / name for name in ("", "a.txt", "sub", "sub/b.txt", SUMS)}
    assert (set(done[:-2]), done[-2:]) == (written, ["named", tmp_path])


def test_replace_text_replaces(tmp_path):
    replace_text(tmp_path / "f", "one")
    replace_text(tmp_path / "f", "two")
    assert (tmp_path / "f").read_text() == "two"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_log_line_cut_off_by_a_crash_does_not_affect_others(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path)
    log.write("step", step=1)
    log.close()
    with path.open("a") as file:
        file.write('{"event": "st')
    log = Log(path)
    log.write("step", step=2)
    log.close()
    assert [record["step"] for record in read_log(path)] == [1, 2]


def test_every_log_line_is_json(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.write("sample", text='line\nbreak "quote" ünïcode \u2028')
    log.close()
    (line,) = (tmp_path / "log.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(line)["text"].startswith("line\nbreak")


def test_unread_files_are_checked_for_existence_only(tmp_path):
    with atomic_output(tmp_path / "c") as partial:
        (partial / "a").write_text("one")
        (partial / "b").write_text("two")
        write_checksums(partial)
    (tmp_path / "c" / "b").write_text("too")
    verify(tmp_path / "c", presence_only=("b",))
    with pytest.raises(CheckpointError, match="b: damaged"):
        verify(tmp_path / "c", presence_only=("a",))
    (tmp_path / "c" / "b").unlink()
    with pytest.raises(CheckpointError, match="b: missing"):
        verify(tmp_path / "c", presence_only=("b",))


def test_distinct_names_are_the_shortest_ends_of_paths_that_differ():
    paths = [Path("/x/a/run"), Path("/x/b/run"), Path("/x/c/other"), Path("/y/b/run")]
    assert list(distinct_names(dict.fromkeys(paths, 1)).values()) == ["a/run", "x/b/run", "other", "y/b/run"]
    assert distinct_names({Path("/run"): 1}) == {Path("/run"): "run"}


@pytest.mark.parametrize("change", ["grown", "zeros", "no name", "short digest", "huge", "a pipe", "a device", "empty"])
def test_damaged_checksums_are_one_sentence(change, tmp_path):
    write(tmp_path / "c")
    path = tmp_path / "c" / SUMS
    text = path.read_text()
    path.unlink()
    if change == "a pipe":
        os.mkfifo(path)
    elif change == "a device":
        path.symlink_to("/dev/zero")
    else:
        changed = {
            "grown": text + "x",
            "zeros": text + "\0" * 100,
            "no name": text.replace("a.txt", ""),
            "short digest": text[1:],
            "huge": text + "".join(f"{i:064x}  {i}\n" for i in range(20_000)),
            "empty": "",
        }
        path.write_text(changed[change])
    with pytest.raises(CheckpointError) as caught:
        verify(tmp_path / "c")
    remedy = "use another checkpoint"
    assert str(caught.value) == f"{path}: missing or damaged, so this is no complete checkpoint; {remedy}"
