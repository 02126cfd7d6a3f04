"""Checks of prepared data and of the machine: deliberate damage is found, healthy folders pass."""

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from packaging.specifiers import SpecifierSet

import groundup
from groundup.cli import doctor as command_line
from groundup.config.sections import TrackingConfig
from groundup.data.shard_writer import ShardWriter
from groundup.data.shards import DOCUMENT, MANIFEST, Documents, Manifest
from groundup.diagnostics import data_checks, machine
from groundup.diagnostics.data_checks import check_data
from groundup.diagnostics.finding import Finding
from groundup.kernels import cpu_build
from groundup.tracking.trackers import check
from groundup.utils.progress import ProgressReporter

DOCUMENTS = 300


@pytest.fixture(scope="module")
def healthy(tmp_path_factory, sentences) -> Path:
    """Prepared data with many documents, some of them held out."""
    folder = tmp_path_factory.mktemp("doctor")
    texts = [f"{i}: {sentences(20, seed=i)}" for i in range(DOCUMENTS)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    groundup.prepare([folder / "texts.jsonl"], folder / "data", tokenizer="byte")
    return folder / "data"


@pytest.fixture
def data(healthy, tmp_path) -> Path:
    return shutil.copytree(healthy, tmp_path / "data")


def found(folder, name):
    """The finding with this name."""
    findings = {finding.name: finding for finding in check_data(folder, ProgressReporter())}
    return findings[name]


def rewrite(folder, name, documents, *, source="texts.jsonl"):
    """Replace the documents of a split as `prepare` would write them, with valid checksums."""
    manifest = Manifest.load(folder)
    for path in folder.glob(f"{name}-*.bin"):
        path.unlink()
    with ShardWriter(folder, name, manifest.dtype, shard_tokens=1000) as writer:
        for i, ids in enumerate(documents):
            writer.begin_document(0, 100 * i)
            writer.write(np.array(ids, np.uint32), len(ids))
        split = writer.finish()
    changed = manifest.model_copy(update={"splits": {**manifest.splits, name: split}, "sources": (source,)})
    (folder / MANIFEST).write_text(changed.model_dump_json())


def documents_of(folder, name):
    """The ids of each document."""
    manifest = Manifest.load(folder)
    documents = Documents.open(folder, manifest, name)
    ids = np.concatenate([np.fromfile(folder / s.file, manifest.dtype) for s in manifest.splits[name].shards])
    return [ids[documents.begin(i) : documents.begin(i + 1)] for i in range(len(documents))]


def test_a_healthy_folder_passes(healthy):
    findings = list(check_data(healthy, ProgressReporter()))
    assert [finding.name for finding in findings] == ["checksums", "ids", "split", "copies", "held out", "tokenizer"]
    assert [finding for finding in findings if finding.status != "ok"] == []
    assert not any(finding.remedy for finding in findings)


def flipped(path, place):
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 0.5, 0.999999])
def test_a_flipped_bit_in_any_file_is_found(data, place):
    files = [path for path in data.rglob("*") if path.is_file() and path.name != "request.json"]  # not part of the data
    assert len(files) == 6
    for path in files:
        healthy = path.read_bytes()
        flipped(path, place)
        assert "problem" in {finding.status for finding in check_data(data, ProgressReporter())}, path
        path.write_bytes(healthy)
    assert {finding.status for finding in check_data(data, ProgressReporter())} == {"ok"}


def test_a_flipped_bit_in_a_shard_is_named(data):
    path = data / "train-00000.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    finding = found(data, "checksums")
    assert finding.status == "problem"
    assert "train-00000.bin of 2 damaged" in finding.sentence
    assert "prepare again" in finding.remedy


def test_a_file_cut_short_is_found(data):
    os.truncate(data / "val-00000.bin", 10)
    finding = found(data, "files")
    assert finding.status == "problem"
    assert "10 bytes, but the manifest says" in finding.sentence


