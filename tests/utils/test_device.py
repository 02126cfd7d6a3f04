"""Choice of device and precision, with the reason."""

from contextlib import nullcontext

import pytest
import torch

from groundup.errors import ConfigError
from groundup.utils import device
from groundup.utils.device import autocast, choose_device, choose_precision, reseed, set_matmul_precision
from groundup.utils.system import usable_cores

CPU = torch.device("cpu")


@pytest.mark.parametrize(("speedup", "name"), [(3.0, "bf16"), (1.1, "fp32"), (0.012, "fp32")])
def test_on_other_cpus_the_faster_precision_is_chosen_with_a_reason(monkeypatch, speedup, name):
    monkeypatch.setattr(device.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(device, "bf16_speedup", lambda: speedup)
    precision = choose_precision("auto", CPU)
    assert precision.name == name
    assert f" {speedup:g}x as fast" in precision.reason


@pytest.mark.parametrize(("units", "name"), [(True, "bf16"), (False, "fp32")])
def test_on_an_x86_cpu_its_units_decide_and_no_clock(monkeypatch, units, name):
    monkeypatch.setattr(device.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(device, "has_bf16_units", lambda: units)
    monkeypatch.setattr(device, "bf16_speedup", lambda: pytest.fail("timed"))
    assert choose_precision("auto", CPU).name == name


def test_time_that_other_programs_take_is_not_counted(monkeypatch):
    now = iter(range(100))  # a clock that stands still for this thread
    monkeypatch.setattr(device.sys, "platform", "linux")
    monkeypatch.setattr(device.time, "perf_counter", lambda: pytest.fail("the time of all programs"))
    monkeypatch.setattr(device.time, "thread_time", lambda: next(now) * 1e-3)
    assert device.bf16_speedup() == pytest.approx(1)


def test_a_requested_precision_is_used_without_timing(monkeypatch):
    monkeypatch.setattr(device, "bf16_speedup", lambda: pytest.fail("timed without need"))
    assert choose_precision("fp32", CPU).name == "fp32"
    assert choose_precision("bf16", CPU).name == "bf16"


@pytest.mark.parametrize(
    ("capability", "name"),
    [((5, 2), "fp32"), ((5, 3), "fp16"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((12, 0), "bf16")],
)
def test_on_a_gpu_the_capability_decides(monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    precision = choose_precision("auto", torch.device("cuda"))
    assert precision.name == name
    assert name == "bf16" or f"compute capability {capability[0]}.{capability[1]}" in precision.reason


@pytest.mark.parametrize(
    ("wanted", "capability", "words"),
    [
        ("bf16", (7, 5), r"bf16 needs .* capability 8.0 or more, this has 7.5; use fp16"),
        ("bf16", (5, 0), r"bf16 needs .* capability 8.0 or more, this has 5.0; use fp32"),
        ("fp16", (5, 2), r"fp16 needs .* capability 5.3 or more, this has 5.2; use fp32"),
    ],
)
def test_a_precision_that_an_old_gpu_lacks_is_refused(monkeypatch, wanted, capability, words):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with pytest.raises(ConfigError, match=words):
        choose_precision(wanted, torch.device("cuda"))
    assert choose_precision("fp32", torch.device("cuda")).name == "fp32"


def test_fp16_on_a_cpu_is_allowed_with_a_warning():
    name, reason = choose_precision("fp16", CPU)
    assert name == "fp16"
    assert "slow" in reason
    assert "slow" not in choose_precision("fp32", CPU).reason


def test_on_apple_gpus_fp32_is_the_default_and_fp16_is_allowed():
    assert choose_precision("auto", torch.device("mps")).name == "fp32"
    assert choose_precision("fp16", torch.device("mps")) == ("fp16", "as configured")


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="'int4' is not one of auto, fp32, bf16, fp16"):
        choose_precision("int4", CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_device_is_refused():
    with pytest.raises(ConfigError, match="cuda:3 is not on this machine"):
        choose_device("cuda:3")


def test_autocast_changes_matrix_products_alone():
    a = torch.ones(4, 4)
    assert autocast("fp32", CPU) is nullcontext
    for name, dtype in {"bf16": torch.bfloat16, "fp16": torch.float16}.items():
        with autocast(name, CPU)():
            assert (a @ a).dtype == dtype
            assert (a + a).dtype == torch.float32


@pytest.fixture
def _rounding_comes_back():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("_rounding_comes_back")
@pytest.mark.parametrize("wanted", ["highest", "high", "medium"])
def test_fp32_products_use_tf32_only_on_request_and_never_on_a_cpu(wanted):
    set_matmul_precision(wanted, torch.device("cuda"))
    assert torch.get_float32_matmul_precision() == wanted
    set_matmul_precision(wanted, CPU)
    assert torch.get_float32_matmul_precision() == "highest"


def test_reseed_sets_what_dropout_draws_from():
    reseed(5, CPU)
    a = torch.rand(3)
    reseed(5, CPU)
    assert torch.equal(a, torch.rand(3))


def test_there_is_at_least_one_core():
    assert usable_cores() >= 1
