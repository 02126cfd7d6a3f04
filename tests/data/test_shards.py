"""Tokens on disk: they are read as written, and damage is found."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data.shard_writer import ShardWriter, check_written
from groundup.data.shards import (
    DOCUMENT,
    Documents,
    Manifest,
    SplitRule,
    TokenizerInfo,
    Tokens,
    check_files,
    dtype_for,
)
from groundup.errors import DataError


def write(folder, train, val=(), *, shard_tokens=4, n_vocab=257):
    """Write a folder with the given lists of ids as documents, each in two pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype, splits = dtype_for(n_vocab), {}
    for name, documents in {"train": train, "val": val}.items():
        with ShardWriter(folder, name, dtype, shard_tokens) as writer:
            for i, ids in enumerate(documents):
                writer.begin_document(source=i % 2, offset=100 * i)
                writer.write(np.array(ids[:1], np.uint32), 1)
                writer.write(np.array(ids[1:], np.uint32), len(ids) - 1)
            splits[name] = writer.finish()
    info = TokenizerInfo(name="byte", n_vocab=n_vocab, fingerprint="0" * 64)
    rule = SplitRule(rule="documents by hash", val_fraction=0.1)
    manifest = Manifest(dtype=dtype, tokenizer=info, splits=splits, split=rule, sources=("even.txt", "odd.txt"))
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return manifest


documents = st.lists(st.lists(st.integers(0, 256), min_size=1, max_size=12), max_size=6)


@given(documents=documents, shard_tokens=st.integers(1, 9), data=st.data())
def test_any_range_reads_as_if_there_were_one_file(tmp_path_factory, documents, shard_tokens, data):
    folder = tmp_path_factory.mktemp("shards")
    write(folder, documents, shard_tokens=shard_tokens)
    ids = [id_ for document in documents for id_ in document]
    tokens = Tokens.open(folder, "train")
    start = data.draw(st.integers(0, len(ids)))
    n = data.draw(st.integers(0, len(ids) - start))
    read = tokens.read(start, n)
    assert len(tokens) == len(ids)
    assert read.dtype == np.int64
    assert read.tolist() == ids[start : start + n]


@given(documents=documents.filter(len), data=st.data())
def test_documents_are_found_where_a_scan_finds_them(tmp_path_factory, documents, data):
    folder = tmp_path_factory.mktemp("shards")
    manifest = write(folder, documents)
    owner = [i for i, document in enumerate(documents) for _ in document]
    start = data.draw(st.integers(0, len(owner) - 1))
    n = data.draw(st.integers(1, len(owner) - start))
    firsts = [owner.index(i) for i in sorted(set(owner[start : start + n]))]
    found = Documents.open(folder, manifest, "train").spans(start, n)
    assert [part.begin for part in found] == firsts
    assert all(
        part.source == ("even.txt", "odd.txt")[owner[part.begin] % 2] and part.offset == 100 * owner[part.begin]
        for part in found
    )


@settings(deadline=None)  # it waits for the disk
@given(
    before=documents,
    lost=documents,
    after=documents,
    shard_tokens=st.integers(1, 9),
)
def test_a_writer_resumes_from_the_flushed_state_of_another(tmp_path_factory, before, lost, after, shard_tokens):
    """Unflushed writes of the first writer are discarded."""

    def append(writer, documents):
        for ids in documents:
            writer.begin_document(source=0, offset=len(ids))
            writer.write(np.array(ids, np.uint32), len(ids))

    cut, complete = tmp_path_factory.mktemp("cut"), tmp_path_factory.mktemp("complete")
    with ShardWriter(cut, "train", "uint16", shard_tokens) as writer:
        append(writer, before)
        done = writer.flush()
        append(writer, lost)
    with ShardWriter(cut, "train", "uint16", shard_tokens, done) as writer:
        append(writer, after)
        split = writer.finish()
    with ShardWriter(complete, "train", "uint16", shard_tokens) as writer:
        append(writer, before + after)
        assert writer.finish() == split
    assert {p.name: p.read_bytes() for p in cut.iterdir()} == {p.name: p.read_bytes() for p in complete.iterdir()}


