"""Plot of several runs: complete, readable and safe from markup in names."""

import xml.etree.ElementTree as ET
from itertools import pairwise
from types import SimpleNamespace

import pytest

from groundup.comparison import plot
from groundup.comparison.comparison import EqualPoint
from groundup.comparison.plot import COLOURS, DASHES, draw

pytest.importorskip("matplotlib")

NAMES = ["_hidden", "cost$\\frac$", "<b>&", *(f"a-run-of-a-longer-name-{i}" for i in range(9))]


def comparison(n, points=5, tasks=lambda i: {}, train=lambda loss: None):
    runs = []
    for i, name in enumerate(NAMES[:n]):
        losses = [9.0, *(5.0 - k - i / 50 for k in range(1, points))]
        evaluations = [
            SimpleNamespace(tokens=100 * k, seconds=float(k * (i + 1)), val_loss=loss, train_loss=train(loss))
            for k, loss in enumerate(losses, start=1)
        ]
        runs.append(SimpleNamespace(name=name, points=evaluations, history=SimpleNamespace(tasks=tasks(i))))
    equal = {"tokens": EqualPoint(300.0, (), ()), "seconds": None}
    return SimpleNamespace(runs=runs, measure="val_loss", same_text="same", equal=equal)


def cloze(i):
    metrics = {"acc": 0.5} | ({"acc_stderr": 0.1} if i < 6 else {})
    return {"cloze": SimpleNamespace(metrics=metrics)} if i < 11 else {}


def test_the_names_are_printed_next_to_the_panels_unchanged():
    found = plot.figure(comparison(12, tasks=cloze))
    found.draw_without_rendering()  # which lays it out
    (legend,) = found.legends
    area, page = legend.get_window_extent(), found.bbox
    assert page.x0 <= area.x0 < area.x1 <= page.x1
    assert page.y0 <= area.y0 < area.y1 <= page.y1
    for axes in found.axes:
        assert not area.overlaps(axes.get_tightbbox())
    texts = [text.get_text() for text in legend.get_texts()]
    assert [text.rpartition("  ")[0] for text in texts] == NAMES
    looks = {(line.get_color(), line.get_linestyle()) for line in found.axes[0].get_lines()[:12]}
    assert len(looks) == 12
    assert len(COLOURS) * len(DASHES) >= 12


def test_every_point_after_the_head_is_in_the_picture():
    (by_tokens, by_time) = plot.figure(comparison(3, points=50)).axes
    bottom, top = by_tokens.get_ylim()
    assert top < 9.0  # the first step's cliff is not
    for line in by_tokens.get_lines()[:3]:
        assert all(bottom < y < top for y in line.get_ydata()[2:])
    assert by_time.get_ylim() == by_tokens.get_ylim()
    assert len(by_tokens.get_lines()) == 4  # with the mark of equal tokens
    assert len(by_time.get_lines()) == 3  # without a common position


def test_training_losses_are_thin_dotted_lines_of_the_same_colours():
    found = plot.figure(comparison(2, train=lambda loss: loss - 1.5))
    by_tokens, by_time = found.axes
    one, two, *training = by_tokens.get_lines()[:4]
    assert [line.get_color() for line in training] == [one.get_color(), two.get_color()]
    assert list(training[0].get_ydata()) == [loss - 1.5 for loss in one.get_ydata()]
    assert training[0].get_linestyle() != one.get_linestyle()
    assert training[0].get_linewidth() < one.get_linewidth()
    assert [text.get_text() for text in by_tokens.get_legend().get_texts()] == ["validation", "training"]
    assert found.get_suptitle().startswith("Training and validation loss of 2 runs")
    assert by_tokens.get_ylim()[0] < min(two.get_ydata()) - 1.5
    assert len(by_time.get_lines()) == 4
    alone = plot.figure(comparison(2))
    assert alone.get_suptitle().startswith("Validation loss")
    assert alone.axes[0].get_legend() is None


def test_points_stand_at_their_tokens_and_at_their_time_in_the_unit_that_the_axis_names():
    found = comparison(1)
    for point in found.runs[0].points:
        point.seconds *= 3600
    by_tokens, by_time = plot.figure(found).axes
    assert list(by_tokens.get_lines()[0].get_xdata()) == [100, 200, 300, 400, 500]
    assert by_time.get_xlabel() == "training time (hours)"
    assert list(by_time.get_lines()[0].get_xdata()) == [1, 2, 3, 4, 5]


def test_points_of_a_task_stand_side_by_side_in_the_order_of_the_runs_around_its_name():
    axes = plot.figure(comparison(4, tasks=cloze)).axes[-1]
    positions = [container.lines[0].get_xdata()[0] for container in axes.containers]
    steps = [after - before for before, after in pairwise(positions)]
    assert sum(positions) == pytest.approx(0)
    assert steps == pytest.approx([steps[0]] * 3)
    assert 0 < steps[0] < 1 / 4  # four runs fit between two names


@pytest.mark.parametrize("points", [1, 2])
def test_a_file_is_one_picture_and_the_same_each_time(points):
    assert draw(comparison(1, points), "png").startswith(b"\x89PNG\r\n")
    svg = draw(comparison(3, points), "svg")
    assert svg == draw(comparison(3, points), "svg")
    assert ET.fromstring(svg).tag.endswith("svg")
    assert b"<script" not in svg


def test_matplotlib_settings_of_the_user_are_neither_used_nor_changed(monkeypatch):
    import matplotlib

    before = draw(comparison(1), "svg")
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    assert draw(comparison(1), "svg") == before
    assert matplotlib.rcParams["font.size"] == 30.0
