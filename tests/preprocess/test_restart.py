"""A preparation killed at any moment and started again gives the same folder as an uninterrupted one."""

import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from folders import RecordingProgress, digests

from groundup.errors import DataError, GroundupError, TokenizerError, UsageError
from groundup.preprocess import encoding, pipeline, tokenizer_choice, train_tokenizer
from groundup.preprocess.pipeline import prepare
from groundup.preprocess.records import Journal
from groundup.sources.corpus import open_sources
from groundup.tokenizers.byte_char import ByteTokenizer
from groundup.utils.progress import ProgressReporter

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")

CHUNK = 700  # bytes: many chunks per document, many jobs per corpus, many entries in the journal

# Prepares with an entry in the journal after every job, and kills itself before or after the n-th call of a function.
VICTIM = """
import os, signal, sys
from functools import partial
from importlib import import_module
from pathlib import Path
from groundup.sources.corpus import open_sources
from groundup.preprocess import encoding, pipeline, train_tokenizer

pipeline.open_sources = partial(open_sources, chunk_bytes=int(sys.argv[1]))
encoding.JOB_CHARS, train_tokenizer.MAX_TRAIN_CHARS, pipeline.JOURNAL_SECONDS = 900, 20_000, float(sys.argv[2])
module, name, n, after = sys.argv[3], sys.argv[4], int(sys.argv[5]), sys.argv[6] == "after"
owner, calls = import_module(module), 0
*path, name = name.split(".")
for part in path:
    owner = getattr(owner, part)
function = getattr(owner, name)

def fatal(*args, **options):
    global calls
    calls += 1
    if calls == n and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    result = function(*args, **options)
    if calls == n:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, fatal)
options = eval(sys.argv[9])
pipeline.prepare([sys.argv[7]], Path(sys.argv[8]), progress=None, **options)
"""

NEVER = ("os", "abort", "1", "before")

DURING = {
    "learning": ("groundup.preprocess.train_tokenizer", "_TrainingText._has_room", "40", "before", "bpe:300"),
    "saving the tokenizer": ("groundup.preprocess.pipeline", "flush", "1", "before", "bpe:300"),
    "the first entry": ("groundup.preprocess.records", "Journal.save", "1", "after", "bpe:300"),
    "encoding": ("groundup.data.shard_writer", "ShardWriter.write", "45", "after", "gpt2"),
    "beginning a document": ("groundup.data.shard_writer", "ShardWriter.begin_document", "60", "after", "char"),
    "ending a shard": ("groundup.data.shard_writer", "ShardWriter._finish_shard", "3", "before", "byte"),
    "between shards": ("groundup.data.shard_writer", "ShardWriter._finish_shard", "4", "after", "byte"),
    "journaling, files flushed": ("groundup.preprocess.records", "Journal.save", "9", "before", "byte"),
    "journaling, half-way": ("groundup.utils.files", "flush", "14", "before", "byte"),
    "journaling, done": ("groundup.preprocess.records", "Journal.save", "12", "after", "byte"),
    "all encoded": ("groundup.preprocess.split_writer", "SplitWriter.finish", "1", "before", "byte"),
    "all flushed": ("groundup.preprocess.split_writer", "SplitWriter.finish", "1", "after", "char"),
    "finishing, manifest half-way": ("os", "fsync", "LAST", "before", "byte"),
    "finishing, manifest there": ("groundup.preprocess.pipeline", "replace_text", "1", "after", "bpe:300"),
    "finishing, journal gone": ("groundup.preprocess.workdir", "move_into_place", "1", "before", "byte"),
    "finishing, before its last step": ("groundup.utils.files", "_swap", "1", "before", "byte"),
    "finishing, in place": ("groundup.utils.files", "_swap", "1", "after", "byte"),
}