def test_truncated_files_cannot_be_resumed(tmp_path):
    with ShardWriter(tmp_path, "train", "uint16", 4) as writer:
        writer.begin_document(0, 0)
        writer.write(np.arange(6), 6)
        done = writer.flush()
    for name in ("train-00000.bin", "train-00001.bin", "documents-train.bin"):
        contents = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(contents[:-1])
        with pytest.raises(DataError, match=rf"{name}: \d+ bytes, but \d+ were written; discard .* --overwrite"):
            check_written(tmp_path, "train", "uint16", done)
        (tmp_path / name).write_bytes(contents)


@pytest.mark.parametrize("name", ["train-00001.bin", "documents-train.bin", "documents-val.bin"])
def test_unfinished_files_that_are_links_are_not_written_to(tmp_path, name):
    """Of the validation split there is no document yet: its file would be emptied."""
    done = {}
    for split, n in ("train", 6), ("val", 0):
        with ShardWriter(tmp_path, split, "uint16", 4) as writer:
            if n:
                writer.begin_document(0, 0)
                writer.write(np.arange(n), n)
            done[split] = writer.flush()
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(__file__)
    split = "val" if "val" in name else "train"
    with pytest.raises(DataError, match=rf"{name}: is a link; discard the unfinished work with --overwrite"):
        check_written(tmp_path, split, "uint16", done[split])


@pytest.mark.parametrize(("start", "n"), [(-1, 1), (0, 7), (7, 0), (0, -1)])
def test_reading_beyond_the_ends_is_an_error(tmp_path, start, n):
    write(tmp_path, [[1, 2, 3], [4, 5, 6]])
    with pytest.raises(IndexError):
        Tokens.open(tmp_path, "train").read(start, n)


@pytest.mark.parametrize(("n_vocab", "dtype"), [(1 << 16, "<u2"), ((1 << 16) + 1, "<u4")])
def test_shards_are_bare_little_endian_ids(tmp_path, n_vocab, dtype):
    manifest = write(tmp_path, [[n_vocab - 1, 1, 2], [3, 4, 5]], n_vocab=n_vocab)
    parts = [np.fromfile(tmp_path / name, dtype).tolist() for name in ("train-00000.bin", "train-00001.bin")]
    assert parts == [[n_vocab - 1, 1, 2, 3], [4, 5]]
    assert [shard.tokens for shard in manifest.splits["train"].shards] == [4, 2]


def test_checksums_are_those_of_the_files(tmp_path):
    for shard in write(tmp_path, [[1, 2, 3, 4, 5]]).splits["train"].shards:
        assert shard.sha256 == hashlib.sha256((tmp_path / shard.file).read_bytes()).hexdigest()


def test_the_manifest_counts_what_was_written(tmp_path):
    manifest = write(tmp_path, [[1, 2, 3], [4, 5]], val=[[6]])
    train, val = manifest.splits["train"], manifest.splits["val"]
    assert (train.tokens, train.bytes, train.documents) == (5, 5, 2)
    assert (val.tokens, val.bytes, val.documents) == (1, 1, 1)


def test_an_empty_split_is_empty(tmp_path):
    manifest = write(tmp_path, [[1]])
    assert len(Tokens.open(tmp_path, "val")) == 0
    assert Documents.open(tmp_path, manifest, "val").spans(0, 0) == []


def test_a_manifest_round_trips(tmp_path):
    manifest = write(tmp_path, [[1, 2, 3]])
    assert Manifest.load(tmp_path) == manifest
    assert Manifest.load(tmp_path).fingerprint == manifest.fingerprint


