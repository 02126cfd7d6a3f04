"""`bench.gpu` without a GPU: whatever fails, the other results are kept."""

import importlib.metadata
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks are run from a checkout, not part of the package

from bench import gpu, gpu_device, gpu_machine
from bench.contenders import NANO, Peer, open_setup
from bench.gpu import SUBJECTS, allowance, measure, supervise, table, wanted, write_metadata
from bench.gpu_child import FUNCTIONS, Job, run
from bench.gpu_table import HEADINGS, Row
from bench.gpu_training import LossCurve

from groundup.model.gpt import NextTokenLoss

NAMES = [subject.name for subject in SUBJECTS]


@pytest.fixture
def watched(tmp_path):
    """Run a small program as a subject for at most `seconds`."""

    def call(program, seconds=30.0):
        out = tmp_path / "out.json"
        command = [sys.executable, "-S", "-c", program, str(out)]
        return supervise(command, out, tmp_path / "log", seconds, dict(os.environ))

    return call


FOUND = 'import json, os, sys, time; open(sys.argv[1], "w").write(json.dumps({"rows": [{"name": "a"}]})); '


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("", "done"),
        ("print('boom', flush=True); os._exit(3)", "failed (exit status 3)"),
        ("os.kill(os.getpid(), 9)", "failed (SIGKILL)"),
    ],
)
def test_results_of_a_subject_are_kept_however_it_ends(watched, program, status):
    found = watched(FOUND + program)
    assert (found["status"], found["rows"]) == (status, [{"name": "a"}])
    assert ("log_tail" in found) == (status != "done")
    assert "boom" not in program or "boom" in found["log_tail"]


def test_a_hanging_subject_is_killed_at_its_deadline_with_its_children(watched, tmp_path):
    child = tmp_path / "child"
    program = f'pid = os.fork(); open({str(child)!r}, "w").write(str(pid)) if pid else 0; time.sleep(600)'
    began = time.monotonic()
    found = watched(FOUND + program, seconds=1.0)
    assert found["status"] == "stopped after 1 s"
    assert found["rows"] == [{"name": "a"}]
    assert time.monotonic() - began < 300
    state = Path(f"/proc/{child.read_text()}/stat")
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < began + 300:
        time.sleep(0.01)
    assert not state.exists() or state.read_text().split()[2] == "Z"


class Scripted:
    """Replaces a workspace: subjects with given durations and results."""

    def __init__(self, path, results=None, minutes=10.0, takes=0.0, dry_run=False):
        self.args = SimpleNamespace(json=path, minutes=minutes, dry_run=dry_run)
        self.results, self.takes, self.now, self.given, self.saved = results or {}, takes, 0.0, {}, []

    def run(self, subject, seconds):
        if self.args.json and self.args.json.exists():
            self.saved.append(list(json.loads(self.args.json.read_text())["subjects"]))
        self.given[subject.name] = seconds
        self.now += self.takes if isinstance(self.takes, float) else self.takes.get(subject.name, 0.0)
        usual = {"status": "done", "rows": [], "facts": {"gpu": True, "machine": {}}, "notes": []}
        return usual | self.results.get(subject.name, {})

    def measure(self, chosen, seconds):
        found = {"subjects": {}}
        return measure(chosen, self, found, seconds, clock=lambda: self.now), found["subjects"]


def test_the_file_is_rewritten_after_each_subject(tmp_path):
    place = Scripted(tmp_path / "found.json", {"ceilings": {"status": "failed (SIGKILL)", "rows": []}})
    message, found = place.measure(SUBJECTS, 600.0)
    assert message is None
    assert place.saved == [NAMES[:n] for n in range(1, len(NAMES))]
    assert list(json.loads((tmp_path / "found.json").read_text())["subjects"]) == list(found) == NAMES


def test_unused_time_goes_to_the_next_subjects_within_the_total(tmp_path):
    assert allowance(100.0, [1, 3]) == 25.0
    assert allowance(-1.0, [1, 3]) == 0.0
    quick, slow = Scripted(None), Scripted(None)
    quick.measure(SUBJECTS, 600.0)
    slow.run = lambda subject, seconds: (setattr(slow, "takes", seconds), Scripted.run(slow, subject, seconds))[1]
    slow.measure(SUBJECTS, 600.0)
    assert quick.given["ablation"] == pytest.approx(600.0)  # none was used
    assert slow.now == pytest.approx(600.0)
    assert all(slow.given[s.name] == pytest.approx(600 * s.share / sum(o.share for o in SUBJECTS)) for s in SUBJECTS)


