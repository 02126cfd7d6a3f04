"""Throughput measurement: real work in bounded time, without an effect on training."""

from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from groundup.config.model import ModelConfig
from groundup.config.sections import OptimizerConfig
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.optim.optimizer import build_optimizer
from groundup.training import throughput
from groundup.training.throughput import REPEATS, _pass_seconds, _sizes, measure_throughput


def parts(name="adamw"):
    torch.manual_seed(0)
    gpt = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=64, vocab_size=50, dropout=0.1))
    gpt.init_weights(torch.Generator().manual_seed(0))
    return NextTokenLoss(gpt), build_optimizer(gpt.named_parameters(), OptimizerConfig(name=name))


def run(loss_sum, optimizer, ids, seconds=0.2):
    return measure_throughput(
        loss_sum, optimizer, (ids, ids), step_tokens=512, clip=1.0, autocast=nullcontext, seconds=seconds
    )


IDS = torch.arange(256).view(4, 64) % 50


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("damaged", [False, True])
def test_measuring_leaves_weights_state_and_generators_unchanged(name, damaged):
    loss_sum, optimizer = parts(name)
    if damaged:  # a gradient that is not finite
        loss_sum.register_forward_hook(lambda *args: args[-1] * torch.inf)
    loss_sum.eval()
    before = [p.detach().clone() for p in loss_sum.parameters()]
    rates = [group["lr"] for group in optimizer.param_groups]
    generator = torch.get_rng_state()
    assert run(loss_sum, optimizer, IDS) is not None
    for p, old in zip(loss_sum.parameters(), before, strict=True):
        assert torch.equal(p.detach().view(torch.int32), old.view(torch.int32))
        assert p.grad is None
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert all(not moments for moments in optimizer.state.values())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not loss_sum.training


class Slow(nn.Module):
    """Module that takes a known time per pass and per token, by a clock of its own."""

    def __init__(self, a_pass: float, a_token: float) -> None:
        super().__init__()
        self.a_pass, self.a_token = a_pass, a_token
        self.weight = nn.Parameter(torch.ones(()))
        self.seen, self.now = [], 0.0

    def forward(self, ids, targets):
        self.seen.append(ids.numel())
        self.now += self.a_pass + self.a_token * ids.numel()
        return self.weight * 1.0


@pytest.fixture
def slow(monkeypatch):
    """Make a slow module, whose clock is the one that is read."""

    def make(a_pass, a_token):
        model = Slow(a_pass, a_token)
        monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: model.now))
        return model

    return make


def test_a_complete_micro_batch_is_timed_if_time_allows(slow):
    model = slow(0.0, 2e-5)
    found = run(model, torch.optim.AdamW(model.parameters()), IDS)
    assert found.tokens == 256
    assert found.tokens_per_s == pytest.approx(1 / 2e-5)
    assert model.seen.count(256) == REPEATS


def test_a_slow_model_is_extrapolated_from_the_cost_per_pass_and_per_token(slow):
    model = slow(0.05, 1e-3)
    ids = torch.zeros(64, 1024, dtype=torch.long)
    found = run(model, torch.optim.AdamW(model.parameters()), ids, seconds=0.0)
    assert found.tokens == max(model.seen) == 128
    assert model.now < 1  # the complete micro-batch would take a minute
    assert found.tokens_per_s == pytest.approx(512 / (0.05 + 65.536))
    assert _pass_seconds([(64, 0.2), (128, 0.1)], 256) == pytest.approx(0.2)  # noise: in proportion


@pytest.mark.parametrize(("rows", "length"), [(1, 8), (1, 64), (5, 64), (12, 1000), (64, 32)])
def test_timed_pieces_grow_up_to_the_complete_micro_batch(rows, length):
    sizes = _sizes(rows, length, 1)
    assert sizes[-1] == (rows, length)
    counts = [n * t for n, t in sizes]
    assert counts == sorted(set(counts))
    assert all(b <= 2 * a for a, b in pairwise(counts))


class Failing(Slow):
    """Module that calls a function instead of computing."""

    def __init__(self, fail) -> None:
        super().__init__(0, 0)
        self.fail = fail

    def forward(self, ids, targets):
        self.fail()


def no_memory_on_a_gpu():
    raise torch.OutOfMemoryError


@pytest.mark.parametrize("fail", [no_memory_on_a_gpu, lambda: torch.empty(10**15)])
def test_without_enough_memory_the_measurement_is_none(fail):
    model = Failing(fail)
    assert run(model, torch.optim.AdamW(model.parameters()), IDS) is None


def test_any_other_failure_is_raised():
    model = Failing(lambda: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        run(model, torch.optim.AdamW(model.parameters()), IDS)
