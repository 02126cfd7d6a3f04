"""Benchmarks of a training step: they compare equal work, at toy size; no real timing."""

import math
import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks are run from a checkout, not part of the package

from bench import exact, microbatch_threads, scaling, where
from bench.contenders import NANO, init_model, open_setup
from bench.exact import Contender, contenders, measure
from bench.exact_table import BASE, report, table
from bench.peers import Checkouts, classes, fill, transformers
from bench.worker import Answer, Failed, peak_bytes, request, serve

from groundup.distributed.thread_parallel import ThreadParallelLoss
from groundup.errors import UsageError
from groundup.model.gpt import NextTokenLoss

SMALL = NANO.config.model_copy(update={"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8})
TINY = replace(NANO, name="tiny", config=SMALL, rows=3, compared=2, steps=2, rounds=2)
FP32 = Contender("groundup", "fp32")


@pytest.fixture
def one_core(monkeypatch):
    """Fake the machine's ceilings, and leave the number of threads unchanged."""
    monkeypatch.setattr(exact, "gemm_gflops", lambda dtype: 100.0)
    monkeypatch.setattr(exact, "copy_gbytes", lambda: 10.0)
    for module in (exact, scaling, where):
        monkeypatch.setattr(module.torch, "set_num_threads", lambda n: None)


class InThisProcess:
    """Replaces a worker process: the same protocol over a pipe, with a thread."""

    def __init__(self, make):
        self.pipe, theirs = Pipe()
        self.thread = threading.Thread(target=serve, args=(theirs, make, torch.get_num_threads()))
        self.thread.start()

    def train(self, steps):
        return request(self.pipe, steps)

    def close(self):
        self.pipe.close()
        self.thread.join(60)
        assert not self.thread.is_alive(), "it ends when no more steps are requested"


def test_contenders_depend_on_the_machine_and_the_installed_peers():
    all_names = [each.name for each in contenders("bf16", ["nanoGPT", "build-nanogpt", "transformers"])]
    assert all_names == [
        "groundup, fp32", "groundup, fp32, compiled", "groundup, bf16", "groundup, bf16, compiled", BASE,
        "nanoGPT, bf16, compiled", "build-nanogpt, bf16", "transformers, fp32",
    ]  # fmt: skip
    assert [each.name for each in contenders("fp32", [])] == ["groundup, fp32", "groundup, fp32, compiled"]


def test_a_run_advanced_by_requests_equals_a_run_without_pauses(one_core):
    found = measure(TINY, [FP32], Checkouts(), InThisProcess, TINY.rounds)
    with open_setup(TINY) as setup:
        complete = setup.ours().train(TINY.compared)
    assert found.losses == {FP32.name: complete}
    assert found.failures == []
    (row,) = table(found, {FP32.name: FP32})
    assert len(row["values"]) == 2
    assert row["share_of_ceiling"] > 0
    assert row["peak_bytes"] >= found.bare > 1e6
    assert report(found, [row])["task"]["step_tokens"] == 24


class Scripted:
    """A contender with given losses and steps of one second."""

    log: ClassVar[list] = []

    def __init__(self, make, losses):
        self.name = make.args[0].name if len(make.args) > 1 else "bare process"
        self.losses = losses.get(self.name, [1.0, 1.0])

    def train(self, steps):
        self.log.append(self.name)
        if self.losses is None:
            raise Failed("no compiler")
        return Answer(1.0, self.losses, 10)

    def close(self):
        self.log.append(f"end {self.name}")


def scripted(losses, *them):
    Scripted.log = []
    return measure(TINY, them, Checkouts(), partial(Scripted, losses=losses), 2)


def test_contenders_take_turns_and_a_failing_one_is_named(one_core):
    compiled, peer = Contender("groundup", "fp32", True), Contender("nanoGPT", "fp32")
    found = scripted({compiled.name: None}, FP32, compiled, peer)
    assert Scripted.log == [
        "bare process", "end bare process", FP32.name, compiled.name, f"end {compiled.name}", peer.name,
        *[FP32.name, peer.name] * 2, f"end {FP32.name}", f"end {peer.name}",
    ]  # fmt: skip
    assert f"{compiled.name}: left out (no compiler)" in found.notes
    assert [row["ratio"] for row in table(found, {each.name: each for each in (FP32, peer)})] == [1.0, 1.0]


@pytest.mark.parametrize("second", [1.002, math.nan])
def test_losses_unlike_nanogpts_break_the_promise_in_fp32_only(one_core, second):
    bf16, peer = Contender("groundup", "bf16"), Contender("nanoGPT", "fp32")
    assert len(scripted({FP32.name: [1.0, second]}, FP32, bf16, peer).failures) == 1
    assert scripted({bf16.name: [1.0, second], FP32.name: [1.0, 1.0005]}, FP32, bf16, peer).failures == []


def test_a_failure_in_a_process_is_one_line():
    @contextmanager
    def broken():
        raise ValueError("first\nsecond")
        yield

    training = InThisProcess(broken)
    with pytest.raises(Failed, match=r"^ValueError: first$"):
        training.train(1)
    with pytest.raises(Failed, match="its process ended"):
        training.train(1)
    training.close()


def test_the_peak_counts_freed_memory():
    block = torch.ones(25_000_000)  # 100 MB
    with_it = peak_bytes()
    del block
    assert peak_bytes() > with_it - 5e6  # the system counts in batches


PROGRAM = """
import nothing_of_this_name
from dataclasses import dataclass
@dataclass
class Config:
    width: int = 3
class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        assert not master_process
        self.fc, self.norm = nn.Linear(config.width, 2), nn.LayerNorm(2)
raise SystemExit("trains when imported")
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(PROGRAM)
    return path


def test_classes_of_a_program_are_loaded_without_running_it(program):
    found = classes(program, ("Config", "Net"))
    assert found["Net"](found["Config"](width=5)).fc.in_features == 5
    with pytest.raises(UsageError, match="has no class GPT"):
        classes(program, ("Net", "GPT"))


def test_weights_are_filled_by_name_and_biases_are_not_trained(program):
    net = classes(program, ("Config", "Net"))
    model = net["Net"](net["Config"]())
    fill(model, {"fc.weight": torch.full((2, 3), 7.0), "norm.weight": torch.ones(2)}, bias=False)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["fc.weight", "norm.weight"]
    assert model.fc.weight.eq(7).all()
    assert model.fc.bias.eq(0).all()
    with pytest.raises(KeyError, match=r"fc\.bias"):
        fill(model, {"fc.weight": torch.ones(2, 3)}, bias=True)


@pytest.mark.slow
def test_transformers_has_the_same_losses():
    pytest.importorskip("transformers")
    fast = replace(TINY, adamw=TINY.adamw.model_copy(update={"learning_rate": 0.05}))  # so that a wrong GELU shows
    with open_setup(fast) as setup:
        theirs = setup.theirs(partial(transformers, checkouts=Checkouts()), 12)
        assert theirs.train(6) + theirs.train(6) == pytest.approx(setup.ours().train(12), abs=2e-5)


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (["aten::mm", "aten::matmul", "aten::linear"], "matrix products"),
        (["aten::mm", "MmBackward0", "autograd::engine::evaluate_function: ChunkedLossBackward"], "matrix products"),
        (["aten::mm", "Optimizer.step#Muon.step"], "optimizer"),
        (["aten::bmm", "aten::scaled_dot_product_attention"], "attention"),
        (["aten::add_", "NllLossBackward0"], "loss"),
        (["aten::mul_", "clipping"], "clipping"),
        (["aten::clamp", "batches"], "batches"),
        (["aten::native_layer_norm", "aten::layer_norm"], "norms, GELU, sums"),
        (["aten::view", "aten::linear"], "views, bookkeeping"),
    ],
)
def test_an_operation_counts_for_one_group(names, group):
    assert where.group_of(names) == group


def test_the_time_of_a_step_is_divided_completely():
    clip = nn.utils.clip_grad_norm_
    found = where.profile_step(TINY, "fp32", 2)
    wanted = {"matrix products", "attention", "norms, GELU, sums", "loss", "optimizer", "clipping", "batches"}
    assert wanted < found.groups.keys()
    assert min(found.groups.values()) >= 0
    assert 0 < found.floor < found.step
    assert nn.utils.clip_grad_norm_ is clip


def test_shapes_are_names_or_sizes():
    assert where.task_of("gpt2", None, None, 1).config.n_layer == 12
    config = where.task_of("6x256", 512, 1000, None).config
    assert (config.n_layer, config.n_head, config.n_embd, config.block_size, config.vocab) == (6, 4, 256, 512, 1000)
    assert init_model(where.task_of("1x10", None, None, None).config).config.n_head == 1
    for mistake in (("6by256", None), ("0x64", None), ("1x64", 1)):
        with pytest.raises(UsageError, match=r"no such shape|must be 2 to 65,536"):
            where.task_of(*mistake, None, None)


def test_a_machine_is_divided_by_threads_and_large_models_run_fewer_steps():
    assert [way.name for way in scaling.ways(2)] == [
        "1 process, 2 threads",
        "2 processes, 1 thread each",
        "1 process, 1 thread",
    ]
    assert len(scaling.ways(1)) == 2
    steps = [scaling.steps_of(scaling.config_of(shape)) for shape in ("2x64", "6x256", "12x384")]
    assert steps == [scaling.MAX_STEPS, 23, scaling.MIN_STEPS]


def size(shape, flops, a, b):
    return {"shape": shape, "parameters": 1000, "flops_per_token": flops, "tokens_per_s": {"a": a, "b": b}}


SCALING = {
    "ways": [{"name": "a"}, {"name": "b"}],
    "context": 256,
    "gemm_gflops": [200.0, 100.0],
    "sizes": [size("2x64", 10**6, [1e5, 9e4, 2e5], [8e4] * 3), size("4x64", 10**7, [1e4] * 3, [1e4] * 3)],
    "memory": {
        "shape": "2x64",
        "micro_batches": [1, 4],
        "peak_bytes": [2e8, 3e8],
        "bare_process_bytes": 1e8,
        "state_bytes": 5e7,
    },
}


def test_results_become_tables_and_pictures(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    source, drawn_at = tmp_path / "found.json", tmp_path / "pictures"
    source.write_text(exact.json.dumps(SCALING))
    monkeypatch.setattr(scaling.torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(sys, "argv", ["scaling", "--from", str(source), "--pictures", str(drawn_at)])
    assert scaling.main() == 0
    assert "| 2x64 | 1,000 | 1.0 | 100,000 | 80,000 | 100 | 50% |" in capsys.readouterr().out
    names = ["scaling-memory.svg", "scaling-processes.svg", "scaling-size.svg"]
    assert sorted(path.name for path in drawn_at.iterdir() if b"<svg" in path.read_bytes()) == names


@pytest.mark.parametrize(
    ("module", "argv", "sentence"),
    [
        (exact, ["--nanogpt", "missing"], "--nanogpt: there is no missing"),
        (exact, ["--build-nanogpt", "missing"], "--build-nanogpt: there is no missing"),
        (exact, ["--only", "nanoGPT, fp32"], "no such row here; there are groundup, fp32; "),
        (exact, ["--steps", "0"], "--steps 0: must be 1 or more"),
        (exact, ["--rows", "4", "--micro-rows", "3"], "--micro-rows 3: does not divide the 4 sequences of a step"),
        (scaling, ["--shapes", "4x"], "4x: no such shape; give LAYERSxWIDTH"),
        (scaling, ["--micro", "2", "0"], "--micro 0: must be 1 or more"),
        (scaling, ["--from", "missing"], "--from: there is no missing"),
        (where, ["5"], "5: no such shape"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(module, argv, sentence, one_core, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", *argv])
    with pytest.raises(SystemExit) as exit_:
        module.main()
    assert exit_.value.code == 2
    assert sentence in capsys.readouterr().err


def test_microbatch_threads_compares_both_divisions_of_one_training(monkeypatch):
    seen = []

    class Here:
        """A worker in this process."""

        def __init__(self, make, threads):
            self.context = make()
            self.trainee = self.context.__enter__()
            seen.append((self.trainee.task.microbatch_threads, os.environ.get("GOMP_SPINCOUNT"), self.trainee))

        def train(self, steps):
            return Answer(0.5, self.trainee.train(steps), 0)

        def close(self):
            self.context.__exit__(None, None, None)

    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    found = microbatch_threads.measure(replace(TINY, rows=4), rounds=3, steps=2, threads=2, start=Here)
    assert found == dict.fromkeys((microbatch_threads.OPERATIONS, microbatch_threads.MICRO_BATCH), [2 * 32 / 0.5] * 3)
    assert [(n, spins) for n, spins, _ in seen] == [(1, "1000"), (None, "1000")]
    assert "GOMP_SPINCOUNT" not in os.environ
    assert isinstance(seen[0][2].loss_sum, NextTokenLoss)
    assert torch.get_num_threads() == 1 or isinstance(seen[1][2].loss_sum, ThreadParallelLoss)
    row = {"shape": "tiny", microbatch_threads.LOAD: "", **found}
    assert "1.00" in str([column._cells for column in microbatch_threads.table([row]).columns])


@pytest.mark.parametrize("words", [["--shapes", "9by9"], ["--rows", "0"]])
def test_microbatch_threads_refuses_invalid_options(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.microbatch_threads", *words])
    with pytest.raises(SystemExit) as left:
        microbatch_threads.main()
    assert left.value.code == 2
    assert words[1] in capsys.readouterr().err
