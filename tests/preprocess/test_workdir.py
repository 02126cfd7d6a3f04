"""A prepared folder is complete or absent whatever happens, and memory does not grow with the text."""

import subprocess
import sys
import time

import pytest

from groundup.data.shards import Tokens
from groundup.errors import DataError
from groundup.preprocess.pipeline import prepare
from groundup.preprocess.workdir import new_folder

# Prepares, but sleeps after the first bytes are written.
SLEEPY = """
import sys, time
from pathlib import Path
from groundup.preprocess.pipeline import prepare
prepare([sys.argv[1]], Path(sys.argv[2]), tokenizer="byte", progress=lambda n: time.sleep(60))
"""

MEASURED = """
import resource, sys
from pathlib import Path
from groundup.preprocess.pipeline import prepare
prepare([sys.argv[1]], Path(sys.argv[2]), tokenizer="byte")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture
def book(tmp_path):
    (tmp_path / "book.txt").write_text("some text\n" * 100)
    return tmp_path / "book.txt"


def test_a_kill_leaves_no_output_and_the_next_attempt_succeeds(tmp_path, book):
    out, shard = tmp_path / "out", tmp_path / ".out.partial" / "train-00000.bin"
    with subprocess.Popen([sys.executable, "-c", SLEEPY, book, out]) as process:
        deadline = time.monotonic() + 300
        while not shard.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert shard.exists(), "killed in the middle of writing"
    assert not out.exists()
    prepare([book], out, tokenizer="byte")
    assert len(Tokens.open(out, "train")) == 901
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book.txt", "out"]


def test_an_interruption_leaves_nothing_at_all(tmp_path, book):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([book], tmp_path / "out", tokenizer="byte", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["book.txt"]


def test_an_empty_folder_may_be_filled(tmp_path, book):
    (tmp_path / "out").mkdir()
    prepare([book], tmp_path / "out", tokenizer="byte")
    assert len(Tokens.open(tmp_path / "out", "val")) == 101


def test_missing_parents_are_made(tmp_path):
    with new_folder(tmp_path / "a" / "b" / "out") as folder:
        (folder / "file").touch()
    assert (tmp_path / "a" / "b" / "out" / "file").exists()


def test_a_folder_with_files_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="out: already holds files; choose another folder with --out"):
        prepare([tmp_path / "no-such-source"], tmp_path / "out", tokenizer="byte")
    assert (tmp_path / "out" / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("book.txt", "book.txt: is a file; choose another folder"),
        ("book.txt/out", r"cannot be written \(Not a directory\); choose another path with --out"),
        ("x" * 300, r"cannot be written \(File name too long\)"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(tmp_path, book, out, message):
    with pytest.raises(DataError, match=message):
        prepare([book], tmp_path / out, tokenizer="byte")


@pytest.mark.parametrize("tokenizer", ["auto", "byte"])
def test_a_path_whose_links_lead_in_a_circle_is_refused(tmp_path, book, tokenizer):
    (tmp_path / "out").symlink_to("out")
    with pytest.raises(DataError, match="out: cannot be written"):
        prepare(book, tmp_path / "out", tokenizer=tokenizer)


def test_a_full_disk_is_a_sentence(tmp_path):
    with (
        pytest.raises(DataError, match=r"out: cannot be written \(No space left on device\)"),
        new_folder(tmp_path / "out"),
    ):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    peak = {}
    for megabytes in (20, 100):
        source = tmp_path / f"{megabytes}.txt"
        with source.open("w") as file:
            for _ in range(megabytes):
                file.write("a line of sixty-four characters, which makes the sums come out.\n" * (1_000_000 // 64))
        command = [sys.executable, "-c", MEASURED, source, tmp_path / f"out-{megabytes}"]
        peak[megabytes] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024
    assert peak[100] - peak[20] < 30, f"peak memory in MB: {peak}"
