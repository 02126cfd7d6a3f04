"""Plot of losses and task results of several runs as a PNG or SVG file. matplotlib is imported on first use.

No window is opened, and neither the user's settings nor the state of `pyplot` have an effect.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any

from groundup.ui.format import human_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that are distinct with any common colour blindness (Okabe and Ito, "Color Universal Design", 2008), without
# yellow, which is too faint on white. Further runs are dashed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--")
HEAD_FRACTION = 0.05  # of the longest curve; losses there do not extend the y range, as in a terminal's chart
MAX_MARKERS = 25  # evaluations; more markers would hide the line
TIME_UNITS = (
    (3 * 3600, 3600, "hours"),
    (180, 60, "minutes"),
    (0, 1, "seconds"),
)  # minimum seconds, seconds per unit, name
WIDTH, HEIGHT, TASKS_HEIGHT = 11.0, 4.6, 3.4  # inches
DPI = 160
TASK_WIDTH_FRACTION = 0.6  # of the distance of two tasks, for the points of one
LEGEND_CHARACTERS = 130  # in one row of the legend
HANDLE_CHARACTERS = 10  # width of a line in the legend with its margins


@dataclass(frozen=True)
class Line:
    """Losses of one run, with tokens and seconds of each evaluation."""

    name: str
    tokens: Sequence[float]
    seconds: Sequence[float]
    losses: Sequence[float]


@dataclass(frozen=True)
class Result:
    """Accuracy of each run on one task and its standard error; None where unknown."""

    task: str
    values: Sequence[float | None]
    errors: Sequence[float | None]


@dataclass(frozen=True)
class Drawing:
    """Contents of a plot; sequences are in the order of `lines`. `marks`: tokens and seconds of the comparison."""

    title: str
    loss: str  # name and unit of the losses
    lines: Sequence[Line]
    marks: tuple[float | None, float | None] = (None, None)
    results: Sequence[Result] = ()


def missing() -> str | None:
    """Message if matplotlib is not installed, else None."""
    if find_spec("matplotlib") is None:
        return "matplotlib is not installed; pip install 'groundup[plot]'"
    return None


def draw(drawing: Drawing, kind: str) -> bytes:
    """Bytes of a file of `kind`, png or svg. Call only if nothing is `missing`."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as for characters that no font has
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "groundup"  # the same runs give the same file
        file = BytesIO()
        figure(drawing).savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def figure(drawing: Drawing) -> Figure:
    """Losses over tokens and over time, tasks below them, and a legend."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    heights = [HEIGHT, TASKS_HEIGHT] if drawing.results else [HEIGHT]
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, hspace=0.08)
    page = Figure(figsize=(WIDTH, sum(heights)), dpi=DPI, layout=layout)
    page.suptitle(drawing.title, x=0.01, ha="left", fontweight="bold", parse_math=False)
    grid = page.add_gridspec(len(heights), 2, height_ratios=heights)
    by_tokens = page.add_subplot(grid[0, 0])
    by_time = page.add_subplot(grid[0, 1], sharey=by_tokens)
    _losses(by_tokens, by_time, drawing)
    if drawing.results:
        _tasks(page.add_subplot(grid[1, :]), drawing)
    _legend(page, by_tokens, drawing)
    return page


def _style(i: int, n: int) -> dict[str, Any]:
    """Line style of run `i`, which has `n` points."""
    colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
    marker = {"marker": "o", "markersize": 3.5} if n <= MAX_MARKERS else {}
    return {"color": colour, "linestyle": dash, "linewidth": 1.8, **marker}


def _losses(by_tokens: Axes, by_time: Axes, drawing: Drawing) -> None:
    longest = max(line.seconds[-1] for line in drawing.lines)
    unit, name = next((unit, name) for least, unit, name in TIME_UNITS if longest >= least)
    for i, line in enumerate(drawing.lines):
        style = _style(i, len(line.losses))
        by_tokens.plot(line.tokens, line.losses, **style)
        by_time.plot([seconds / unit for seconds in line.seconds], line.losses, **style)
    by_tokens.xaxis.set_major_formatter(lambda tokens, _: human_count(tokens))
    by_tokens.set(xlabel="tokens", ylabel=drawing.loss)
    by_time.set(xlabel=f"training time ({name})")
    by_time.tick_params(labelleft=False)
    by_tokens.set_ylim(*_range(drawing.lines))
    tokens, seconds = drawing.marks
    verticals = (
        (by_tokens, tokens, "equal tokens "),
        (by_time, None if seconds is None else seconds / unit, "equal time "),
    )
    for axes, position, text in verticals:
        _frame(axes)
        axes.set_xlim(left=0)
        if position is not None and len(drawing.lines) > 1:
            axes.axvline(position, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
            where = axes.get_xaxis_transform()
            axes.text(position, 1, text, ha="right", va="bottom", color="0.4", fontsize=8, transform=where)


def _range(lines: Sequence[Line]) -> tuple[float, float]:
    """From the lowest loss to the highest after the head, with a margin."""
    head = HEAD_FRACTION * max(line.tokens[-1] for line in lines)
    late = [loss for line in lines for x, loss in zip(line.tokens, line.losses, strict=True) if x >= head]
    bottom, top = min(loss for line in lines for loss in line.losses), max(late)
    margin = 0.05 * (top - bottom) or 0.05 * abs(top) or 1.0
    return bottom - margin, top + margin


def _tasks(axes: Axes, drawing: Drawing) -> None:
    """Points with standard errors, side by side above each task."""
    n = len(drawing.lines)
    for i in range(n):
        found = [
            (j, value, result.errors[i] or 0.0)
            for j, result in enumerate(drawing.results)
            if (value := result.values[i]) is not None
        ]
        colour = COLOURS[i % len(COLOURS)]
        axes.errorbar(
            [j + (i - (n - 1) / 2) * TASK_WIDTH_FRACTION / n for j, _, _ in found],
            [value for _, value, _ in found],
            [error for _, _, error in found],
            fmt="o",
            color=colour,
            markerfacecolor=colour if i < len(COLOURS) else "white",
            markersize=6,
            capsize=3,
            linewidth=1.4,
        )
    axes.set_xticks(range(len(drawing.results)), [result.task for result in drawing.results])
    for label in axes.get_xticklabels():
        label.set_parse_math(False)
    axes.set_xlim(-0.5, len(drawing.results) - 0.5)
    axes.set(ylabel="accuracy (bars: standard error)")
    _frame(axes)


def _frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def _legend(page: Figure, axes: Axes, drawing: Drawing) -> None:
    """Names of the runs below the axes."""
    texts = [f"{line.name}  {line.losses[-1]:.3f}" for line in drawing.lines]
    most = max(1, LEGEND_CHARACTERS // (max(map(len, texts)) + HANDLE_CHARACTERS))
    rows = math.ceil(len(texts) / most)
    legend = page.legend(
        axes.get_lines()[: len(texts)],
        texts,
        title=f"runs and their last {drawing.loss}",
        title_fontsize=9,
        alignment="left",
        loc="outside lower left",
        ncols=math.ceil(len(texts) / rows),
        frameon=False,
        handlelength=3,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