def test_a_subject_without_time_is_skipped_and_reported(capsys):
    place = Scripted(None, takes={"exact": 600.0})
    _, found = place.measure(SUBJECTS, 600.0)
    assert list(place.given) == ["can-run", "ceilings", "exact"]
    assert {found[name]["status"] for name in NAMES[3:]} == {"skipped, no time left"}
    assert "loss: skipped, no time left" in capsys.readouterr().err
    assert table(found).count("skipped, no time left") == len(NAMES) - 3


def test_without_a_gpu_nothing_is_measured():
    place = Scripted(None, {"can-run": {"facts": {"gpu": False, "machine": {}}}})
    message, found = place.measure(SUBJECTS, 600.0)
    assert message == "bench.gpu: torch finds no NVIDIA GPU here, so there is nothing to measure."
    assert (found, list(place.given)) == ({}, ["can-run"])


def test_a_missing_package_is_one_line_before_anything_is_measured():
    place = Scripted(None, {"can-run": {"status": "failed", "facts": {}, "notes": ["missing: pydantic"]}})
    message, _ = place.measure(SUBJECTS, 600.0)
    assert message == "bench.gpu: cannot run here: missing: pydantic"
    assert list(place.given) == ["can-run"]


def test_missing_packages_are_named_as_groundup_requires_them(tmp_path, monkeypatch):
    assert {"torch", "numpy", "pydantic", "pyyaml", "zstandard"} < set(gpu_machine.dependencies())
    monkeypatch.setattr(gpu_machine, "dependencies", lambda: ["torch", "zstandard", "pydantic"])
    monkeypatch.setattr(gpu_machine, "find_spec", lambda name: name == "torch" or None)
    job = Job("can-run", 1.0, tmp_path / "out.json", tmp_path)
    assert run(job) == 1
    assert json.loads(job.out.read_text())["error"] == "ImportError: missing: pydantic"


def test_without_an_installation_the_metadata_comes_from_pyproject(tmp_path, monkeypatch):
    assert write_metadata(tmp_path) is None

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(gpu.importlib.metadata, "version", missing)
        folder = write_metadata(tmp_path)
    (found,) = importlib.metadata.distributions(path=[str(folder)])
    assert (found.name, found.version) == ("groundup", importlib.metadata.version("groundup"))
    assert any(line.startswith("torch>=2.9") for line in found.requires)


def test_selected_subjects_include_their_prerequisites():
    def names(only, text):
        return [subject.name for subject in wanted(only, text=text)]

    assert names(None, True) == NAMES
    assert names(["loss", "ablation"], True) == ["can-run", "prepare", "loss", "ablation"]
    assert names(["loss"], True) == ["can-run", "loss"]
    assert not {"prepare", "time-to-loss", "first-step", "ablation"} & set(names(None, False))
    assert set(FUNCTIONS) == set(NAMES)


def test_the_table_has_a_line_for_each_row_and_json_has_no_nan():
    row = Row("a", 12345.6, "tokens/s", 2.0, "peer", 1.5, 0.61, ">= 0.6", True)
    bad = Row("b", float("nan"), "", goal="<= 1", met=False)
    text = table({"exact": {"status": "stopped after 9 s", "rows": [row.as_dict(), bad.as_dict()]}})
    heading, _, first, second, third = text.splitlines()
    assert heading.split() == " ".join(HEADINGS).split()
    assert first.split("  ")[0] == "exact: a"
    assert all(part in first for part in ("12,346 tokens/s", "2 peer", "x 1.50", "61%", ">= 0.6", "met"))
    assert "NOT MET" in second
    assert third == "exact: stopped after 9 s"
    json.dumps(bad.as_dict(), allow_nan=False)


def test_a_failure_within_a_subject_is_a_note_and_the_rest_continues(tmp_path):
    job = Job("loss", 60.0, tmp_path / "out.json", tmp_path)
    assert job.attempt("complete", lambda: 1 / 0) is None
    job.add(Row("a", 1.0, "ms"))
    found = json.loads(job.out.read_text())
    assert found["notes"] == ["complete: left out (ZeroDivisionError: division by zero)"]
    assert [row["name"] for row in found["rows"]] == ["a"]


