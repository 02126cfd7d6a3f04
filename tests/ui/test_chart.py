import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text

from groundup.ui.chart import BLANK, Curve, Series, braille_chart

DOTS = {(0, 0): 0, (1, 0): 1, (2, 0): 2, (0, 1): 3, (1, 1): 4, (2, 1): 5, (3, 0): 6, (3, 1): 7}  # (row, column): bit


def lit(chart: Text) -> set[tuple[int, int]]:
    """(row, column) of every dot, counted from the top left of the plot."""
    found = set()
    for row, line in enumerate(chart.plain.split("\n")[:-1]):
        plot = line[max(line.find("┤"), line.find("│")) + 1 :]
        for column, character in enumerate(plot):
            code = ord(character) - BLANK if character != " " else 0
            assert 0 <= code < 256
            found |= {(4 * row + r, 2 * column + c) for (r, c), bit in DOTS.items() if code >> bit & 1}
    return found


def plot_width(chart: Text) -> int:
    line = chart.plain.split("\n")[0]
    return max(len(part) for part in chart.plain.split("\n")) - (max(line.find("┤"), line.find("│")) + 1)


points = st.lists(st.tuples(st.floats(0, 1e6), st.floats()), max_size=60)


@given(points, points, st.integers(-1, 90), st.integers(-1, 20))
@settings(deadline=None, max_examples=200)
def test_the_plot_stays_inside_the_box(a, b, width: int, height: int) -> None:
    chart = braille_chart([Series(a, "cyan"), Series(b, "bold yellow", joined=False)], width, height)
    lines = chart.plain.split("\n")
    assert len(lines) == max(1, height if height > 1 and width > 0 else 1)
    assert all(len(line) <= max(0, width) for line in lines)
    lit(chart)  # every character is a braille pattern or a space


@given(st.lists(st.floats(0.1, 20), min_size=2, max_size=200))
@settings(deadline=None)
def test_a_falling_series_falls(values) -> None:
    falling = sorted(values, reverse=True)
    dots = lit(braille_chart([Series(list(enumerate(falling)))], 40, 9))
    columns = sorted({c for _, c in dots})
    lowest = [max(r for r, c in dots if c == column) for column in columns]
    highest = [min(r for r, c in dots if c == column) for column in columns]
    assert columns == list(range(columns[0], columns[-1] + 1))  # joined: no holes
    assert lowest == sorted(lowest)
    assert highest == sorted(highest)


@given(st.lists(st.tuples(st.integers(0, 64), st.floats(1, 9)), min_size=2, max_size=8, unique_by=lambda p: p[0]))
@settings(deadline=None)
def test_a_point_is_at_the_computed_position(chosen) -> None:
    # Two anchors fix the range; a curve this short has no head to be cut off.
    series = [(-1.0, 0.0), *chosen, (65.0, 10.0)]
    chart = braille_chart([Series(series, joined=False)], 60, 11)
    R, C = 40, 2 * plot_width(chart)
    expected = {}
    for x, y in series:
        expected.setdefault(round((x + 1) / 66 * (C - 1)), []).append(y)
    dots = lit(chart)
    for column, ys in expected.items():
        row = (10 - sum(ys) / len(ys)) / 10 * (R - 1)
        assert any((nearest, column) in dots for nearest in {math.floor(row + 0.499), math.ceil(row - 0.499)})
    assert len(dots) <= 2 * len(expected)


def test_a_line_passes_through_the_middle() -> None:
    chart = braille_chart([Series([(0, 0), (10, 10)])], 40, 9)
    C = 2 * plot_width(chart)
    assert len(lit(chart)) == C  # such a gentle slope needs one dot per column
    for row, column in lit(chart):
        assert abs(row - (1 - column / (C - 1)) * 31) <= 1


