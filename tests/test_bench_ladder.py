"""The ladder of speed-ups at toy size: each rung computes the same and changes its setting; nothing is timed."""

import io
import json
import math
import sys
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.optim import adam

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks are run from a checkout, not part of the package

from bench import contenders, ladder, ladder_rungs
from bench.contenders import NANO, Ours
from bench.gpu_child import Job
from bench.gpu_ladder import ladder as subject
from bench.ladder import measure_rungs
from bench.ladder_rungs import FIRST, RUNGS, Rung, Switches, trainee, weights
from bench.ladder_table import Results, judge, report, show
from bench.worker import Answer, Failed, InProcess
from rich.console import Console

from groundup.kernels import cross_entropy
from groundup.model.context import Causal

CPU = torch.device("cpu")
SMALL = NANO.config.model_copy(update={"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 100})
TINY = replace(NANO, name="tiny", config=SMALL, rows=3, compared=2, steps=1, rounds=3)
BY_KEY = {rung.key: rung for rung in RUNGS}
COMPUTED = ("sdpa", "foreach", "fused", "padded", "groundup")  # in fp32, without a compiler


def switched(key):
    return replace(Switches(), **BY_KEY[key].changes)


def losses(switches, task=TINY, steps=5):
    with trainee(switches, task, CPU) as ours:
        return ours.train(steps), [p.detach().clone() for p in ours.loss_sum.parameters()]


@pytest.fixture(scope="module", autouse=True)
def _little_text():
    """Use a short synthetic text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contenders, "synthetic", cache(partial(contenders.synthetic, words=2000)))
        yield


@pytest.fixture(scope="module")
def baseline():
    return losses(Switches())


@pytest.mark.parametrize("key", COMPUTED)
def test_a_rung_has_the_losses_of_the_first(key, baseline, monkeypatch):
    monkeypatch.setattr(cross_entropy, "fits_unchunked", lambda rows, columns: False)  # in chunks, however few
    found, parameters = losses(switched(key))
    assert found == pytest.approx(baseline[0], abs=1e-5)
    assert len(set(found)) == 5
    for mine, its in zip(parameters, baseline[1], strict=True):
        torch.testing.assert_close(mine[: len(its)], its, atol=1e-5, rtol=1e-5)


def test_a_padded_vocabulary_adds_rows_of_zeros_that_stay_zero():
    plain, padded = weights(SMALL, 1), weights(SMALL, 64)
    assert (len(plain.wte.weight), len(padded.wte.weight)) == (100, 128)
    assert padded.wte.weight[100:].eq(0).all()
    assert padded.wte.weight[:100].equal(plain.wte.weight)
    assert padded.lm_head.weight is padded.wte.weight
    _, parameters = losses(switched("padded"))
    assert parameters[0].shape == (128, 16)
    assert parameters[0][100:].eq(0).all()


class Watch:
    """Counts the calls of a function."""

    def __init__(self, monkeypatch, place, name):
        self.calls, function = [], getattr(place, name)
        monkeypatch.setattr(place, name, lambda *a, **k: (self.calls.append((a, k)), function(*a, **k))[1])


@pytest.mark.parametrize(("way", "calls"), [("written out", 0), ("sdpa", 2), ("groundup", 2)])
def test_attention_is_unfused_or_torchs_own(way, calls, monkeypatch):
    seen = Watch(monkeypatch, torch.nn.functional, "scaled_dot_product_attention")
    losses(Switches(attention=way), steps=1)
    assert len(seen.calls) == calls  # one per layer
    with trainee(Switches(attention=way), TINY, CPU) as ours:
        assert (type(ours.loss_sum.gpt.causal) is Causal) == (way == "groundup")


@pytest.mark.parametrize(
    ("way", "kernel"),
    [("for-loop", "_single_tensor_adam"), ("foreach", "_multi_tensor_adam"), ("fused", "_fused_adam")],
)
def test_adamw_uses_the_requested_implementation(way, kernel, monkeypatch):
    seen = {name: Watch(monkeypatch, adam, name) for name in dir(adam) if name.endswith("_adam")}
    assert kernel in seen
    losses(Switches(adamw=way), steps=1)
    assert {name for name, watch in seen.items() if watch.calls} == {kernel}


def test_adamw_keeps_groundups_groups():
    with trainee(Switches(), TINY, CPU) as ours:
        groups = ours.state.optimizer.param_groups
        assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.1]
        assert {(group["betas"], group["scale"]) for group in groups} == {((0.9, 0.99), 1.0)}
        assert sum(len(group["params"]) for group in groups) == len(list(ours.loss_sum.parameters()))


@pytest.mark.parametrize("loss", ["whole", "chunks"])
def test_the_loss_is_of_all_logits_or_in_chunks(loss, monkeypatch):
    monkeypatch.setattr(cross_entropy, "fits_unchunked", lambda rows, columns: False)
    seen = Watch(monkeypatch, cross_entropy, "_chunked")
    losses(Switches(loss=loss), steps=1)
    assert len(seen.calls) == (loss == "chunks")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_computed_in_the_precision_of_the_rung(precision, dtype):
    seen = []
    with trainee(Switches(precision=precision), TINY, CPU) as ours:
        for layer in ours.loss_sum.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
        ours.train(1)
        assert not ours.state.scaler.is_enabled()
    assert set(seen) == {dtype}


def test_fp16_has_a_scaler():
    with trainee(Switches(precision="fp16"), TINY, CPU) as ours:
        assert ours.state.scaler.is_enabled()


def test_a_backend_reaches_the_compiler_and_rounding_the_device(monkeypatch):
    compiled, rounded = [], []
    monkeypatch.setattr(Ours, "compile", lambda self, backend: compiled.append(backend))
    monkeypatch.setattr(ladder_rungs, "set_matmul_precision", lambda wanted, device: rounded.append(wanted))
    for key in ("tf32", "aot_eager", "cudagraphs", "inductor"):
        with trainee(switched(key), TINY, CPU):
            pass
    assert compiled == ["aot_eager", "cudagraphs", "inductor"]
    assert rounded == ["high", "highest", "highest", "highest"]


@pytest.mark.parametrize(
    ("capability", "precision", "skipped"),
    [
        (None, None, {"tf32", "fp16", "cudagraphs"}),
        ((9, 0), "bf16", {"fp16"}),
        ((7, 5), "fp16", {"bf16"}),
        ((5, 0), "fp32", {"bf16", "fp16"}),
    ],
)
def test_a_rung_without_effect_is_skipped(capability, precision, skipped, monkeypatch):
    device = torch.device("cuda") if capability else CPU
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert {rung.key for rung in RUNGS if rung.skip(device, SMALL)} == skipped
    if capability:
        assert ladder_rungs.auto(device) == precision
    assert BY_KEY["padded"].skip(device, SMALL.model_copy(update={"vocab_size": 128})) == "128 is a multiple of 64"


def test_every_rung_changes_a_different_setting():
    changes = [switched(rung.key) for rung in RUNGS]
    assert len({tuple(asdict(one).values()) for one in [Switches(), *changes]}) == len(RUNGS) + 1
    assert [one.arithmetic for one in changes[:4]] == ["tf32", "bf16", "fp16", "fp32"]


class Scripted:
    """A training run with given step times, without a model."""

    ended: ClassVar = []

    def __init__(self, make, seconds, nats):
        switches = make.args[0]
        self.name = next(name for name, part in NAMED.items() if asdict(switches).items() >= part.items())
        self.seconds, self.nats, self.made = seconds[self.name], nats.get(self.name, 2.0), 0

    def train(self, steps):
        if self.seconds is None or (self.made and self.made + steps > LAST.get(self.name, 99)):
            raise Failed("no compiler in /opt/tools/bin")
        self.made += steps
        took = FIRST_STEP.get(self.name, self.seconds) if self.made == 1 else self.seconds
        return Answer(steps * took, [self.nats] * steps, 10)

    def close(self):
        self.ended.append(self.name)


A, B, C = (
    Rung("a", "a", {"adamw": "fused"}),
    Rung("b", "b", {"attention": "sdpa"}),
    Rung("c", "c", {"loss": "chunks"}),
)
NAMED = {"c": C.changes, "b": B.changes, "a": A.changes, "first": {}}
LAST, FIRST_STEP = {}, {}


def scripted(seconds, rungs=(A, B, C), nats=None, **others):
    Scripted.ended = []
    return measure_rungs(Results(TINY, CPU), rungs, partial(Scripted, seconds=seconds, nats=nats or {}), **others)


def test_a_rung_is_kept_if_faster_and_the_next_builds_on_it():
    found = scripted({"first": 4.0, "a": 2.0, "b": 4.0, "c": 1.0})
    first, a, b, c = found.steps
    assert [(s.before, s.kept, s.over_before) for s in (a, b, c)] == [
        ("first", True, 2.0),
        ("a", False, 0.5),
        ("a", True, 2.0),
    ]
    assert (c.ratios_first, len(first.rates)) == ([4.0] * 3, 10)
    assert (c.switches.adamw, c.switches.attention, c.switches.loss) == ("fused", "written out", "chunks")
    assert Scripted.ended == ["b", "a", "c", "first"]


def test_a_rung_for_comparison_is_not_kept_however_fast():
    found = scripted({"first": 4.0, "a": 1.0, "b": 2.0}, (replace(A, keep_if_faster=False), B))
    assert [(s.before, s.kept) for s in found.steps[1:]] == [("first", False), ("first", True)]
    assert found.steps[1].verdict == "for comparison"


def test_a_far_slower_rung_runs_only_two_steps():
    found = scripted({"first": 1.0, "a": 6.0, "b": 0.5, "c": 0.25})
    a = found.steps[1]
    assert (a.slow, a.kept, a.verdict, a.rates, a.losses) == (True, False, "not kept; slow: 2 steps", [8.0], [2.0, 2.0])
    assert a.ratios == [pytest.approx(1 / 6)]
    assert found.steps[2].before == "first"


def test_a_slow_first_step_does_not_make_a_slow_rung(monkeypatch):
    monkeypatch.setitem(FIRST_STEP, "a", 100.0)
    a = scripted({"first": 4.0, "a": 2.0}, (A,)).steps[1]
    assert (a.slow, a.kept, a.ratios) == (False, True, [2.0] * 3)


def test_a_failing_rung_is_named_without_a_path_and_the_others_continue():
    found = scripted({"first": 2.0, "a": None, "b": 1.0, "c": 0.5})
    assert found.steps[1].verdict == "failed here: no compiler in ..."
    assert [s.kept for s in found.steps] == [True, False, True, True]
    assert found.failures == []
    assert [s.failed for s in found.steps] == [False, True, False, False]
    with pytest.raises(Failed, match=f"{FIRST.name}: no compiler"):
        scripted({"first": None})


def test_a_rung_that_fails_in_a_later_round_is_not_kept(monkeypatch):
    monkeypatch.setitem(LAST, "a", 3)
    a, b = scripted({"first": 4.0, "a": 1.0, "b": 2.0}, (A, B)).steps[1:]
    assert (a.kept, a.rates, a.losses, b.before) == (False, [], [], "first")
    assert Scripted.ended == ["a", "b", "first"]


@pytest.mark.parametrize(("who", "after", "message"), [("first", 6, FIRST.name), ("a", 5, "a")])
def test_if_a_reference_rung_fails_it_is_named_and_not_the_current_one(who, after, message, monkeypatch):
    monkeypatch.setitem(LAST, who, after)
    steps = []
    with pytest.raises(Failed, match=f"^{message}: no compiler"):
        scripted({"first": 4.0, "a": 2.0, "b": 1.0}, (A, B), on_rung=lambda done: steps.append(done.steps[-1].verdict))
    assert steps == ["kept"]  # of a; b is not reported
    assert sorted(Scripted.ended) == ["a", "b", "first"]


@pytest.mark.parametrize(("nats", "broken"), [(2.0005, False), (2.002, True), (math.nan, True)])
def test_losses_equal_the_firsts_within_the_bound_of_the_precision(nats, broken):
    found = scripted({"first": 2.0, "a": 1.0, "b": 1.0, "c": 1.0}, nats={"a": nats})
    assert bool(found.failures) == broken
    found.steps[1].switches, found.failures = Switches(precision="bf16"), []
    judge(found)
    assert bool(found.failures) == math.isnan(nats)


def test_table_and_file_have_the_results():
    skipped = replace(B, skip=lambda device, config: "no effect here")
    found = scripted({"first": 4.0, "a": 2.0, "c": 8.0}, (A, skipped, C))
    found.ceilings = [100.0, 90.0]
    console = Console(width=124, record=True, file=io.StringIO())
    show(found, console)
    text = console.export_text()
    assert "24 │     2.00 │      2.00-2.00 │    2.00" in text
    assert "no effect here" in text
    assert "not kept" in text
    contents = json.loads(json.dumps(report(found, {"rounds": 3}), allow_nan=False))
    assert [(row["key"], row["measured"], row["kept"]) for row in contents["rows"]] == [
        ("first", True, True), ("a", True, True), ("b", False, False), ("c", True, False),
    ]  # fmt: skip
    assert contents["rows"][1] == {**contents["rows"][1], "tokens_per_s": 24.0, "ratio_before": 2.0, "before": "first"}
    assert contents["rows"][3]["ratio_first"] == 0.5


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(ladder, "ceiling", lambda device: 100.0)
    monkeypatch.setattr(ladder.torch, "set_num_threads", lambda n: None)


def test_the_command_measures_and_its_file_has_no_path(quiet, tmp_path, capsys):
    words = ["--device", "cpu", "--shape", "1x16", "--vocab", "100", "--context", "16", "--rounds", "2", "--steps", "1"]
    words += ["--only", "fused", "--only", "padded", "--only", "tf32", "--json", str(tmp_path / "found.json")]
    assert ladder.main(words, lambda make, threads: InProcess(make)) == 0
    text = (tmp_path / "found.json").read_text()
    assert str(tmp_path) not in text
    assert "/tmp" not in text
    rows = {row["key"]: row for row in json.loads(text)["rows"]}
    assert list(rows) == ["first", "tf32", "fused", "padded"]
    assert (rows["tf32"]["verdict"], rows["tf32"]["measured"]) == ("no effect on a CPU", False)
    assert all(rows[key]["losses_apart"] < 1e-5 and len(rows[key]["values"]) == 2 for key in ("fused", "padded"))
    assert rows["padded"]["peak_bytes"] > 0
    assert "no effect on a CPU" in capsys.readouterr().out


def test_if_the_first_rung_fails_it_is_one_sentence(quiet, monkeypatch, capsys):
    class Broken(InProcess):
        def train(self, steps):
            if steps:
                raise Failed("no memory")
            return Answer(0.0, [], 1)

    assert ladder.main(["--device", "cpu"], lambda make, threads: Broken(make)) == 1
    assert "bench.ladder: fp32, all of them off: no memory" in capsys.readouterr().err


def test_a_rung_that_fails_counts_in_the_exit_status(quiet, capsys):
    class NoFused(InProcess):
        def train(self, steps):
            if self._make.args and self._make.args[0].adamw == "fused":
                raise Failed("no such kernel")
            return super().train(steps)

    words = ["--device", "cpu", "--shape", "1x16", "--vocab", "100", "--context", "16", "--rounds", "1", "--steps", "1"]
    assert ladder.main([*words, "--only", "fused"], lambda make, threads: NoFused(make)) == 1
    assert "failed here: no such kernel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--rounds", "0"], "--rounds 0: must be 1 or more"),
        (["--only", "magic"], "invalid choice: 'magic'"),
        (["--shape", "4by4"], "4by4: no such shape"),
        (["--vocab", "70000"], "vocab_size 70000: must be 2 to 65,536"),
        (["--json", "missing/found.json"], "--json: there is no folder missing"),
        (["--json", "."], "--json .: cannot be written"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(argv, sentence, capsys):
    with pytest.raises(SystemExit) as exit_:
        ladder.main(["--device", "cpu", *argv] if "--device" not in argv else argv, None)
    assert exit_.value.code == 2
    assert sentence in capsys.readouterr().err


def test_as_a_subject_of_bench_gpu_it_ends_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    job = Job("ladder", 60.0, tmp_path / "out.json", tmp_path, toy=True)
    subject(job)
    assert job.rows[0].ratio is None
    assert {row.peer_name for row in job.rows[1:]} >= {"first"}
    assert [one["key"] for one in job.facts["rungs"]][-1] == "groundup"
    late = Job("ladder", 0.0, tmp_path / "late.json", tmp_path, toy=True)
    subject(late)
    assert late.notes == ["no time left from tf32 on"]