NOTHING_DONE = {"learning", "saving the tokenizer"}
ALL_DONE = {phase for phase in DURING if phase.startswith("finishing") and phase != "finishing, manifest half-way"}


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    """Set the same small chunks and jobs in this process as in the killed one."""
    monkeypatch.setattr(pipeline, "open_sources", partial(open_sources, chunk_bytes=CHUNK))
    monkeypatch.setattr(pipeline, "JOURNAL_SECONDS", 0)
    monkeypatch.setattr(encoding, "JOB_CHARS", 900)
    monkeypatch.setattr(train_tokenizer, "MAX_TRAIN_CHARS", 20_000)


def line(i):
    words = "when shall we three meet again in thunder lightning or rain naïve 日本 🙂".split()
    return f"{i}: {' '.join(random.Random(i).choices(words, k=9))}"


@pytest.fixture(scope="module", params=["few documents", "many documents"])
def corpus(request, tmp_path_factory):
    """A folder with a file of every format and a fixed modification time."""
    folder = tmp_path_factory.mktemp("restart") / "corpus"
    folder.mkdir()
    many = request.param == "many documents"
    rows = [line(i) for i in range(90 if many else 20)]
    packed = "".join(json.dumps({"text": row}) + "\n" for row in rows).encode()
    (folder / "a.txt").write_text("\n".join(map(line, range(400))), encoding="utf-8")
    (folder / "b.jsonl").write_bytes(packed)
    (folder / "c.jsonl.zst").write_bytes(zstandard.compress(packed.replace(b"1", b"one")))
    pq.write_table(pa.table({"text": [*rows, None, "", "x" * 3000]}), folder / "d.parquet", row_group_size=7)
    (folder / "e.txt.gz").write_bytes(gzip.compress("\n".join(map(line, range(400, 600))).encode()))
    (folder / "empty.txt").touch()
    return folder


def options(tokenizer, **more):
    return {"tokenizer": tokenizer, "threads": 2, "shard_tokens": 3000, **more}


@pytest.fixture(scope="session")
def victim(forks):
    """Start a preparation that may kill itself."""

    def start(corpus, out, settings, *call, seconds=0.0):
        words = [str(CHUNK), str(seconds), *call, str(corpus), str(out), repr(settings)]
        return subprocess.Popen([*forks.words, "-c", VICTIM, *words], stderr=subprocess.PIPE)

    return start


@pytest.fixture(scope="session")
def killed(victim):
    """Run a preparation that kills itself."""

    def run(*words):
        process = victim(*words)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, errors.decode()

    return run


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """Digests of an uninterrupted preparation, by options."""
    known = {}

    def make(settings):
        if repr(settings) not in known:
            out = tmp_path_factory.mktemp("undisturbed") / "out"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pipeline, "JOURNAL_SECONDS", 1e9)
                prepare([corpus], out, **settings)
            known[repr(settings)] = digests(out)
        return known[repr(settings)]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("phase", DURING)
def test_killed_in_any_phase_it_ends_in_the_same_folder(phase, corpus, undisturbed, tmp_path, killed):
    *call, tokenizer = DURING[phase]
    settings = options(tokenizer)
    expected = undisturbed(settings)
    if "LAST" in call:
        call[2] = str(fsyncs_before_the_manifest(corpus, tmp_path / "counted", settings))
    killed(corpus, tmp_path / "out", settings, *call)
    progress = RecordingProgress()
    prepare([corpus], tmp_path / "out", **settings, progress=progress)
    assert digests(tmp_path / "out") == expected
    assert [path.name for path in tmp_path.iterdir() if path.name != "counted"] == ["out"]
    resumed = any("resuming at" in line for line in progress.messages)
    assert resumed == (phase not in NOTHING_DONE and phase not in ALL_DONE)