@pytest.mark.parametrize("name", ["train", "val"])
@pytest.mark.parametrize(
    ("id_", "harm"), [(257, "only pads the embedding"), (319, "pads"), (320, "beyond any model's embedding")]
)
def test_an_id_out_of_range_is_found(data, name, id_, harm):
    documents = [ids.copy() for ids in documents_of(data, name)]
    documents[2][5] = id_
    rewrite(data, name, documents)
    finding = found(data, "ids")
    assert finding.status == "problem"
    assert harm in finding.sentence
    place = len(documents[0]) + len(documents[1]) + 5
    assert f"first {id_}, at token {place:,} of {name}" in finding.sentence
    assert finding.values["outside"] == 1
    assert found(data, "checksums").status == "ok"


def test_a_document_on_both_sides_of_the_split_is_found_with_its_positions(data):
    train, val = documents_of(data, "train"), documents_of(data, "val")
    rewrite(data, "train", [*train[:50], val[7], *train[50:]])
    places = Documents.open(data, Manifest.load(data), "val")
    finding = found(data, "split")
    assert finding.status == "problem"
    assert finding.values["documents"] == 1
    example = finding.values["example"]
    assert example["train"] == {"source": "texts.jsonl", "offset": 5000}
    assert example["val"] == {"source": "texts.jsonl", "offset": places.origin(7)[1]}
    assert "@5,000" in finding.sentence


def test_copies_and_empty_documents_are_counted(data):
    train = documents_of(data, "train")
    assert found(data, "copies").values == {"documents": len(train), "empty": 0, "repeated": 0}
    end = np.array([256])
    rewrite(data, "train", [end, *train, *train[:40], end])
    copies, empty = found(data, "copies"), found(data, "empty")
    assert copies.values == {"documents": len(train) + 42, "empty": 2, "repeated": 40}
    assert (copies.status, empty.status) == ("warning", "warning")
    rewrite(data, "train", [*train, train[0]])
    assert found(data, "copies").status == "ok"  # one copy does no harm


def test_empty_documents_on_both_sides_are_no_leak(data):
    end = np.array([256])
    for name in ("train", "val"):
        rewrite(data, name, [*documents_of(data, name), end])
    assert found(data, "split").status == "ok"


@pytest.mark.parametrize("chunk", [2, 10, 1000, 1 << 20])
def test_digests_do_not_depend_on_blocks_and_shards(data, monkeypatch, chunk):
    documents = [[1, 2, 3], [9], [4] * 2500, [1, 2, 3], [5] * 999, [7]]
    rewrite(data, "train", documents)
    monkeypatch.setattr(data_checks, "CHUNK_BYTES", chunk)
    manifest = Manifest.load(data)
    result = data_checks.scan(data, manifest, "train", Documents.open(data, manifest, "train"), ProgressReporter(), 0)
    assert result.lengths.tolist() == [len(ids) for ids in documents]
    assert result.digests[0] == result.digests[3]
    assert len(set(result.digests.tolist())) == 5
    assert result.damaged == []


def test_too_little_or_nothing_held_out_is_a_warning(data):
    rewrite(data, "val", [[1] * 100])
    finding = found(data, "held out")
    assert finding.status == "warning"
    assert "about 0.3 nats" in finding.sentence
    rewrite(data, "val", [])
    assert "no text" in found(data, "held out").sentence
    assert found(data, "split").status == "ok"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda records: records["start"].__setitem__(0, 1), "does not begin with the first token"),
        (lambda records: records["start"].__setitem__(3, 0), "not in order"),
        (lambda records: records["start"].__setitem__(-1, 10**9), "behind the last token"),
        (lambda records: records["source"].__setitem__(2, 99), "source that the manifest does not have"),
        (lambda records: records["offset"].__setitem__(2, 2**63), "farther into its source than any file is long"),
        (lambda records: records["offset"].__setitem__(2, 7), "its checksum is not the manifest's"),
    ],
    ids=["first", "order", "last", "source", "offset", "unlikely"],
)
def test_impossible_positions_of_documents_are_found(data, change, sentence):
    path = data / "documents-train.bin"
    records = np.fromfile(path, DOCUMENT)
    change(records)
    records.tofile(path)
    finding = found(data, "documents")
    assert finding.status == "problem"
    assert sentence in finding.sentence


