"""Arithmetic and promises of the benchmarks, at toy size; no real timing."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks are run from a checkout, not part of the package

from bench import __main__ as bench
from bench import generate, generation_peers, time_to_loss
from bench.measure import Options, Result, Row, interleaved
from bench.nanogpt import HINT
from bench.time_to_loss import FAST, OURS, THEIRS, judge, nanogpt_with_data, pinned, their_loss
from bench.worker import Failed

OPTIONS = Options(nanogpt=None, text=None, threads=1, rounds=1)

# Stands in for nanoGPT's model.py: finds every character equally likely.
UNIFORM = """
import math, torch
class GPTConfig:
    def __init__(self, vocab_size): self.vocab_size = vocab_size
class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n = config.vocab_size
    def forward(self, x, y):
        assert x.shape == y.shape and y.max() < self.n
        return None, torch.tensor(math.log(self.n))
"""
TRAIN = """
import os, pickle, sys, torch
assert "--max_iters=2000" in sys.argv
vocab_size = pickle.load(open("data/shakespeare_char/meta.pkl", "rb"))["vocab_size"]
os.makedirs("out-shakespeare-char", exist_ok=True)
saved = {"model_args": {"vocab_size": vocab_size}, "model": {}}
torch.save(saved, "out-shakespeare-char/ckpt.pt")
"""


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "peer"
    (folder / ".git").mkdir(parents=True)
    (folder / "model.py").write_text(UNIFORM)
    (folder / "train.py").write_text(TRAIN)
    return folder


@pytest.fixture
def text(tmp_path, sentences):
    path = tmp_path / "input.txt"
    path.write_text(sentences(300), encoding="utf-8")
    return path


def test_contenders_run_in_turn_and_a_ratio_compares_neighbours():
    order, values = [], iter([1, 10, 4, 8, 3, 3])

    def contender(name):
        def measure():
            order.append(name)
            return next(values)

        return measure

    a, b = interleaved({"a": contender("a"), "b": contender("b")}, 3)
    assert order == ["a", "b"] * 3
    assert (a.values, b.values) == ([1, 4, 3], [10, 8, 3])
    assert a.ratio(b) == 0.5  # of 0.1, 0.5 and 1; the medians' ratio would be 3/8


def timed(ours: list[float], theirs: list[float] | None) -> Result:
    rows = [Row(OURS, ours)] + ([Row(THEIRS, theirs)] if theirs else [])
    return Result("", "s", rows, baseline=THEIRS)


@pytest.mark.parametrize(
    ("ours", "losses", "failures"),
    [
        ([2.0, 2.0, 9.0], [1.5, 1.6, 1.7], []),
        ([2.6, 2.6, 2.6], [1.5, 1.6, 1.7], ["0.260 of nanoGPT's time; the goal is 0.25"]),
        ([2.0, 2.0, 2.0], [1.5, 1.9, 1.6], ["worst loss, 1.9000, is above 1.8000"]),  # in one round alone
        ([2.0, 2.0, 2.0], [math.nan, 1.5, 1.5], ["worst loss, nan"]),
        ([9.0, 9.0, 9.0], [1.5, 1.9, 1.6], ["worst loss", "0.900 of"]),
    ],
)
def test_a_promise_is_broken_by_the_median_time_or_the_worst_loss(ours, losses, failures):
    result = timed(ours, [10.0, 10.0, 10.0])
    judge(result, {OURS: losses, THEIRS: [1.8, 1.81, 1.82]})
    assert len(result.failures) == len(failures)
    assert all(part in failure for part, failure in zip(failures, result.failures, strict=True))
    assert any("at worst in 3 rounds" in note for note in result.notes)


def test_without_a_peer_there_is_no_promise():
    result = timed([99.0], None)
    judge(result, {OURS: [9.9]})
    assert result.failures == []


def test_all_in_fp32_must_generate_the_same_tokens():
    result = Result("", "tokens/s", [], baseline=generate.FP32)
    generate.judge(result, {generate.FP32: [5, 6], "a": [5, 6]}, 2)
    assert (result.notes, result.failures) == (["all in fp32 generate the same 2 tokens, 2 of them distinct"], [])
    generate.judge(result, {generate.FP32: [5, 6], "a": [5, 6], "b": [5, 7]}, 2)
    assert result.failures == [f"b: does not generate the 2 tokens of {generate.FP32}"]
    result.failures.clear()
    generate.judge(result, {generate.FP32: [5, 6]}, 3)  # ended early
    assert len(result.failures) == 1


TOY = replace(generate.SMALL, tokens=4, repeats=2)


def test_ours_generates_in_every_precision_and_several_rows(monkeypatch):
    monkeypatch.setattr(generate, "SETTLE", 0)
    result = generate.run(TOY, OPTIONS)
    assert result.failures == []
    assert [row.name for row in result.rows] == [
        *(f"groundup, {kind}" for kind in ("fp32", "bf16", "int8", "fp32, 8 rows", "int8, 8 rows")),
        "groundup, fp32, by PyTorch",
    ]
    assert any(note.startswith("groundup, int8: ") for note in result.notes)
    assert {HINT, generate.PEERS_HINT} <= set(result.notes)


def test_a_program_that_cannot_load_the_model_is_left_out_with_a_reason(tmp_path):
    with generate.PeerProcess(Path(sys.executable), "llama.cpp, fp32", tmp_path, 1) as peer:
        with pytest.raises(Failed, match="Error: "):  # it is not installed here, or there is no such file
            peer.answer()
        with pytest.raises(Failed, match="its process ended"):
            peer.generate(TOY, 1)


@pytest.mark.long
def test_another_program_generates_from_the_export(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(generate, "SETTLE", 0)
    monkeypatch.setattr(generation_peers, "PEERS", dict(list(generation_peers.PEERS.items())[:1]))
    result = generate.run(TOY, replace(OPTIONS, peers_python=Path(sys.executable)))
    assert [row.name for row in result.rows][-1] == "transformers, fp32"
    assert result.failures == []
    assert any(note.startswith("transformers, fp32: transformers ") for note in result.notes)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot hold a process to a core")
def test_processes_are_held_to_as_many_cores_as_threads():
    before = os.sched_getaffinity(0)
    count = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
    with pinned(1):
        assert subprocess.run(count, capture_output=True, text=True, check=True).stdout == "1\n"
    assert os.sched_getaffinity(0) == before


def test_the_peer_gets_the_same_text_and_its_loss_covers_the_validation_split(checkout, text, tmp_path):
    place = nanogpt_with_data(checkout, text, tmp_path / "copy")
    assert not (place / ".git").exists()
    complete = text.read_text(encoding="utf-8")
    train, val = (np.fromfile(place / "data" / "shakespeare_char" / f"{n}.bin", np.uint16) for n in ("train", "val"))
    characters = sorted(set(complete))
    assert "".join(characters[i] for i in [*train, *val]) == complete
    assert len(val) == pytest.approx(len(complete) / 10, abs=1)
    words = [sys.executable, "train.py", *time_to_loss.DOCUMENTED]
    subprocess.run(words, cwd=place, check=True)
    assert their_loss(place) == pytest.approx(math.log(len(characters)))


@pytest.mark.long
def test_time_to_loss_runs_from_the_command_to_the_verdict(checkout, text, monkeypatch):
    monkeypatch.setattr(time_to_loss, "MINUTES", 0.01)
    monkeypatch.setattr(time_to_loss, "FAST_SECONDS", 0.5)
    options = replace(OPTIONS, nanogpt=checkout, text=text)
    options.check()
    result = time_to_loss.run(options)
    assert [row.name for row in result.rows] == [OURS, FAST, THEIRS]
    assert all(len(row.values) == 1 and row.values[0] > 0 for row in result.rows)
    assert result.as_dict()["rows"][0]["ratio"] > 0
    assert HINT not in result.notes


@pytest.fixture
def measured(monkeypatch):
    """Run the command with subjects that take no time; returns its exit status and the subjects run."""
    done = []

    def subject(name):
        def run(options):
            done.append(name)
            if name == "generate":
                raise RuntimeError("a subject's own fault")
            return Result(name, "s", [Row(name, [1.0])], baseline="")

        return run

    monkeypatch.setattr(bench, "SUBJECTS", {name: subject(name) for name in bench.SUBJECTS})
    monkeypatch.setattr(bench, "gemm_gflops", lambda: 1.0)
    monkeypatch.setattr(bench.torch, "set_num_threads", lambda n: None)  # of the other tests too

    def call(*argv):
        done.clear()
        monkeypatch.setattr(sys, "argv", ["bench", "--threads", "1", *map(str, argv)])
        try:
            return bench.main(), list(done)
        except SystemExit as exit_:
            return exit_.code, list(done)

    return call


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["start", "time-to-loss"], "time-to-loss: give tinyshakespeare's input.txt with --text"),
        (["start", "--text", "missing.txt"], "--text: there is no missing.txt"),
        (["--nanogpt", "missing"], "makes a checkout"),
        (["generate", "--peers-python", "missing"], "--peers-python: there is no program missing"),
        (["start", "stop"], "stop: no such subject"),
        (["start", "--rounds", "0"], "--rounds 0: must be 1 or more"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(argv, sentence, measured, capsys):
    assert measured(*argv) == (2, [])
    assert sentence in capsys.readouterr().err


def test_by_default_all_measurable_subjects_run(measured, text, capsys, monkeypatch):
    monkeypatch.delitem(bench.SUBJECTS, "generate")
    assert measured() == (0, ["start", "train-step", "generate-small"])
    assert "time-to-loss: left out; give tinyshakespeare's input.txt with --text" in capsys.readouterr().out
    assert measured("--text", text) == (0, ["start", "train-step", "generate-small", "time-to-loss"])


def test_results_before_a_failure_are_kept(measured, tmp_path):
    with pytest.raises(RuntimeError, match="own fault"):
        measured("--json", tmp_path / "found.json")
    assert '"train-step"' in (tmp_path / "found.json").read_text()
