"""Encoding on many threads gives the result of one; a text that cannot be encoded is located in its file."""

import gzip
import json
import random
import string
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folders import RecordingProgress, digests

import tokenizers
from groundup.data.shards import Manifest, Tokens
from groundup.errors import DataError, GroundupError, TokenizerError
from groundup.preprocess import encoding, train_tokenizer
from groundup.preprocess.encoding import Job, Piece, encode_job, iter_jobs, longest_prefix, map_in_order
from groundup.preprocess.pipeline import prepare
from groundup.preprocess.split import choose_rule
from groundup.sources.corpus import Position, open_sources
from groundup.tokenizers.bpe import BPETokenizer
from groundup.tokenizers.byte_char import ByteTokenizer, CharTokenizer
from groundup.tokenizers.registry import choose_tokenizer, load_tokenizer
from groundup.utils.progress import ProgressReporter


def test_results_come_in_order_and_never_far_ahead():
    started = []

    def slow(i, stop):
        time.sleep(random.Random(i).uniform(0, 0.01))
        return i * i

    def items():
        for i in range(50):
            started.append(i)
            yield i

    for done, (item, square) in enumerate(map_in_order(slow, items(), threads=4)):
        assert (item, square) == (done, done * done)
        assert len(started) - done <= 6


def test_an_error_in_a_thread_ends_the_work():
    def fail_at_three(i, stop):
        if i == 3:
            raise TokenizerError("no")
        return i

    with pytest.raises(TokenizerError):
        list(map_in_order(fail_at_three, iter(range(100)), threads=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("groundup")]


def test_no_call_of_the_tokenizer_follows_an_interruption(monkeypatch):
    monkeypatch.setattr(encoding, "ENCODE_CHARS", 100)
    called, parts = threading.Event(), []

    def encode_slowly(job, stop):
        tokenizer = ByteTokenizer()
        monkeypatch.setattr(tokenizer, "encode", lambda part: (parts.append(part), called.set(), stop.wait(60), [])[-1])
        return encode_job(job, stop, tokenizer)

    def jobs():
        yield Job([Piece("train", "a.txt", 0, 0, "word " * 1000, first=True, last=True)], Position(), 0, 0)
        called.wait()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(map_in_order(encode_slowly, jobs(), threads=1))
    assert len(parts) == 1


@pytest.mark.parametrize("tokenizer", ["byte", "gpt2", "bpe:300"])
def test_the_folder_does_not_depend_on_threads_or_the_size_of_jobs(tmp_path, tokenizer, sentences, monkeypatch):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": sentences(9, i)}) + "\n" for i in range(150)))
    (tmp_path / "b.txt").write_text(sentences(3000))
    given = [tmp_path / "a.jsonl", tmp_path / "b.txt"]
    prepare(given, tmp_path / "one", tokenizer=tokenizer, threads=1)
    monkeypatch.setattr(encoding, "JOB_CHARS", 1000)
    prepare(given, tmp_path / "four", tokenizer=tokenizer, threads=4)
    monkeypatch.setattr(encoding, "JOB_PIECES", 1)
    monkeypatch.setattr(encoding, "ENCODE_CHARS", 50)
    prepare(given, tmp_path / "seven", tokenizer=tokenizer, threads=7)
    assert digests(tmp_path / "one") == digests(tmp_path / "four") == digests(tmp_path / "seven")


def test_every_job_has_the_position_to_continue_from(tmp_path, sentences, monkeypatch):
    monkeypatch.setattr(encoding, "JOB_CHARS", 200)
    (tmp_path / "a.txt").write_text(sentences(60))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": sentences(2, i)}) + "\n" for i in range(20)))
    with open_sources([tmp_path / "a.txt", tmp_path / "b.jsonl"], chunk_bytes=90) as corpus:
        rule = choose_rule(corpus, 0.1)
        all_jobs = list(iter_jobs(corpus, rule, Position(), 0, set()))
        pieces = [piece for job in all_jobs for piece in job.pieces]
        assert len(all_jobs) > 10
        for i, job in enumerate(all_jobs):
            left = [
                piece for later in iter_jobs(corpus, rule, job.position, job.chunks, set()) for piece in later.pieces
            ]
            assert left == pieces[sum(len(j.pieces) for j in all_jobs[: i + 1]) :]


@pytest.mark.parametrize(
    ("name", "contents", "place"),
    [
        ("a.txt", "a\nb\naé\nb", r"a\.txt, line 3: 'é' \(U\+00E9 "),
        ("a.txt.gz", gzip.compress("a\n\né".encode(), mtime=0), r"a\.txt\.gz, line 3: 'é'"),
        ("a.txt", "ab\n" * 300_000 + "é" + "\nab" * 300_000, r"a\.txt, line 300001: 'é'"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b\\nz"}', r"a\.jsonl, document at 14, line 2: 'z'"),
    ],
)
def test_a_character_that_the_tokenizer_lacks_is_found_in_its_file(tmp_path, name, contents, place):
    CharTokenizer("\nab").save(tmp_path / "mine")
    (tmp_path / name).write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    with pytest.raises(TokenizerError, match=place + ".* is not among the 3 characters of this tokenizer"):
        prepare([tmp_path / name], tmp_path / "out", tokenizer=str(tmp_path / "mine"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["mine", name])


def text_of(folder, split):
    tokenizer, tokens = load_tokenizer(folder / "tokenizer"), Tokens.open(folder, split)
    ids = tokens.read(0, len(tokens))
    return [tokenizer.decode(part[:-1]) for part in np.split(ids, np.flatnonzero(ids == tokenizer.end_of_text) + 1)][
        :-1
    ]


@pytest.mark.parametrize("tokenizer", ["byte", "gpt2", "bpe:300"])
@pytest.mark.parametrize("limit", [20, 500, 3000])
@pytest.mark.parametrize("many", [False, True])
def test_at_most_so_many_tokens_come_from_the_beginning_of_each_split(tmp_path, tokenizer, limit, many, sentences):
    if many:
        texts = "".join(json.dumps({"text": sentences(1, i)}) + "\n" for i in range(500))
        (tmp_path / "a.jsonl").write_text(texts)
    else:
        (tmp_path / "a.jsonl").write_text(json.dumps({"text": sentences(400)}) + "\n")
    options = {"tokenizer": tokenizer, "val_fraction": 0.2}
    prepare([tmp_path / "a.jsonl"], tmp_path / "all", **options)
    manifest = prepare([tmp_path / "a.jsonl"], tmp_path / "some", **options, max_tokens=limit)
    for split, share in (("train", limit - limit // 5), ("val", limit // 5)):
        complete, part = text_of(tmp_path / "all", split), text_of(tmp_path / "some", split)
        assert share - 3 <= manifest.splits[split].tokens <= share
        assert part[:-1] == complete[: len(part) - 1]
        assert complete[len(part) - 1].startswith(part[-1])
        assert manifest.splits[split].bytes == len("".join(part).encode())
        assert manifest.splits[split].documents == len(part)


def test_a_limit_above_the_number_of_tokens_keeps_all(tmp_path, sentences):
    (tmp_path / "a.txt").write_text(sentences(50))
    all_ = prepare([tmp_path / "a.txt"], tmp_path / "all", tokenizer="byte")
    some = prepare([tmp_path / "a.txt"], tmp_path / "some", tokenizer="byte", max_tokens=10**9)
    assert all_ == some


def test_only_the_first_documents_decide_the_rule(tmp_path, sentences):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": sentences(3, i)}) + "\n" for i in range(500)))
    manifest = prepare([tmp_path / "a.jsonl"], tmp_path / "out", tokenizer="byte", max_documents=7)
    assert manifest.splits["train"].documents == 7
    assert manifest.split.rule == "last part of each document"


def test_the_cleaned_text_is_tokenized(tmp_path):
    (tmp_path / "a.txt").write_text("It's 9 O'CLOCK, sir! " * 10)
    prepare(
        [tmp_path / "a.txt"],
        tmp_path / "out",
        tokenizer="char",
        val_fraction=0,
        clean=["digits", "lowercase", "punctuation"],
    )
    assert text_of(tmp_path / "out", "train") == ["its  oclock sir " * 10]


def test_a_prefix_is_the_longest_that_fits():
    text = "naïve 🙂 text " * 20
    for room in (0, 1, 5, 6, 7, 8, 9, 100, 10_000):
        prefix = longest_prefix(text, room, ByteTokenizer())
        assert text.startswith(prefix)
        assert len(prefix.encode()) <= room
        assert prefix == text or len(text[: len(prefix) + 1].encode()) > room


def test_merges_are_trained_on_samples_from_all_parts_of_a_long_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(train_tokenizer, "MAX_TRAIN_CHARS", 40_000)
    monkeypatch.setattr(train_tokenizer, "CHUNK_CHARS", 500)
    for i, word in enumerate(["alpha", "bravo", "charlie", "delta"]):
        (tmp_path / f"{i}.txt").write_text(f"{word} " * 20_000)
    progress = RecordingProgress()
    texts = sorted(tmp_path.glob("*.txt"))
    prepare(texts, tmp_path / "out", tokenizer="bpe:300", val_fraction=0, progress=progress)
    tokenizer = load_tokenizer(tmp_path / "out" / "tokenizer")
    assert [len(tokenizer.encode(f" {word}")) for word in ("alpha", "bravo", "charlie", "delta")] == [1, 1, 1, 1]
    assert progress.messages == ["tokenizer trained on 40,488 of 520,000 characters, taken evenly from the text"]
    size = sum(path.stat().st_size for path in texts)
    assert progress.phases == [("training tokenizer bpe:300", size), ("encoding", size)]
    text = train_tokenizer._TrainingText(*corpus_and_rule(texts), use_all=False, progress=ProgressReporter())
    assert 40_000 <= sum(map(len, text.chunks())) <= 41_000


def corpus_and_rule(paths, **options):
    with open_sources(paths, **options) as corpus:
        return corpus, choose_rule(corpus, 0)


def taken(paths, max_tokens=None, **options):
    """Number of characters that a tokenizer is trained on, and whether it reached its limit."""
    text = train_tokenizer._TrainingText(
        *corpus_and_rule(paths, **options), use_all=False, progress=ProgressReporter(), max_tokens=max_tokens
    )
    assert sum(map(len, text.chunks())) == text.used
    return text.used, text.is_full


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_a_small_corpus_is_used_completely_in_every_format(tmp_path, rows, sentences, monkeypatch):
    """Also if most of it is in the first row."""
    monkeypatch.setattr(train_tokenizer, "MAX_TRAIN_CHARS", 8_000_000)
    text = sentences(40_000)  # about 1.2 MB
    pq.write_table(pa.table({"text": [text, *["short"] * (rows - 1)]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in [text] + ["short"] * (rows - 1)))
    for name in ("a.parquet", "a.jsonl"):
        assert taken([tmp_path / name]) == (len(text) + 5 * (rows - 1), False)


def test_with_a_document_limit_all_of_those_documents_are_used(tmp_path, sentences, monkeypatch):
    monkeypatch.setattr(train_tokenizer, "MAX_TRAIN_CHARS", 20_000)
    monkeypatch.setattr(train_tokenizer, "CHUNK_CHARS", 500)
    texts = [sentences(10, i) for i in range(300)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert taken([tmp_path / "a.jsonl"], max_documents=20) == (sum(map(len, texts[:20])), False)
    n, enough = taken([tmp_path / "a.jsonl"], max_documents=200)
    assert enough
    assert 20_000 < n < 21_000


def test_with_a_token_limit_only_the_beginning_is_used(tmp_path, sentences, monkeypatch):
    monkeypatch.setattr(train_tokenizer, "CHUNK_CHARS", 500)
    (tmp_path / "a.txt").write_text(sentences(20_000))
    read, cut = [], train_tokenizer.chunk_text
    monkeypatch.setattr(train_tokenizer, "chunk_text", lambda text, size: (read.append(len(text)), cut(text, size))[1])
    n, enough = taken([tmp_path / "a.txt"], max_tokens=1000, chunk_bytes=2000)
    assert enough
    assert 8000 < n < 9000
    assert sum(read) < 12_000
    progress = RecordingProgress()
    prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer="bpe:300", max_tokens=1000, progress=progress)
    assert progress.messages == [f"tokenizer trained on the first {n:,} characters"]


def test_a_text_of_distinct_words_is_sampled_within_bounds(tmp_path, monkeypatch):
    """Evenly, as far as possible."""
    monkeypatch.setattr("groundup.sources.text.MAX_UNCUT_CHARS", 500)
    monkeypatch.setattr("groundup.sources.gutenberg.MAX_HEADER_CHARS", 500)  # which are read ahead
    monkeypatch.setattr(train_tokenizer, "MAX_WORD_BYTES", 40_000)
    monkeypatch.setattr(train_tokenizer, "CHUNK_CHARS", 500)
    random_ = random.Random(0)
    (tmp_path / "a.txt").write_text("".join(random_.choices("的一是不了人我在有他这中大来上个国，。", k=100_000)))
    text = train_tokenizer._TrainingText(
        *corpus_and_rule([tmp_path / "a.txt"], chunk_bytes=3000), use_all=False, progress=ProgressReporter()
    )
    parts = list(text.chunks())
    assert 40_000 < sum(len(word.encode()) for word in text._words) < 60_000
    assert text.skipped == 100_000 - sum(map(len, parts))
    assert text.used < 40_000
    text = (tmp_path / "a.txt").read_text()
    assert text.index(parts[len(parts) // 2]) > 20_000
    assert text.index(parts[-1]) > 90_000


def test_a_lossy_tokenizer_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(ByteTokenizer, "lossy", "drops nothing, to be true", raising=False)
    (tmp_path / "a.txt").write_text("some text to be told about")
    progress = RecordingProgress()
    prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer="byte", progress=progress)
    assert progress.messages == ["tokenizer byte: drops nothing, to be true"]


def words_tokenizer(path, *known):
    """A tokenizer.json with a vocabulary of these words."""
    vocab = {word: i for i, word in enumerate(("<unk>", "</s>", *known))}
    engine = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    engine.save(str(path))
    return str(path)


@pytest.mark.parametrize("many", [False, True])
def test_a_tokenizer_that_does_not_know_the_text_is_refused(tmp_path, many):
    few = words_tokenizer(tmp_path / "few.json", "known")
    text = "known unknowable words. " * (40_000 if many else 10)
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(TokenizerError, match=r"tokenizer json: knows only 24 % of the text's characters, .* byte or"):
        prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer=few)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "few.json"]


def test_a_tokenizer_that_lacks_a_few_characters_gets_a_line(tmp_path):
    some = words_tokenizer(tmp_path / "some.json", *"a small text of which nearly all is".split())
    (tmp_path / "a.txt").write_text("a small text of which nearly all is known " * 100)
    progress = RecordingProgress()
    prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer=some, val_fraction=0, progress=progress)
    assert progress.messages[-1] == "tokenizer json: knows 85.1 % of the text's characters; the rest is lost"
    words_tokenizer(tmp_path / "some.json", *"a small text of which nearly all is known".split())
    prepare([tmp_path / "a.txt"], tmp_path / "out2", tokenizer=some, val_fraction=0, progress=progress)
    assert progress.messages[-1].startswith("tokenizer json: decoding does not give back")


@pytest.mark.parametrize(
    ("options", "split"),
    [({"max_tokens": 1}, "train"), ({"max_tokens": 5}, "val"), ({"max_tokens": 2, "val_fraction": 0.5}, "train")],
)
def test_too_few_tokens_for_a_split_are_named(tmp_path, options, split, sentences):
    (tmp_path / "a.txt").write_text(sentences(50))
    with pytest.raises(DataError, match=rf"max_tokens \d: leaves none for the {split} split, .* a larger --max-tokens"):
        prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer="byte", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


HARD = {
    "emoji": "👩‍👩‍👧‍👦🙂🏳️‍🌈" * 200,
    "Chinese": "道可道，非常道。名可名，非常名。" * 100,
    "code": "def f(x):\n\treturn {'a': [x ** 2 for x in range(10)]}  # ok\n" * 50,
    "one repeated character": "a" * 100_000,
    "repeated spaces": " " * 100_000 + "x",
    "300 bytes": "word " * 60,
    "CRLF": "one line\r\nanother\r\n\r\n" * 50,
    "one character": "x",
    "one long line": "long " * 400_000,
    "right to left": "שלום עולם " * 50,
    "zero bytes in JSON": "a\0b" * 50,
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("tokenizer", ["byte", "char", "gpt2", "bpe:300", "bpe:5000"])
def test_every_text_round_trips_or_gets_one_sentence(tmp_path, name, tokenizer):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": HARD[name]}))
    if name == "one character":
        with pytest.raises(GroundupError, match="no text is left to train on"):
            prepare([tmp_path / "a.jsonl"], tmp_path / "out", tokenizer=tokenizer)
        assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
        return
    prepare([tmp_path / "a.jsonl"], tmp_path / "out", tokenizer=tokenizer)
    assert "".join(text_of(tmp_path / "out", "train") + text_of(tmp_path / "out", "val")) == HARD[name]


MEASURED = """
import re, sys
from pathlib import Path
from groundup.preprocess import train_tokenizer
from groundup.preprocess.pipeline import prepare
if len(sys.argv) > 4:
    train_tokenizer.MAX_WORD_BYTES = int(sys.argv[4])
prepare([sys.argv[1]], Path(sys.argv[2]), tokenizer=sys.argv[3], threads=2)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


CHINESE, LETTERS = "的一是不了人我在有他这中大来上个国，。", string.ascii_letters + string.digits


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no /proc to read the peak memory from")
@pytest.mark.parametrize(
    ("kind", "alphabet"),
    [
        ("gpt2", LETTERS),
        pytest.param("json", CHINESE, marks=pytest.mark.long),
        pytest.param("bpe", CHINESE, marks=pytest.mark.long),
        pytest.param("bpe", LETTERS, marks=pytest.mark.long),
        pytest.param("gpt2", CHINESE, marks=pytest.mark.long),
        pytest.param("json", LETTERS, marks=pytest.mark.long),
    ],
)
def test_memory_does_not_grow_with_a_text_that_has_no_spaces(tmp_path, kind, alphabet):
    text = "".join(random.Random(0).choices(alphabet, k=4_000_000))
    if kind != "gpt2":
        BPETokenizer.train([text[:100_000]], n_vocab=400).save(tmp_path / "tokenizer")
    given = {"bpe": tmp_path / "tokenizer", "json": tmp_path / "tokenizer" / "tokenizer.json", "gpt2": "gpt2"}[kind]
    peak = {}
    for n in (200_000, 4_000_000):
        (tmp_path / f"{n}.txt").write_text(text[:n])
        command = [sys.executable, "-c", MEASURED, tmp_path / f"{n}.txt", tmp_path / f"out-{n}", str(given)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak[n] = int(done.stdout) / 1000
    assert peak[4_000_000] - peak[200_000] < 80, f"peak memory in MB: {peak}"


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="no /proc to read the peak memory from")
@pytest.mark.parametrize(
    ("characters", "word_bytes", "most", "unbounded"),
    [
        (7_000_000, 1_000_000, 900_000, 1_550_000),
        (12_000_000, train_tokenizer.MAX_WORD_BYTES, 1_200_000, 3_000_000),
    ],
)
def test_training_memory_is_bounded_for_distinct_words(tmp_path, characters, word_bytes, most, unbounded):
    text = "".join(random.Random(0).choices("的一是不了人我在有他这中大来上个国，。", k=characters))
    (tmp_path / "a.txt").write_text(text)
    command = [sys.executable, "-c", MEASURED, tmp_path / "a.txt", tmp_path / "out", "bpe:300", str(word_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < most, f"peak memory in kB; {unbounded:,} if all of it were learnt from"


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [20, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("tokenizer", ["byte", "gpt2"])
@pytest.mark.parametrize("word", ["word ", "字"])
def test_one_line_of_many_megabytes_is_prepared(tmp_path, tokenizer, word, megabytes):
    n = megabytes * 1_000_000 // len(word.encode())
    (tmp_path / "a.txt").write_text(word * n)
    manifest = prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer=tokenizer, val_fraction=0)
    assert manifest.splits["train"].bytes == n * len(word.encode())


def test_an_old_manifest_still_loads(tmp_path):
    """Manifest of the first version."""
    old = {
        "format": 1,
        "dtype": "uint16",
        "tokenizer": {"name": "byte", "n_vocab": 257, "fingerprint": choose_tokenizer("byte").fingerprint},
        "splits": {
            "train": {"tokens": 2, "bytes": 1, "documents": 1, "shards": [
                {"file": "train-00000.bin", "tokens": 2, "sha256": "0" * 64}]},
            "val": {"tokens": 0, "bytes": 0, "documents": 0, "shards": []},
        },
        "split": {"rule": "last part of each document", "val_fraction": 0.1},
        "sources": ["a.txt"],
    }  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    manifest = Manifest.load(tmp_path)
    assert manifest.splits["train"].tokens == 2
    moved = manifest.model_copy(update={"sources": ("elsewhere/a.txt",)})
    assert moved.fingerprint == manifest.fingerprint