def test_another_tokenizer_is_found(data, healthy, tmp_path):
    (tmp_path / "a.txt").write_text("some other text")
    groundup.prepare([tmp_path / "a.txt"], tmp_path / "other", tokenizer="char")
    shutil.rmtree(data / "tokenizer")
    shutil.copytree(tmp_path / "other" / "tokenizer", data / "tokenizer")
    assert "not the one that these tokens were made with" in found(data, "tokenizer").sentence
    shutil.rmtree(data / "tokenizer")
    assert found(data, "tokenizer").status == "problem"


def test_progress_reports_all_bytes(healthy):
    class Seen(ProgressReporter):
        done, total = 0, 0

        def phase(self, name, total, done=0):
            self.total = total

        def __call__(self, done):
            assert done > self.done
            self.done = done

    seen = Seen()
    list(check_data(healthy, seen))
    manifest = Manifest.load(healthy)
    assert seen.done == seen.total == sum(split.tokens for split in manifest.splits.values()) * 2


@pytest.mark.parametrize(
    ("have", "spec", "good"),
    [
        ("2.13.0+cpu", ">=2.9", True),
        ("2.8.1", ">=2.9", False),
        ("3.0", "<3,>=2.12", False),
        ("2.12", "<3,>=2.12", True),
        ("2.12.0", ">=2.12", True),
        ("2.9.0rc1", ">=2.9", True),
        ("3.11.2", ">=3.11", True),
    ],
)
def test_versions_are_compared_as_numbers(have, spec, good):
    assert machine.system.is_supported(have, SpecifierSet(spec)) is good
    assert (machine.version("torch", have, SpecifierSet(spec)).status == "ok") is good


def test_this_machine_has_the_libraries_and_a_missing_one_is_named(monkeypatch):
    assert {finding.status for finding in machine.libraries()} == {"ok"}
    real = machine.metadata.version

    def without_torch(name):
        if name == "torch":
            raise machine.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(machine.metadata, "version", without_torch)
    missing = [finding for finding in machine.libraries() if finding.status == "problem"]
    assert [finding.name for finding in missing] == ["torch"]
    assert missing[0].remedy.startswith("pip install 'torch")
    assert ">=" in missing[0].remedy


def test_versions_of_trackers_are_checked(monkeypatch):
    have = {"wandb": "0.31.2", "tensorboard": "2.21.0"}
    requirements = ["wandb<1,>=0.31; extra == 'track'", "tensorboard>=2; extra == 'track'", "ruff>=99; extra == 'dev'"]
    requirements.append("trackio>=0.43; extra == 'track'")

    def version(name):
        if name == "trackio":
            raise machine.metadata.PackageNotFoundError(name)
        return have.get(name, "0.1.0")

    monkeypatch.setattr(machine.metadata, "version", version)
    monkeypatch.setattr(machine.metadata, "requires", lambda _: requirements)
    monkeypatch.setattr(machine.metadata, "metadata", lambda _: {"Requires-Python": ">=3.11"})
    extra = next(finding for finding in machine.libraries() if finding.name == "extra track")
    assert (extra.status, extra.values) == ("ok", have)
    assert extra.sentence == "wandb 0.31.2, tensorboard 2.21.0; not installed: trackio"
    have["wandb"] = "0.1"
    old = next(finding for finding in machine.libraries() if finding.name == "wandb")
    assert old.status == "problem"
    assert "0.1, but groundup needs" in old.sentence


def test_a_checkout_that_was_never_installed_has_no_requirements(monkeypatch):
    def missing(name):
        raise machine.metadata.PackageNotFoundError(name)

    for name in ("version", "requires", "metadata"):
        monkeypatch.setattr(machine.metadata, name, missing)
    assert [(finding.name, finding.status) for finding in machine.libraries()] == [("libraries", "ok")]
    check(TrackingConfig(backends=("tensorboard",)))


