"""`groundup prepare` from a local hub server: complete, interrupted and resumed."""

import filecmp
import io
import os
import random
import subprocess
import sys

import pytest
from hubserver import Hub

pa = pytest.importorskip("pyarrow", reason="needs the extra `data`")
pytest.importorskip("datasets", reason="needs the extra `data`")

# The command, without waiting, and with a journal entry after every job.
COMMAND = """
import sys
from groundup.sources import hub
from groundup.preprocess import pipeline
hub.WAITS, hub.MIN_READ_BYTES = (0, 0), 1
pipeline.JOURNAL_SECONDS = 0
from groundup.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def groundup(hub, tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}

    def run(*argv):
        return subprocess.run(
            [sys.executable, "-c", COMMAND, *argv], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    return run


def parquet(texts) -> bytes:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), file, row_group_size=25)
    return file.getvalue()


def put_stories(hub):
    rng = random.Random(0)
    words = "the cat sat on a mat and saw one more dog by that tree".split()
    texts = [" ".join(rng.choices(words, k=400)) if i % 9 else None for i in range(500)]
    files = [f"data/train-0000{i}-of-00002.parquet" for i in range(2)]
    hub.put("roneneldan/TinyStories", {files[0]: parquet(texts[:250]), files[1]: parquet(texts[250:])})
    return texts, files


def same(left, right) -> bool:
    def names(folder):
        return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())

    return names(left) == names(right) and all(filecmp.cmp(left / n, right / n, shallow=False) for n in names(left))


@pytest.mark.slow
def test_a_corpus_known_by_name_is_prepared_and_not_twice(groundup, hub, tmp_path):
    from groundup.data.shards import Manifest

    texts, files = put_stories(hub)
    done = groundup("prepare", "tinystories", "--out", "d", "--tokenizer", "byte")
    assert (done.returncode, done.stderr) == (0, "")
    manifest = Manifest.load(tmp_path / "d")
    assert sum(split.bytes for split in manifest.splits.values()) == sum(len(text) for text in texts if text)
    assert manifest.sources == tuple(f"roneneldan/TinyStories/{file}" for file in files)

    hub.sent.clear()
    again = groundup("prepare", "tinystories", "--out", "d", "--tokenizer", "byte")
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
    assert hub.sent[files[1]] == 0

    hub.put("roneneldan/TinyStories", {files[0]: parquet(["other"] * 200)})  # a new commit: not the same corpus
    other = groundup("prepare", "tinystories", "--out", "d", "--tokenizer", "byte")
    assert other.returncode == 2
    assert other.stderr.count("\n") == 1


@pytest.mark.slow
def test_an_interrupted_preparation_resumes_to_the_same_folder(groundup, hub, tmp_path):
    _, files = put_stories(hub)
    assert groundup("prepare", "tinystories", "--out", "whole", "--tokenizer", "byte").returncode == 0

    hub.fault(f"GET .*{files[1]}", "drop")
    broken = groundup("prepare", "tinystories", "--out", "d", "--tokenizer", "byte")
    assert broken.returncode == 2
    assert "check the network and try again" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert not (tmp_path / "d").exists()

    hub.faults.clear()
    hub.sent.clear()
    gone_on = groundup("prepare", "tinystories", "--out", "d", "--tokenizer", "byte")
    assert gone_on.returncode == 0
    assert "resuming at" in gone_on.stderr
    assert same(tmp_path / "d", tmp_path / "whole")


WITHOUT_HOME = """
import contextlib, os, pwd, sys

def no_entry(uid):
    raise KeyError(uid)

pwd.getpwuid = no_entry
for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
    os.environ.pop(name, None)
from groundup.cli import main
for source in sys.argv[1:]:
    with contextlib.suppress(SystemExit):
        main(["prepare", source, "--out", source, "--tokenizer", "byte", "--max-tokens", "9000"])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such database of users")
def test_a_user_without_a_home_is_told_which_folder_to_name(hub, tmp_path):
    """As a container runs a user whom its image does not know."""
    put_stories(hub)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HOME, "shakespeare", "tinystories"], cwd=tmp_path,
        env=kept | {"HF_ENDPOINT": hub.url}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == (
        "groundup: tinystories: this user has no home folder for the hub's files; set HF_HOME to a folder that can be "
        "written\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["shakespeare"]  # which needs none


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("hf:owner/nowhere", "there is no data set owner/nowhere"),
        ("hf:nowhere", "write hf:OWNER/NAME"),
        ("tinystories#id", "tinystories#id"),
    ],
)
def test_a_mistake_leaves_nothing_behind(source, sentence, groundup, hub, tmp_path):
    put_stories(hub)
    done = groundup("prepare", source, "--out", "d", "--tokenizer", "byte")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir() if path.name != "hf"] == []
