"""Times at which hooks run, and signals that request a stop."""

import math
import signal
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest

from groundup.training.hooks import FAR_FROM_UNIFORM, every, report_first_loss
from groundup.training.loop import StepInfo
from groundup.training.signals import StoppedAtOnce, StopSignals
from groundup.utils import ending_signal


def info(step: int, *, finished: bool = False, stopping: bool = False) -> StepInfo:
    return StepInfo(step, 0, 0, 0.0, 1.0, 1.0, 0.1, 0.1, 1.0, 0.5, True, finished, stopping, 64)


@pytest.mark.parametrize(("n", "due"), [(2, [2, 4, 5]), (0, [5]), (1, [1, 2, 3, 4, 5]), (9, [5])])
def test_every_n_steps_and_at_the_end(n, due):
    seen = []
    hook = every(n, lambda i: seen.append(i.step))
    for step in range(1, 6):
        hook(info(step, finished=step == 5))
    assert seen == due


def test_on_a_requested_stop_only_hooks_with_when_stopping_run():
    seen = []
    every(1, lambda i: seen.append("evaluate"))(info(3, stopping=True))
    every(0, lambda i: seen.append("save"), when_stopping=True)(info(3, stopping=True))
    assert seen == ["save"]


@pytest.mark.parametrize(
    ("loss", "warned"),
    [
        (math.log(65), ""),
        (math.log(65) + 0.9 * FAR_FROM_UNIFORM, ""),
        (9.0, "initial weights are too large"),
        (1.0, "leak"),
        (math.nan, "not finite"),
    ],
)
def test_the_first_loss_is_compared_with_random_guessing(loss, warned):
    messages = []
    hook = report_first_loss(65, messages.append)
    for step in (1, 2):
        hook(replace(info(step), loss=loss))
    assert messages[0] == f"start    first loss {loss:.2f} (random guessing over 65 tokens: 4.17)"
    assert len(messages) == 1 + bool(warned)
    assert warned in messages[-1]


STOPPING = "SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGALRM", "SIGQUIT"


@pytest.mark.parametrize("number", [getattr(signal, name) for name in STOPPING if hasattr(signal, name)])
def test_a_signal_requests_a_stop_and_the_handlers_are_restored(number):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        assert stop.received == number
    assert signal.getsignal(number) is before


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no such signal")
def test_an_alarm_that_the_program_uses_itself_stays_its_own():
    received = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: received.append(number))
    try:
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGALRM)
            assert not stop()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert received == [signal.SIGALRM]


def test_a_second_ctrl_c_interrupts_at_once():
    with StopSignals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
def test_a_signal_that_nohup_ignores_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_while_compiling_raises_at_once():
    with StopSignals() as stop:
        with pytest.raises(StoppedAtOnce), stop.at_once(), suppress(Exception):  # as compilers do
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StoppedAtOnce), stop.at_once():
            pytest.fail("a stop requested earlier counts too")


def test_a_signal_whose_exception_c_code_replaces_raises_at_once_too():
    with StopSignals() as stop:
        with pytest.raises(StoppedAtOnce), stop.at_once():
            replaced_by_c_code(signal.SIGTERM)
        assert stop.received == signal.SIGTERM
    with StopSignals() as stop, pytest.raises(ValueError, match="own"), stop.at_once():
        raise ValueError("an error of its own, without a signal")
    with StopSignals(agree=lambda number: 0) as stop, pytest.raises(ValueError, match="own"), stop.at_once():
        fail_after(signal.SIGTERM)  # of one of several processes, which waits
    assert ending_signal.recorded() == 0


def fail_after(number):
    """A signal, and then an error that has nothing to do with it."""
    signal.raise_signal(number)
    raise ValueError("an error of its own")


def replaced_by_c_code(number):
    """As `torch.tensor(storage)` does when a handler raises in Python code that it calls."""
    try:
        signal.raise_signal(number)
    except BaseException:
        raise ValueError("could not determine the shape") from None


def test_trained_weights_are_not_compared_with_guessing():
    messages = []
    report_first_loss(None, messages.append)(SimpleNamespace(step=1, loss=2.5))
    assert messages == ["start    first loss 2.50, with the initial weights"]