def test_time_to_a_loss_leaves_compiling_out_and_reads_between_evaluations():
    def step(n, dt, context=8):
        return {"event": "step", "step": n, "tokens": 100 * n, "dt": dt, "context": context}

    def evaluation(n, loss):
        return {"event": "eval", "step": n, "val_loss": loss}

    log = [step(1, 30.0), step(2, 1.0), step(3, 1.0), evaluation(3, 5.0), step(4, 60.0, 16), step(5, 2.0, 16)]
    log += [step(6, 2.0, 16), evaluation(6, 3.0)]
    curve = LossCurve.of(log)
    assert curve.losses == [(3, 300, 3.0, 5.0), (6, 600, 9.0, 3.0)]
    assert curve.compiling == pytest.approx(29.0 + 58.0)
    assert curve.tokens_per_s == pytest.approx(600 / 9)
    assert curve.until(4.0) == (450.0, 6.0)
    assert curve.until(5.5) == (300.0, 3.0)
    assert curve.until(2.9) is None
    assert LossCurve.of([]).losses == []


class Clock:
    """Fake GPU event; every call takes 2 ms."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = Clock.now

    def elapsed_time(self, other):
        return other.at - self.at


def test_a_gpu_is_timed_by_its_own_clock_and_peak_memory_is_reset(monkeypatch):
    done = []
    fake = {
        "synchronize": lambda device: done.append("wait"),
        "Event": Clock,
        "empty_cache": lambda: done.append("empty"),
        "reset_peak_memory_stats": lambda device: done.append("reset"),
        "memory_allocated": lambda device: 5,
        "max_memory_allocated": lambda device: 7,
    }
    for name, function in fake.items():
        assert hasattr(torch.cuda, name)
        monkeypatch.setattr(torch.cuda, name, function)

    def work():
        Clock.now += 2.0

    device = torch.device("cuda", 0)
    assert gpu_device.milliseconds(device, work, repeats=4, warm=1) == 2.0
    assert Clock.now == 10.0
    assert done == ["wait", "wait"]
    gpu_device.forget(device)
    assert done[2:] == ["empty", "reset"]
    assert (gpu_device.held(device), gpu_device.peak(device)) == (5, 7)
    assert (gpu_device.held(torch.device("cpu")), gpu_device.peak(torch.device("cpu"))) == (0, 0)


SMALL = NANO.config.model_copy(update={"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8})
TINY = replace(NANO, name="tiny", config=SMALL, rows=4)


def twin(gpt, adamw):
    """Peer that is our own model."""
    net = NextTokenLoss(gpt)
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=adamw.learning_rate, weight_decay=0.0)
    return Peer(net, lambda model, ids, targets: model(ids, targets) / ids.numel(), optimizer)


def test_a_peers_step_in_micro_batches_equals_the_full_step():
    def losses(task):
        with open_setup(task) as setup:
            return setup.theirs(twin, 4).train(4)

    complete, pieces = losses(TINY), losses(replace(TINY, micro_rows=2))
    assert np.abs(np.subtract(complete, pieces)).max() < 1e-5
    assert len(set(complete)) == 4


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--text", "missing.txt"], "--text: there is no missing.txt"),
        (["--nanogpt", "missing"], "--nanogpt: there is no missing"),
        (["--minutes", "0"], "--minutes 0: must be more than 0"),
        (["--only", "nothing"], "invalid choice"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(argv, sentence, capsys):
    with pytest.raises(SystemExit) as exit_:
        gpu.main(argv)
    assert exit_.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.long
def test_all_subjects_run_in_a_dry_run_on_a_cpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)  # the other tests', too
    assert gpu.main(["--dry-run", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())["subjects"]
    assert {name: one["status"] for name, one in found.items()} == dict.fromkeys(NAMES, "done")
    assert all(one["rows"] for name, one in found.items() if name != "can-run")
    left_out = [note for one in found.values() for note in one["notes"] if "left out" in note]
    assert all("ATTENTION" in note for note in left_out)  # kernels that CPUs do not have
    assert "time-to-loss: fast, a quarter of tokens" in capsys.readouterr().out
