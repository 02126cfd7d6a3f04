import io
import math
import os
import re
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from groundup.ui import console as ui_console
from groundup.ui import panel as module
from groundup.ui.chart import CURVE_POINTS
from groundup.ui.console import print_line
from groundup.ui.panel import Panel, RunningMean, can_show_panel
from groundup.ui.progress import byte_progress, count_progress
from groundup.utils.progress import StepInfo

STEP = StepInfo(
    step=1, tokens=1, cursor=0, elapsed=1.0, loss=1.0, grad_norm=1.0, lr=1.0, dt=1.0, tokens_per_s=1.0, fraction=0.0,
    applied=True, finished=False, stopping=False, context=1,
)  # fmt: skip


def terminal(width: int = 80, height: int = 24) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)


def feed(panel: Panel, step: int, total: int = 1000, loss: float = 2.5) -> None:
    panel.step(
        replace(
            STEP,
            step=step,
            loss=loss,
            lr=6e-4,
            grad_norm=1.13,
            dt=0.05,
            tokens_per_s=8176.4,
            tokens=16_384 * step,
            fraction=step / total,
            elapsed=0.05 * step,
        )
    )


def shown(panel: Panel, console: Console) -> list[str]:
    with console.capture() as capture:
        console.print(panel._render())
    return capture.get().splitlines()


