"""Where and in which arithmetic, and why."""

from contextlib import nullcontext

import pytest
import torch

from groundup.errors import ConfigError
from groundup.training import device
from groundup.training.device import autocast, choose_device, choose_precision, cores, reseed

CPU = torch.device("cpu")


@pytest.mark.parametrize(("speedup", "name"), [(3.0, "bf16"), (1.1, "fp32"), (0.01, "fp32")])
def test_on_a_cpu_the_faster_arithmetic_is_taken_and_the_reason_said(monkeypatch, speedup, name):
    monkeypatch.setattr(device, "bf16_speedup", lambda: speedup)
    precision = choose_precision("auto", CPU)
    assert precision.name == name
    assert f"{speedup:.1f}x" in precision.reason


def test_what_is_asked_for_is_taken_untimed(monkeypatch):
    monkeypatch.setattr(device, "bf16_speedup", lambda: pytest.fail("timed without need"))
    assert choose_precision("fp32", CPU).name == "fp32"
    assert choose_precision("bf16", CPU).name == "bf16"


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_on_a_gpu_the_capability_decides(monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_precision("auto", torch.device("cuda")).name == name


def test_bf16_on_an_old_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(ConfigError, match="capability 8 or more, this has 7"):
        choose_precision("bf16", torch.device("cuda"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_here_is_refused():
    with pytest.raises(ConfigError, match="cuda:3 is not on this machine"):
        choose_device("cuda:3")


def test_autocast_changes_matrix_products_only_for_bf16():
    a = torch.ones(4, 4)
    assert autocast("fp32", CPU) is nullcontext
    with autocast("bf16", CPU)():
        assert (a @ a).dtype == torch.bfloat16


def test_reseed_sets_what_dropout_draws_from():
    reseed(5, CPU)
    a = torch.rand(3)
    reseed(5, CPU)
    assert torch.equal(a, torch.rand(3))


def test_there_is_a_core():
    assert cores() >= 1
