"""Loss curves in braille dots on a terminal: every character cell holds 2 x 4 dots.

Letters: R, C rows and columns of dots; H, W rows and columns of cells, so that R = 4H and C = 2W.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
from rich.text import Text

Floats = npt.NDArray[np.float64]
Dots = npt.NDArray[np.bool_]

BLANK = 0x2800  # the empty braille pattern, U+2800; its low eight bits are the dots
DOT_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # (4, 2), Unicode's numbering of the dots
HEAD_FRACTION = 20  # the first 1/20 of the columns does not extend the y range
MAX_VALUE = 1e100  # larger values are no losses, and sums could overflow
MIN_RELATIVE_SPREAD = 1e-9  # a smaller spread is rounding error of means
CURVE_POINTS = 2000  # a chart has far fewer columns
MIN_PLOT_CELLS = 4  # y labels are left out if they leave fewer


@dataclass(frozen=True)
class Series:
    """Points (x, y) in any order, the rich style they are drawn in, and whether a line joins them.

    With a `marker`, each is that character.
    """

    points: Sequence[tuple[float, float]]
    style: str = ""
    joined: bool = True
    marker: str = ""


class Curve:
    """A curve of any length in fewer than `limit` points (even): neighbours are averaged when it is full."""

    def __init__(self, limit: int = CURVE_POINTS) -> None:
        self.points: list[tuple[float, float]] = []
        self._limit, self._stride = limit, 1  # stride: values in a point
        self._count, self._x, self._y = 0, 0.0, 0.0  # of the point that is still being collected

    def add(self, x: float, y: float) -> None:
        """Append a value; values that are not finite are left out, since they would spoil the mean."""
        if not math.isfinite(y):
            return
        self._count, self._x, self._y = self._count + 1, self._x + x, self._y + y
        if self._count < self._stride:
            return
        self.points.append((self._x / self._count, self._y / self._count))
        self._count, self._x, self._y = 0, 0.0, 0.0
        if len(self.points) >= self._limit:
            pairs = zip(self.points[::2], self.points[1::2], strict=False)
            self.points = [((x0 + x1) / 2, (y0 + y1) / 2) for (x0, y0), (x1, y1) in pairs]
            self._stride *= 2


def braille_chart(
    series: Sequence[Series], width: int, height: int, x_range: tuple[float, float] | None = None
) -> Text:
    """Draw `series` as `height` lines of at most `width` cells: y labels on the left, the x range on the last line.

    Without `x_range` the edges are the first and the last point; with it, points outside are left out, as NaN and
    infinities always are. Points in one column of dots are averaged. A cell has one colour, that of the later series.
    The first steep descent may start above the top edge.
    """
    H, W = height - 1, width
    if H < 1 or W < 1:
        return Text("")
    clean = [_readable(s.points, x_range or (-MAX_VALUE, MAX_VALUE)) for s in series]
    x = np.concatenate([np.empty(0), *(xy[:, 0] for xy in clean)])
    if not len(x):
        return Text("\n" * H)
    left, right = x_range or (float(x.min()), float(x.max()))

    # The range follows the column means, and the labels' width follows the range: only then is W known. Means over
    # slightly too many columns are close enough to choose a range.
    means = np.concatenate([_column_means(xy, left, right, 2 * W) for xy in clean])
    bottom, top = _y_range(means)
    labels = _labels(bottom, top, H)
    gutter = max(map(len, labels.values())) + 2
    if W - gutter < MIN_PLOT_CELLS:
        labels, gutter = {}, 0
    W -= gutter

    codes = np.full((H, W), ord(" "))  # of the characters
    owner = np.zeros((H, W), dtype=np.int64)  # 1 + the index of the series that a cell shows
    for index, (s, xy) in enumerate(zip(series, clean, strict=True), start=1):
        dots = _dots(_column_means(xy, left, right, 2 * W), bottom, top, 4 * H, 2 * W, s.joined)
        drawn = (dots.reshape(H, 4, W, 2) * DOT_BITS[:, None, :]).sum(axis=(1, 3))  # (H, W), 0 for an empty cell
        codes = np.where(drawn > 0, ord(s.marker) if s.marker else BLANK + drawn, codes)
        owner = np.where(drawn > 0, index, owner)
    chart = _assemble(codes, owner, ["", *(s.style for s in series)], labels, gutter)
    first, last = f"{left:,.0f}", f"{right:,.0f}"
    if len(first) + len(last) < W:
        chart.append(" " * gutter + first + last.rjust(W - len(first)), style="dim")
    return chart


def _readable(points: Sequence[tuple[float, float]], x_range: tuple[float, float]) -> Floats:
    """Points that can be drawn: (N, 2)."""
    xy = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    x, y = xy.T
    return xy[(x_range[0] <= x) & (x <= x_range[1]) & (np.abs(y) <= MAX_VALUE)]  # NaN compares false


def _column_means(xy: Floats, left: float, right: float, C: int) -> Floats:
    """One (column, mean y) for every column of dots that has a point, in order: (at most C, 2)."""
    span = right - left if right > left else math.inf  # all in column 0
    column = np.rint((xy[:, 0] - left) / span * (C - 1)).astype(np.int64)
    count = np.bincount(column, minlength=C)
    total = np.bincount(column, weights=xy[:, 1], minlength=C)
    taken = np.flatnonzero(count)
    return np.stack([taken, total[taken] / count[taken]], axis=1)


def _y_range(means: Floats) -> tuple[float, float]:
    """From the lowest point to the highest one after the first 1/20 of the columns.

    A loss falls steeply at first (from ln(vocabulary)), which would compress the rest into the lowest lines. Cutting by
    time and not by height keeps a late spike visible.
    """
    in_time = means[np.argsort(means[:, 0], kind="stable"), 1]
    bottom, top = float(in_time.min()), float(in_time[len(in_time) // HEAD_FRACTION :].max())
    if _is_flat(bottom, top):
        top = float(in_time.max())
    if _is_flat(bottom, top):
        margin = abs(bottom) / 10 or 1.0
        return bottom - margin, bottom + margin
    return bottom, top


def _is_flat(bottom: float, top: float) -> bool:
    return top - bottom <= MIN_RELATIVE_SPREAD * max(abs(bottom), abs(top))


def _dots(means: Floats, bottom: float, top: float, R: int, C: int, joined: bool) -> Dots:
    """The dots of one series: (R, C), row 0 on top. Points above the range are not drawn."""
    dots = np.zeros((R, C), dtype=np.bool_)
    if not len(means):
        return dots
    column = means[:, 0].astype(np.int64)
    depth = (top - means[:, 1]) / (top - bottom) * (R - 1)
    height = np.arange(R)[:, None]  # (R, 1)
    if not joined:
        row = _rows(depth, R)
        # Both dots of the cell's row are set: a single one is hard to see.
        for side in (column, column ^ 1):
            dots[:, side] |= height == row
        return dots
    every = np.arange(column[0], column[-1] + 1)
    row = _rows(np.interp(every, column, depth), R)
    before = np.concatenate([row[:1], row[:-1]])
    # Each column starts where the previous one ended, without repeating that row, so that steep parts stay joined.
    first = np.where(before < row, before + 1, row)
    last = np.where(before > row, before - 1, row)
    dots[:, every] = (first <= height) & (height <= last)
    return dots


def _rows(depth: Floats, R: int) -> npt.NDArray[np.int64]:
    """The nearest row of dots; -1, just outside, for all that is above. Equal values get equal rows."""
    return np.rint(depth.round(6)).clip(-1, R - 1).astype(np.int64)


def _labels(bottom: float, top: float, H: int) -> dict[int, str]:
    """Row of cells -> its value: top, bottom and, if it fits, the middle."""
    values = {0: top, H - 1: bottom}
    if H >= 5:
        depth = (4 * (H // 2) + 1.5) / (4 * H - 1)  # the centre of that cell, on the scale of the dots
        values[H // 2] = top - (top - bottom) * depth
    decimals = 2 if top - bottom >= 0.1 else 4
    return {row: f"{y:.{decimals}f}" if abs(y) < 1e5 else f"{y:.2e}" for row, y in values.items()}


def _assemble(
    codes: npt.NDArray[np.int64],
    owner: npt.NDArray[np.int64],
    styles: Sequence[str],
    labels: dict[int, str],
    gutter: int,
) -> Text:
    chart = Text(no_wrap=True, overflow="crop")
    for row in range(len(codes)):
        if gutter:
            chart.append(f"{labels.get(row, ''):>{gutter - 2}} {'┤' if row in labels else '│'}", style="dim")
        cells = zip(owner[row].tolist(), codes[row].tolist(), strict=True)
        for index, run in groupby(cells, key=lambda cell: cell[0]):
            chart.append("".join(chr(code) for _, code in run), style=styles[index])
        chart.append("\n")
    return chart