def test_output_is_that_of_a_terminal_in_a_notebook_too(monkeypatch) -> None:
    """In a notebook rich would draw into the cell by itself; groundup does that."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert Console().is_jupyter
    assert not ui_console.Console().is_jupyter


def test_the_running_mean_follows_a_short_run_and_smooths_a_long_one() -> None:
    mean = RunningMean()
    assert mean.add(4.0) == 4.0  # no pull towards zero
    assert mean.add(1.0) == pytest.approx(4 / 11 + 10 / 11)
    assert mean.add(math.nan) == mean.value
    for _ in range(1000):
        mean.add(1.0)
    before = mean.value
    assert mean.add(2.0) == pytest.approx(0.95 * before + 0.05 * 2)


def test_an_evaluated_training_loss_is_near_the_curve_from_the_start() -> None:
    """The mean lags by a tenth of the steps at most: dots far below the curve would look like a model that is better on
    held-out text."""
    mean, losses = RunningMean(), [10 / step**0.3 for step in range(1, 401)]
    for step, loss in enumerate(losses, 1):
        if mean.add(loss) and step >= 20:
            assert mean.value - loss < 0.06 * loss, step


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60), (100, 16)])
def test_panel_fits_the_terminal_and_shows_everything(width: int, height: int) -> None:
    console = terminal(width, height)
    panel = Panel("demo [b]run[/b]", 1000, None, console)
    for step in range(1, 501):
        feed(panel, step, loss=10 / step**0.3)
    panel.evaluation(step=250, train_loss=1.8, val_loss=1.9, bits_per_byte=2.7)
    panel.evaluation(step=500, train_loss=1.9031, val_loss=1.9487, bits_per_byte=2.811)
    panel.sample("ROMEO:\n\n[red]Nay\x1b[31m\x07\n" + "long words " * 200)
    lines = shown(panel, console)
    assert len(lines) < height
    assert {len(line) for line in lines} == {width}
    text = "\n".join(lines)
    for part in [
        "demo [b]run[/b]",
        "step 500 of 1,000",
        "50%  25s left",
        "train loss 1.9031",
        "val loss 1.9487",
        "gap  +0.0456",
        "best 1.9000",
        "bits/byte  2.811",
        "lr   6.0e-04",
        "norm 1.13",
        "tokens/s   8.18K",
        "50 ms",
        "8.19M",
        "ROMEO:",
    ]:
        assert part in text
    assert "…" in lines[-2]
    assert "\x1b" not in text
    assert "\x07" not in text
    if height > 16:
        assert r"[red]Nay\x1b[31m\x07" in text


@pytest.mark.parametrize(("width", "height"), [(1, 1), (10, 5), (30, 10)])
def test_small_terminals_do_not_crash(width: int, height: int) -> None:
    console = terminal(width, height)
    panel = Panel("demo", None, None, console)
    shown(panel, console)
    feed(panel, 1, loss=math.nan)
    panel.evaluation(step=1, train_loss=None, val_loss=math.nan, bits_per_byte=None)
    panel.sample("\x00\ud800")
    shown(panel, console)


@pytest.mark.parametrize("width", range(24, 121))
def test_no_number_is_cut_at_any_width(width: int) -> None:
    console = terminal(width, 24)
    panel = Panel("demo", None, None, console)
    feed(panel, 123_456, total=1_000_000, loss=12.3456)
    panel.evaluation(step=123_456, train_loss=10.1234, val_loss=11.2345, bits_per_byte=12.345)
    rows = [line for line in shown(panel, console) if re.search("train loss|loss now|tokens ", line)]
    whole = (
        "10.1234 11.2345 +1.1111 12.3456 12.345 1.13 6.0e-04 2.02B 8.18K 50 ms train val loss now gap best tokens step"
    )
    for row in rows:
        assert "…" not in row
        for number in re.findall(r"[+\d][\d.]*\S*", row):
            assert number in whole.split(), (width, row)


def test_without_colours_the_kinds_of_losses_have_different_marks() -> None:
    console = terminal()
    panel = Panel("demo", 100, None, console)
    for step in range(1, 101):
        feed(panel, step, total=100, loss=5 - step / 50)
    for step, train, val in ((30, 4.3, 4.9), (60, 3.7, 4.8), (90, 3.1, 4.7)):
        panel.evaluation(step=step, train_loss=train, val_loss=val, bits_per_byte=None)
    *chart, numbers = "\n".join(shown(panel, console)).partition("train loss")[0].splitlines()
    assert [sum(line.count(mark) for line in chart) for mark in "○●"] == [3, 3]
    assert "○" in numbers
    assert "● val loss" in "\n".join(shown(panel, console))


def test_a_resumed_run_shows_its_whole_curve() -> None:
    console = terminal()
    panel = Panel("demo", None, None, console)
    panel.begin(1000, [(step, 5.0) for step in range(1, 500)], [(250, 4.5, 4.7)])
    assert "waiting" in "\n".join(shown(panel, console))
    feed(panel, 501, loss=4.0)
    lines = shown(panel, console)
    assert "step 501 of 1,000" in lines[1]
    assert any(line.strip("│ ").split() == ["1", "501"] for line in lines)
    assert "4.7000" in "\n".join(lines)


def test_time_left() -> None:
    console = terminal()
    resumed = Panel("demo", 1000, None, console)
    resumed.step(replace(STEP, step=900, fraction=0.9, elapsed=5.0))
    assert "after 5s" in shown(resumed, console)[1]  # one step says nothing about the speed
    resumed.step(replace(STEP, step=910, fraction=0.91, elapsed=15.0))
    assert "1m 30s left" in shown(resumed, console)[1]  # one step per second, whatever the clock showed at first
    budget = Panel("demo", None, 3600, console)
    budget.step(replace(STEP, step=1, fraction=0.0, elapsed=10.0))
    assert "59m 50s left" in shown(budget, console)[1]
    budget.step(replace(STEP, step=2, fraction=1.0, elapsed=3601.0))
    assert "took 1h 00m" in shown(budget, console)[1]


def test_an_evaluation_before_the_first_step_is_in_the_chart() -> None:
    console = terminal()
    panel = Panel("demo", None, None, console)
    panel.evaluation(step=0, train_loss=None, val_loss=5.0, bits_per_byte=None)
    feed(panel, 1, loss=4.0)
    lines = shown(panel, console)
    assert "5.00 ┤" in lines[2]
    assert any(line.strip("│ ").split() == ["0", "1"] for line in lines)


def test_best_ignores_nan() -> None:
    console = terminal()
    panel = Panel("demo", None, None, console)
    feed(panel, 1)
    for val_loss in (math.nan, 2.0, math.nan, 3.0):
        assert "best nan" not in "\n".join(shown(panel, console))
        assert "best inf" not in "\n".join(shown(panel, console))
        panel.evaluation(step=1, train_loss=None, val_loss=val_loss, bits_per_byte=None)
    text = "\n".join(shown(panel, console))
    assert "3.0000" in text
    assert "best 2.0000" in text


def test_last_state_and_messages_stay_on_the_screen() -> None:
    console = terminal()
    with Panel("demo", 3, None, console) as panel:
        for step in (1, 2, 3):
            feed(panel, step, total=3)
        panel.message("saved [b]step 3[/b]\x1b[2J")
    output = console.file.getvalue()
    assert r"saved [b]step 3[/b]\x1b[2J" in output
    last = output[output.rindex("╭") :]
    assert "step 3 of 3" in last
    assert "100%" in last
    assert "╯" in last


def test_an_error_propagates_and_the_cursor_is_shown_again() -> None:
    console = terminal()
    with Panel("demo", None, None, console):
        pass
    assert console.file.getvalue() == ""  # a mistake before the first step draws nothing

    def fail() -> None:
        with Panel("demo", None, None, console) as panel:
            feed(panel, 1)
            raise KeyError("fault")

    with pytest.raises(KeyError):
        fail()
    assert console.file.getvalue().endswith("\x1b[?25h")  # cursor shown again


def test_memory_is_bounded() -> None:
    panel = Panel("demo", 30_000, None, terminal())
    for step in range(30_000):
        feed(panel, step, total=30_000, loss=1 + 1 / (1 + step))
    assert CURVE_POINTS / 4 < len(panel._losses.points) < CURVE_POINTS


def test_drawing_during_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFRESHES_PER_SECOND", 200)
    failures: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    console = terminal()
    with Panel("demo", 20_000, None, console) as panel:
        for step in range(20_000):
            feed(panel, step, total=20_000)
            if step % 100 == 0:
                panel.evaluation(step=step, train_loss=None, val_loss=2.0, bits_per_byte=None)
                panel.sample(str(step))
    assert failures == []
    assert "step 19,999" in console.file.getvalue()


def test_only_a_capable_terminal_gets_a_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_show_panel(Console(file=io.StringIO()))
    latin = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    assert not can_show_panel(Console(file=latin, force_terminal=True))
    utf8 = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert not can_show_panel(Console(file=utf8, force_terminal=True))  # FORCE_COLOR into a pipe
    utf8.isatty = lambda: True
    assert can_show_panel(Console(file=utf8, force_terminal=True, _environ={"TERM": "xterm"}))
    assert not can_show_panel(Console(file=utf8, force_terminal=True, _environ={"TERM": "dumb"}))
    utf8.fileno = lambda: 1
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1, raising=False)  # of the shell, or another job
    assert not can_show_panel(Console(file=utf8, force_terminal=True, _environ={"TERM": "xterm"}))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("memory   one two three four", ["memory   one two", "         three four"]),
        ("  a  9  why it is so now", ["  a  9  why it is so", "        now"]),
        ("a sentence that is too long", ["a sentence that is", "too long"]),
        ("data     " + "x" * 30, ["data", "         " + "x" * 30]),
        ("short", ["short"]),
    ],
)
def test_a_line_is_broken_between_words_and_continues_under_its_last_column(text: str, lines: list[str]) -> None:
    for is_terminal in (True, False):
        out = io.StringIO()
        print_line(text, Console(file=out, width=20, force_terminal=is_terminal, no_color=True))
        assert out.getvalue().splitlines() == (lines if is_terminal else [text])


def test_a_log_gets_no_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on GitHub
    with byte_progress() as watch, count_progress() as start:
        watch.phase("reading", 10)
        watch(5)
        start("questions")(1, 2)
    assert capsys.readouterr() == ("", "")