def fsyncs_before_the_manifest(corpus, out, settings):
    """Number of fsyncs of a preparation before that of its manifest."""
    count, at_manifest = 0, []
    with pytest.MonkeyPatch.context() as patch:
        fsync, save = os.fsync, pipeline.replace_text

        def counted(handle):
            nonlocal count
            count += 1
            fsync(handle)

        patch.setattr(os, "fsync", counted)
        patch.setattr(pipeline, "replace_text", lambda path, text: (at_manifest.append(count + 1), save(path, text)))
        prepare([corpus], out, **settings)
    return at_manifest[0]


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["gpt2", pytest.param("bpe:300", marks=pytest.mark.long)])
def test_killed_repeatedly_at_random_moments_it_ends_in_the_same_folder(
    tokenizer, corpus, undisturbed, tmp_path, victim, forks
):
    chance, settings, kills = random.Random(tokenizer), options(tokenizer), 0
    while not (tmp_path / "out").exists():
        with victim(corpus, tmp_path / "out", settings, *NEVER) as process:
            journal, deadline = tmp_path / ".out.partial" / "journal.json", time.monotonic() + 300
            before = contents(journal)
            while process.poll() is None and time.monotonic() < deadline:
                if contents(journal) not in (b"", before):  # it got further than the previous one
                    time.sleep(chance.uniform(0, 0.05))
                    break
                time.sleep(0.002)
            forks.kill(process)
            process.stderr.close()
        kills += process.returncode == -signal.SIGKILL
    assert kills
    assert digests(tmp_path / "out") == undisturbed(settings)