def test_torch_that_cannot_be_loaded_is_a_finding(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise OSError("libtorch_cpu.so: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "meta_path", [Broken()])
    (finding,) = machine.torch_build()
    assert (finding.name, finding.status) == ("torch", "problem")
    assert "cannot be loaded (OSError: libtorch_cpu.so" in finding.sentence
    assert "install torch again" in finding.remedy


def test_a_quota_below_the_cores_is_seen(tmp_path, monkeypatch):
    (tmp_path / "membership").write_text("0::/a/b\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert machine.system.cpu_quota(tmp_path, tmp_path / "membership") == 0.5
    monkeypatch.setattr(machine.system, "cpu_quota", lambda *_: 0.5)
    finding = machine.cores()
    assert finding.status == "warning"
    assert "--train.threads 1" in finding.remedy


def test_the_disk_is_timed_and_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "SPEED_TEST_BYTES", 1 << 20)
    finding = machine.disk(tmp_path / "not" / "there" / "yet")
    assert finding.values["write_bytes_per_s"] > 0
    assert finding.values["read_bytes_per_s"] > 0
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(machine.system, "free_disk", lambda place: 1000)
    assert machine.disk(tmp_path).status == "problem"


def test_a_compiler_that_fails_or_hangs_is_a_warning():
    failed = machine.compiler(code="raise RuntimeError('no C++ compiler found')")
    assert failed.status == "warning"
    assert "no C++ compiler found" in failed.sentence
    assert "g++" in failed.remedy
    hung = machine.compiler(limit=0.5, code="import time; time.sleep(60)")
    assert "gave up after 0.5 s" in hung.sentence
    assert machine.compiler(code="").status == "ok"


def test_missing_kernels_are_a_warning_with_reason_and_remedy_unless_switched_off(monkeypatch):
    monkeypatch.setattr(cpu_build, "kernels", lambda: cpu_build.Kernels(None, reason="no compiler", remedy="get one"))
    assert machine.kernels().status == "warning"
    assert (machine.kernels().sentence.endswith(": no compiler"), machine.kernels().remedy) == (True, "get one")
    monkeypatch.setattr(cpu_build, "kernels", lambda: cpu_build.Kernels(None, reason="switched off"))
    assert machine.kernels().status == "ok"


def test_the_compiler_is_tried_without_modules_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "yaml.py").write_text("open('executed', 'w')")
    monkeypatch.chdir(tmp_path)
    assert machine.compiler(code="import yaml").status == "ok"
    assert not (tmp_path / "executed").exists()


def test_the_fastest_type_is_timed(monkeypatch):
    monkeypatch.setattr(machine, "TIMING_SECONDS", 0.01)
    values = machine.precision().values
    assert {"fp32", "bf16"} <= values.keys()
    assert min(values.values()) > 0


@pytest.fixture
def doctor(monkeypatch, command):
    """The command on a healthy machine."""
    well = Finding("machine", "cores", "ok", "2 cores usable")
    monkeypatch.setattr(command_line, "machine_findings", lambda folder: iter([well]))
    return partial(command, "doctor")


def test_the_command_ends_in_0_unless_there_is_a_problem(doctor, data):
    status, out, _ = doctor(data)
    assert status == 0
    assert out.endswith("no problems found\n")
    rewrite(data, "val", [[1] * 100])
    status, out, _ = doctor("--data", data)
    assert (status, out.splitlines()[-1]) == (0, "1 warning")
    (data / "train-00000.bin").unlink()
    status, out, _ = doctor(data)
    assert (status, out.splitlines()[-1]) == (1, "1 problem")
    assert "✗" in out
    assert "→ " in out


def test_json_is_one_object_and_nothing_else(doctor, data):
    status, out, _ = doctor(data, "--json")
    values = json.loads(out)
    assert (status, values["ok"]) == (0, True)
    assert values["findings"][0] == {
        "about": "machine",
        "name": "cores",
        "status": "ok",
        "sentence": "2 cores usable",
        "remedy": "",
        "values": {},
    }
    (data / "train-00000.bin").unlink()
    status, out, _ = doctor(data, "--json")
    assert (status, json.loads(out)["ok"]) == (1, False)


def test_a_folder_of_unknown_kind_is_refused(doctor, tmp_path):
    for path, sentence in ((tmp_path, "neither a run"), (tmp_path / "no", "no such folder")):
        status, out, err = doctor(path)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert sentence in err
