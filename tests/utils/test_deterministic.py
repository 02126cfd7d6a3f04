"""Deterministic kernels only, and a message if it is too late to enable them."""

import os

import pytest
import torch

from groundup.utils.device import CUBLAS_VARIABLE, make_deterministic

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setenv(CUBLAS_VARIABLE, "")  # so that it is restored afterwards
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags


def state() -> tuple[bool, bool, bool]:
    fills = torch.utils.deterministic.fill_uninitialized_memory
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic, fills


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_it_is_switched_on_and_off(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    make_deterministic(True, device, pytest.fail)
    assert state() == (True, True, False)
    assert not torch.backends.cudnn.benchmark
    make_deterministic(False, device, pytest.fail)
    assert state() == (False, False, True)


@pytest.mark.parametrize("started", [False, True])
def test_the_cublas_variable_is_set_before_cuda_starts_or_a_message_is_given(monkeypatch, started):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: started)
    messages = []
    make_deterministic(True, CUDA, messages.append)
    assert os.environ[CUBLAS_VARIABLE] == ":4096:8"
    assert [CUBLAS_VARIABLE in line for line in messages] == [True] * started
    make_deterministic(True, CUDA, pytest.fail)  # once is enough


@pytest.mark.parametrize("given", [":16:8", ":4096:8"])
def test_an_existing_environment_variable_is_kept(monkeypatch, given):
    monkeypatch.setenv(CUBLAS_VARIABLE, given)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    make_deterministic(True, CUDA, pytest.fail)
    assert os.environ[CUBLAS_VARIABLE] == given


@pytest.mark.parametrize(("on", "device"), [(False, CUDA), (True, CPU)])
def test_the_cublas_variable_is_set_only_if_needed(on, device):
    make_deterministic(on, device, pytest.fail)
    assert os.environ[CUBLAS_VARIABLE] == ""
