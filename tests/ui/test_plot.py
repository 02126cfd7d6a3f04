"""A picture of several runs: whole, readable, and of nothing that names could do to it."""

import xml.etree.ElementTree as ET

import pytest

from groundup.ui import plot
from groundup.ui.plot import COLOURS, DASHES, Drawing, Line, Result, draw

pytest.importorskip("matplotlib")

NAMES = ["_hidden", "cost$\\frac$", "<b>&", *(f"a-run-of-a-longer-name-{i}" for i in range(9))]


def drawing(n, points=5, results=()):
    lines = [
        Line(name, [100 * k for k in range(1, points + 1)], [float(k * (i + 1)) for k in range(1, points + 1)],
             [9.0, *(5.0 - k - i / 50 for k in range(1, points))])
        for i, name in enumerate(NAMES[:n])
    ]  # fmt: skip
    return Drawing("runs of $1 to $2", "validation loss", lines, (300.0, None), results)


def test_the_names_stand_beside_the_panels_in_full_and_as_they_are():
    found = plot.figure(drawing(12, results=[Result("cloze", [0.5] * 11 + [None], [0.1] * 6 + [None] * 6)]))
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
    (by_tokens, by_time) = plot.figure(drawing(3, points=50)).axes
    bottom, top = by_tokens.get_ylim()
    assert top < 9.0  # the first step's cliff is not
    for line in by_tokens.get_lines()[:3]:
        assert all(bottom < y < top for y in line.get_ydata()[2:])
    assert by_time.get_ylim() == by_tokens.get_ylim()
    assert len(by_tokens.get_lines()) == 4  # with the mark of equal tokens
    assert len(by_time.get_lines()) == 3  # where there is no such place


@pytest.mark.parametrize("points", [1, 2])
def test_a_file_is_one_picture_and_the_same_each_time(points):
    assert draw(drawing(1, points), "png").startswith(b"\x89PNG\r\n")
    svg = draw(drawing(3, points), "svg")
    assert svg == draw(drawing(3, points), "svg")
    assert ET.fromstring(svg).tag.endswith("svg")
    assert b"<script" not in svg


def test_settings_of_the_user_have_no_part_in_it_and_stay(monkeypatch):
    import matplotlib

    before = draw(drawing(1), "svg")
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    assert draw(drawing(1), "svg") == before
    assert matplotlib.rcParams["font.size"] == 30.0