def test_one_different_token_changes_the_fingerprint(tmp_path):
    assert write(tmp_path / "a", [[1, 2, 3]]).fingerprint != write(tmp_path / "b", [[1, 2, 4]]).fingerprint


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no manifest\.json here; prepare its text first: groundup prepare "):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, while this groundup reads format 1; update it"),
        ({"dtype": "int8"}, r"not a manifest of groundup \(dtype: "),
        ({"splits": {}}, r"not a manifest of groundup \(splits: "),
        ({"colour": "blue"}, r"not a manifest of groundup \(colour: "),
        ({"sources": None}, r"not a manifest of groundup \(sources: "),
    ],
)
def test_a_foreign_manifest_is_refused(tmp_path, changes, message):
    write(tmp_path, [[1, 2, 3]])
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DataError, match=message):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("changes", [{"tokens": 4}, {"tokens": 10**18}, {"bytes": 0}, {"shards": []}])
def test_a_manifest_whose_counts_contradict_each_other_is_refused(tmp_path, changes):
    write(tmp_path, [[1, 2, 3]], [[4, 5, 6, 7, 8]])
    path = tmp_path / "manifest.json"
    values = json.loads(path.read_text())
    values["splits"]["val"] |= changes
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"not a manifest of groundup \(splits\.val: .* shards hold \d tokens\)"):
        Manifest.load(tmp_path)


def test_a_truncated_manifest_is_refused(tmp_path):
    write(tmp_path, [[1, 2, 3]])
    path = tmp_path / "manifest.json"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="not a manifest of groundup"):
        Manifest.load(tmp_path)


def test_a_truncated_shard_is_refused(tmp_path):
    write(tmp_path, [[1, 2, 3, 4, 5]])
    path = tmp_path / "train-00001.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"train-00001\.bin: 1 bytes, but the manifest says 2"):
        Tokens.open(tmp_path, "train")


def test_a_missing_shard_is_refused(tmp_path):
    write(tmp_path, [[1, 2, 3, 4, 5]])
    (tmp_path / "train-00000.bin").unlink()
    with pytest.raises(DataError, match=r"train-00000\.bin: cannot be read \(No such file or directory\)"):
        Tokens.open(tmp_path, "train")


def test_a_missing_index_of_documents_is_refused(tmp_path):
    manifest = write(tmp_path, [[1, 2, 3, 4, 5]])
    (tmp_path / "documents-train.bin").unlink()
    with pytest.raises(DataError, match=r"documents-train\.bin: cannot be read"):
        Documents.open(tmp_path, manifest, "train")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("source", 2, "document 1 is byte 100 of source 2, and there are 2;"),
        ("source", 2**32 - 1, "document 1 is byte 100 of source 4,294,967,295"),
        ("offset", 2**63, "document 1 is byte 9,223,372,036,854,775,808 of source 1"),
        ("start", 2**60, "document [01] is tokens .* which cannot be"),
        ("start", 2**64 - 1, "document [01] is tokens .* which cannot be"),
        ("start", 10, "document [01] is tokens .* which cannot be"),
    ],
)
def test_an_impossible_document_record_is_one_sentence(tmp_path, field, value, message):
    manifest = write(tmp_path, [[1, 2, 3], [4, 5], [6, 7]])
    path = tmp_path / "documents-train.bin"
    records = np.fromfile(path, DOCUMENT)
    records[1][field] = value
    records.tofile(path)
    with pytest.raises(DataError, match=rf"documents-train\.bin: {message}.*doctor"):
        Documents.open(tmp_path, manifest, "train").spans(2, 4)


def test_the_checksum_of_documents_is_in_the_manifest_but_not_in_the_fingerprint(tmp_path):
    manifest = write(tmp_path, [[1, 2, 3], [4, 5]])
    for name, split in manifest.splits.items():
        digest = hashlib.sha256((tmp_path / f"documents-{name}.bin").read_bytes()).hexdigest()
        assert split.documents_sha256 == digest
    older = {name: split.model_copy(update={"documents_sha256": None}) for name, split in manifest.splits.items()}
    assert manifest.model_copy(update={"splits": older}).fingerprint == manifest.fingerprint


def test_folders_without_that_checksum_keep_their_fingerprint():
    place = Path(__file__).parents[1] / "fixtures" / "format-1"
    (metadata,) = place.glob("run/checkpoints/*/progress.json")
    assert Manifest.load(place / "data").fingerprint == json.loads(metadata.read_text())["data"]