def contents(path):
    """Content of a file, empty if it does not exist."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def journal_of(killed, corpus, out, settings, nth="22"):
    """Kill a preparation; returns the journal of its unfinished folder."""
    killed(corpus, out, settings, "groundup.preprocess.records", "Journal.save", nth, "after")
    return out.with_name(f".{out.name}.partial") / "journal.json"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "corrupt"),
    [
        ("tokenizer", lambda value: "0" * 64),
        ("place", lambda value: [0, 0, 0, 0]),
        ("place", lambda value: [value[0], value[1], value[2] + 2000, value[3]]),
        ("chunks", lambda value: value + 1),
        ("sources", lambda value: []),
        ("splits", lambda value: value | {"train": value["train"] | {"tokens": value["train"]["tokens"] - 1}}),
        ("splits", lambda value: value | {"train": value["train"] | {"bytes": 0}}),
        ("splits", lambda value: value | {"train": value["train"] | {"documents": 0}}),
        ("splits", lambda value: value | {"train": value["train"] | {"shards": value["train"]["shards"][:-1]}}),
    ],
)
def test_a_journal_with_one_wrong_field_does_not_end_in_the_same_folder(
    field, corrupt, corpus, undisturbed, tmp_path, killed
):
    settings = options("byte")
    path = journal_of(killed, corpus, tmp_path / "out", settings)
    journal = json.loads(path.read_text())
    path.write_text(json.dumps(journal | {field: corrupt(journal[field])}))
    try:
        prepare([corpus], tmp_path / "out", **settings)
    except GroundupError:
        return
    assert digests(tmp_path / "out") != undisturbed(settings)


def test_a_split_that_was_full_stays_full(tmp_path, monkeypatch):
    """Two emoji take six tokens and do not fit into five; the following `a`, which would fit, must not be added."""
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in ["🦄🦄", "a", "b", "c"] * 30))
    settings = {"tokenizer": "gpt2", "max_tokens": 6, "val_fraction": 0.0, "threads": 1}
    monkeypatch.setattr(encoding, "JOB_PIECES", 1)
    prepare([source], tmp_path / "whole", **settings)
    interrupt([source], tmp_path / "out", settings, entries=2)
    path = tmp_path / ".out.partial" / "journal.json"
    assert json.loads(path.read_text())["full"] == ["train", "val"]
    prepare([source], tmp_path / "out", **settings)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def interrupt(sources, out, settings, *, entries, progress=None):
    """Interrupt a preparation after `entries` journal entries."""
    save, saved = Journal.save, []

    def save_then_interrupt(journal, folder):
        save(journal, folder)
        saved.append(journal)
        if len(saved) == entries:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "save", save_then_interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(sources, out, **settings, progress=progress)


@pytest.fixture
def interrupted(corpus, tmp_path):
    """A preparation with byte tokens, interrupted in the middle of the second file; returns the messages."""
    progress = RecordingProgress()
    interrupt([corpus], tmp_path / "out", options("byte"), entries=17, progress=progress)
    return progress.messages


def test_an_interruption_keeps_the_work_and_reports_how_to_resume(interrupted, corpus, undisturbed, tmp_path):
    assert re.match(r".*out: \d+% is done and kept", interrupted[-1])
    assert interrupted[-1].endswith("; the same command resumes from there")
    progress = RecordingProgress()
    prepare([corpus], tmp_path / "out", **options("byte"), progress=progress)
    assert any(line.startswith("resuming at ") for line in progress.messages)
    assert digests(tmp_path / "out") == undisturbed(options("byte"))


def test_auto_resumes_with_the_tokenizer_that_the_work_has(interrupted, corpus, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_choice, "auto_tokenizer", None)
    progress = RecordingProgress()
    settings = options("byte")
    prepare([corpus], tmp_path / "out", **{**settings, "tokenizer": "auto"}, progress=progress)
    assert any(line.startswith("resuming at ") for line in progress.messages)
    assert digests(tmp_path / "out") == undisturbed(settings)


def test_finished_work_is_not_encoded_again(interrupted, corpus, tmp_path, monkeypatch):
    encoded = []
    monkeypatch.setattr(
        pipeline,
        "encode_job",
        lambda job, stop, tokenizer: (encoded.extend(job.pieces), encoding.encode_job(job, stop, tokenizer))[1],
    )
    first = Journal.load(tmp_path / ".out.partial")
    manifest = prepare([corpus], tmp_path / "out", **options("byte"))
    left = sum(len(piece.text.encode()) for piece in encoded)
    assert (
        0
        < left
        == sum(split.bytes for split in manifest.splits.values()) - sum(split.bytes for split in first.splits.values())
    )


def test_different_settings_do_not_change_unfinished_work(interrupted, corpus, tmp_path):
    before = digests(tmp_path / ".out.partial")
    with pytest.raises(
        DataError, match=r"unfinished work for it, and tokenizer was 'byte' and is 'gpt2'; .* --overwrite"
    ):
        prepare([corpus], tmp_path / "out", **options("gpt2"))
    with pytest.raises(DataError, match="and max_tokens was not given and is 10;"):
        prepare([corpus], tmp_path / "out", **options("byte", max_tokens=10))
    assert digests(tmp_path / ".out.partial") == before


def test_unfinished_work_of_other_settings_can_be_deleted(interrupted, corpus, undisturbed, tmp_path):
    prepare([corpus], tmp_path / "out", **options("gpt2"), overwrite=True)
    assert digests(tmp_path / "out") == undisturbed(options("gpt2"))


def copied(corpus, folder):
    return shutil.copytree(corpus, folder / "corpus")


@pytest.mark.parametrize("tokenizer", ["byte", "char"])
def test_an_unread_file_may_change_unless_the_tokenizer_was_trained_on_it(corpus, tokenizer, tmp_path):
    mine = copied(corpus, tmp_path)
    interrupt([mine], tmp_path / "out", options(tokenizer), entries=5)
    (mine / "e.txt.gz").write_bytes(gzip.compress(b"mended when shall we three"))
    if tokenizer == "char":
        with pytest.raises(DataError, match=r"corpus/e\.txt\.gz has changed"):
            prepare([mine], tmp_path / "out", **options(tokenizer))
        return
    prepare([mine], tmp_path / "out", **options(tokenizer))
    prepare([mine], tmp_path / "anew", **options(tokenizer))
    assert digests(tmp_path / "out") == digests(tmp_path / "anew")


def test_a_file_that_was_read_must_not_change(corpus, tmp_path):
    mine = copied(corpus, tmp_path)
    interrupt([mine], tmp_path / "out", options("byte"), entries=5)
    (mine / "a.txt").write_text("something else")
    with pytest.raises(DataError, match=r"corpus/a\.txt has changed \(its size\); repeat the previous command"):
        prepare([mine], tmp_path / "out", **options("byte"))


@pytest.mark.parametrize("damage", ["journal.json", "request.json", "train-00000.bin", "tokenizer"])
def test_damage_to_unfinished_work_is_one_sentence(damage, interrupted, corpus, undisturbed, tmp_path):
    path = tmp_path / ".out.partial" / damage
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_bytes(path.read_bytes()[:-9] if damage.endswith("json") else b"")
    with pytest.raises(GroundupError, match="--overwrite"):
        prepare([corpus], tmp_path / "out", **options("byte"))
    prepare([corpus], tmp_path / "out", **options("byte"), overwrite=True)
    assert digests(tmp_path / "out") == undisturbed(options("byte"))


def test_two_concurrent_preparations_are_refused(corpus, undisturbed, tmp_path):
    reported = []

    class Second(ProgressReporter):
        def __call__(self, done):
            if not reported:
                with pytest.raises(
                    UsageError, match=rf"out: in use right now by process {os.getpid()} on .*; wait for it"
                ) as error:
                    prepare([corpus], tmp_path / "out", **options("byte"))
                reported.append(error)

    prepare([corpus], tmp_path / "out", **options("byte"), progress=Second())
    assert reported
    assert digests(tmp_path / "out") == undisturbed(options("byte"))


def test_another_process_waits_until_the_folder_is_in_place(corpus, undisturbed, tmp_path, monkeypatch):
    """Also if only the last step is missing and the other process could take over the work."""
    refused, replace = [], Path.replace

    def come_between(path, target):
        if path.name == ".out.partial" and not refused:
            with pytest.raises(UsageError, match="in use right now") as error:
                prepare([corpus], tmp_path / "out", **options("gpt2"), overwrite=True)
            refused.append(error)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", come_between)
    prepare([corpus], tmp_path / "out", **options("byte"))
    assert refused
    assert digests(tmp_path / "out") == undisturbed(options("byte"))


def test_unfinished_work_with_an_older_journal_is_not_resumed(interrupted, corpus, tmp_path):
    path = tmp_path / ".out.partial" / "journal.json"
    path.write_text(path.read_text().replace('"format":2', '"format":1'))
    with pytest.raises(DataError, match=r"not a journal of groundup \(format: .*--overwrite"):
        prepare([corpus], tmp_path / "out", **options("byte"))


def test_a_refused_tokenizer_stays_refused(corpus, tmp_path, monkeypatch):
    """Findings about the text before an interruption apply after it."""
    monkeypatch.setattr(pipeline, "MIN_KNOWN", 0)
    monkeypatch.setattr(ByteTokenizer, "lossy", "drops everything")
    monkeypatch.setattr(encoding, "known_characters", lambda text, decoded: (len(text), 0))
    interrupt([corpus], tmp_path / "out", options("byte"), entries=17)
    monkeypatch.setattr(pipeline, "MIN_KNOWN", 0.5)
    monkeypatch.setattr(encoding, "known_characters", lambda text, decoded: (0, 0))
    with pytest.raises(TokenizerError, match="knows only 0 % of the text's characters"):
        prepare([corpus], tmp_path / "out", **options("byte"))


def test_the_lock_of_a_dead_process_does_not_count(corpus, undisturbed, tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / ".lock").write_text("1")
    prepare([corpus], tmp_path / "out", **options("byte"))
    assert digests(tmp_path / "out") == undisturbed(options("byte"))