def test_labels_are_the_range() -> None:
    lines = braille_chart([Series([(100, 2.0), (12_345, 4.0)])], 40, 10).plain.split("\n")
    assert lines[0].startswith("4.00 ┤")
    assert lines[8].startswith("2.00 ┤")
    middle = float(lines[4].split()[0])
    assert middle == pytest.approx(4 - 2 * (4 * 4 + 1.5) / 35, abs=0.006)
    assert lines[9].split() == ["100", "12,345"]


def test_the_first_descent_is_cut_and_a_late_spike_is_not() -> None:
    cliff = [(i, 10.0 if i < 4 else 2.0 + i / 100) for i in range(100)]
    assert braille_chart([Series(cliff)], 80, 10).plain.startswith("2.99 ┤")
    spike = [(i, 10.0 if i == 97 else 2.0 + i / 100) for i in range(100)]
    assert braille_chart([Series(spike)], 80, 10).plain.startswith("10.00 ┤")


@pytest.mark.parametrize("value", [0.0, 0.1, 3.2, -7.0, 1e99, 1e-300])
@pytest.mark.parametrize("count", [1, 2, 100_000])
def test_a_constant_is_a_level_line(value: float, count: int) -> None:
    dots = lit(braille_chart([Series([(i, value) for i in range(count)])], 60, 8))
    assert len({row for row, _ in dots}) == 1


def test_the_last_series_takes_a_shared_cell() -> None:
    line = Series([(0, 1.0), (9, 1.0)], "cyan")
    mark = Series([(0, 1.0)], "bold yellow", joined=False)
    chart = braille_chart([line, mark], 30, 6)
    styles = [str(span.style) for span in chart.spans]
    assert styles.count("bold yellow") == 1
    assert "cyan" in styles


@pytest.mark.parametrize("nothing", [[], [(1.0, math.nan)], [(math.nan, 1.0), (2.0, math.inf), (3.0, -math.inf)]])
def test_no_points_no_dots(nothing) -> None:
    assert braille_chart([Series(nothing)], 30, 6).plain == "\n" * 5
    assert braille_chart([], 30, 6).plain == "\n" * 5


def test_points_that_are_not_finite_change_nothing() -> None:
    good = [(float(i), 5.0 - i / 10) for i in range(30)]
    bad = [(3.0, math.nan), (4.0, math.inf), (math.inf, 1.0), (5.0, 1e300)]
    assert braille_chart([Series(good + bad)], 50, 8) == braille_chart([Series(good)], 50, 8)


def test_x_range_fixes_the_edges_and_leaves_out_what_is_beyond() -> None:
    chart = braille_chart([Series([(0, 9.0), (50, 2.0), (60, 1.0), (150, 9.0)])], 40, 6, x_range=(10, 110))
    assert chart.plain.split("\n")[-1].split() == ["10", "110"]
    columns = {column for _, column in lit(chart)}
    C = 2 * plot_width(chart)
    assert min(columns) == round(0.4 * (C - 1))
    assert max(columns) == round(0.5 * (C - 1))


@given(st.lists(st.floats(-100, 100), max_size=300), st.sampled_from([2, 4, 10, 64]))
@settings(deadline=None)
def test_a_curve_is_bounded_and_keeps_its_mean(values, limit: int) -> None:
    curve = Curve(limit)
    for x, y in enumerate(values):
        curve.add(x, y)
    assert len(curve.points) < limit
    if values:
        each = 1  # values merged into a point: the smallest power of two that fits
        while len(values) // each >= limit:
            each *= 2
        groups = [values[i : i + each] for i in range(0, len(values) - each + 1, each)]
        assert [y for _, y in curve.points] == pytest.approx([sum(g) / each for g in groups], abs=1e-9)


def test_a_curve_leaves_out_what_is_not_finite() -> None:
    curve = Curve()
    for x, y in enumerate([1.0, math.nan, math.inf, 2.0]):
        curve.add(x, y)
    assert curve.points == [(0.0, 1.0), (3.0, 2.0)]