@pytest.mark.parametrize("name", ["documents-train.bin", "documents-val.bin", "train-00000.bin", "val-00000.bin"])
def test_a_flipped_bit_in_any_file_is_found_by_its_checksum(tmp_path, name):
    manifest = write(tmp_path, [[1, 2, 3], [4, 5]], val=[[6, 7]])
    path = tmp_path / name
    complete = path.read_bytes()
    check_files(tmp_path, manifest, checksums=True)
    for place in range(len(complete)):
        path.write_bytes(complete[:place] + bytes([complete[place] ^ 1]) + complete[place + 1 :])
        with pytest.raises(DataError, match=rf"{name}: damaged \(its checksum is not the manifest's\)"):
            check_files(tmp_path, manifest, checksums=True)


def test_an_id_outside_of_the_vocabulary_is_reported_with_its_position(tmp_path):
    write(tmp_path, [[1, 2, 3, 4, 5, 6, 7]])
    path = tmp_path / "train-00001.bin"
    ids = np.fromfile(path, "<u2")
    ids[1] = 40_000
    ids.tofile(path)
    tokens = Tokens.open(tmp_path, "train")
    assert tokens.read(0, 5).tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(DataError, match=r"split train: token 5 is 40000, but the tokenizer has 257 ids.*doctor"):
        tokens.read(3, 4)


@pytest.mark.parametrize("number", [0, 10**400, -1, 2**63, 1.5, "1", None])
def test_a_split_of_an_impossible_size_is_refused(number, tmp_path):
    write(tmp_path, [[1, 2, 3]])
    path = tmp_path / "manifest.json"
    values = json.loads(path.read_text())
    values["splits"]["train"]["bytes"] = number
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"not a manifest of groundup \(splits\.train(\.bytes)?: "):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "device", "deep", "large"])
def test_a_manifest_that_cannot_be_one_is_one_sentence(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("groundup.data.shards.MAX_MANIFEST_BYTES", 500_000)
    path = tmp_path / "manifest.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text({"deep": "[" * 100_000, "large": "{}" + " " * 500_001}[kind])
    reason = {"large": "larger than 500,000 bytes.*"}.get(kind, ".*")
    with pytest.raises(DataError, match=rf"manifest\.json: not a manifest of groundup \({reason}\); prepare the data"):
        Manifest.load(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="named pipes")
def test_a_pipe_in_the_place_of_an_empty_file_is_one_sentence(tmp_path):
    manifest = write(tmp_path, [[1, 2, 3]])
    (tmp_path / "documents-val.bin").unlink()
    os.mkfifo(tmp_path / "documents-val.bin")
    with pytest.raises(DataError, match=r"documents-val\.bin: cannot be read"):
        Documents.open(tmp_path, manifest, "val")


@pytest.mark.parametrize("file", ["train-00001.bin", "documents-train.bin"])
def test_a_file_that_is_cut_short_while_it_is_in_use_is_one_sentence(tmp_path, file):
    manifest = write(tmp_path, [[1, 2, 3], [4, 5, 6, 7]])
    tokens, documents = Tokens.open(tmp_path, "train"), Documents.open(tmp_path, manifest, "train")
    size = (tmp_path / file).stat().st_size
    os.truncate(tmp_path / file, size - 1)
    with pytest.raises(DataError, match=rf"{file}: {size - 1} bytes now, and {size} when it was opened"):
        tokens.read(0, len(tokens)), documents.spans(0, len(tokens))


def test_a_disk_that_fails_while_a_shard_is_in_use_is_one_sentence(tmp_path, monkeypatch):
    write(tmp_path, [[1, 2, 3]])
    tokens = Tokens.open(tmp_path, "train")

    def fail(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(DataError, match=r"train-00000\.bin: cannot be read \(Input/output error\)"):
        tokens.read(0, 2)


def test_shards_are_read_where_the_system_knows_no_offsets(tmp_path, monkeypatch):
    write(tmp_path, [[1, 2, 3, 4, 5]])
    monkeypatch.delattr(os, "pread")
    assert Tokens.open(tmp_path, "train").read(1, 4).tolist() == [2, 3, 4, 5]
