"""Plot of a comparison, its curves and task accuracies, as a PNG or SVG file. matplotlib is imported on first use.

No window is opened, and neither the user's settings nor the state of `pyplot` have an effect.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from groundup.checkpoint.log import Evaluation
from groundup.comparison.comparison import Comparison, Run
from groundup.comparison.table import STDERR, UNIT
from groundup.ui.format import human_count, single_line
from groundup.utils.extras import install_command

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that are distinct with any common colour blindness (Okabe and Ito, "Color Universal Design", 2008), without
# yellow, which is too faint on white. Further runs are dashed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--")
TRAINING: dict[str, Any] = {"linestyle": (0, (1, 1.2)), "linewidth": 1.2}  # validation losses are solid
HEAD_FRACTION = 0.05  # of the longest curve; losses there do not extend the y range, as in a terminal's chart
MAX_MARKERS = 25  # evaluations; more markers would hide the line
TIME_UNITS = ((3 * 3600, 3600, "hours"), (180, 60, "minutes"), (0, 1, "seconds"))  # minimum, size, name
WIDTH, HEIGHT, TASKS_HEIGHT = 11.0, 4.6, 3.4  # inches
TASK_WIDTH_FRACTION = 0.6  # of the distance of two tasks, for the points of one
LEGEND_CHARACTERS = 130  # in one row of the legend
HANDLE_CHARACTERS = 10  # width of a line in the legend with its margins
ACCURACIES = ("acc_norm", "acc")  # the first one that all runs of a task have is drawn
MAX_NAME_CHARACTERS = 48


class Result(NamedTuple):
    """Accuracy of each run on one task and its standard error; None where unknown."""

    task: str
    values: Sequence[float | None]
    errors: Sequence[float | None]


def missing() -> str | None:
    """Message if matplotlib is not installed, else None."""
    return None if find_spec("matplotlib") else f"matplotlib is not installed; {install_command('plot')}"


def draw(comparison: Comparison, kind: str) -> bytes:
    """Bytes of a file of `kind`, png or svg. Call only if nothing is `missing`."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as for characters that no font has
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "groundup"  # the same runs give the same file
        file = BytesIO()
        figure(comparison).savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def figure(comparison: Comparison) -> Figure:
    """Losses over tokens and over time, tasks below them, and a legend."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    runs, results = comparison.runs, accuracies(comparison.runs)
    many = f"{len(runs)} runs" if len(runs) > 1 else shorten(runs[0].name)
    other = {"same": "", "other": ", of different texts", "unknown": ", perhaps of different texts"}
    heights = [HEIGHT, TASKS_HEIGHT] if results else [HEIGHT]
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, hspace=0.08)
    page = Figure(figsize=(WIDTH, sum(heights)), dpi=160, layout=layout)
    has_training = any(training(run, comparison) for run in runs)
    what = "Training and validation loss" if has_training else "Validation loss"
    title = f"{what} of {many}{other[comparison.same_text]}"
    page.suptitle(title, x=0.01, ha="left", fontweight="bold", parse_math=False)
    grid = page.add_gridspec(len(heights), 2, height_ratios=heights)
    by_tokens = page.add_subplot(grid[0, 0])
    by_time = page.add_subplot(grid[0, 1], sharey=by_tokens)
    _losses(by_tokens, by_time, comparison)
    if has_training:
        _name_lines(by_tokens)
    if results:
        _tasks(page.add_subplot(grid[1, :]), results, len(runs))
    _legend(page, by_tokens, comparison)
    return page


def training(run: Run, comparison: Comparison) -> list[tuple[Evaluation, float]]:
    """Evaluations with their training losses; none in bits per byte, of which training losses are not known."""
    losses = [(point, point.train_loss) for point in run.points] if comparison.measure == "val_loss" else []
    return [(point, loss) for point, loss in losses if loss is not None]


def shorten(name: str) -> str:
    """Escape a name for one line, and shorten a long one to its beginning and end."""
    name, half = single_line(name), MAX_NAME_CHARACTERS // 2
    return name if len(name) <= MAX_NAME_CHARACTERS else f"{name[:half]}…{name[-half:]}"


def accuracies(runs: Sequence[Run]) -> list[Result]:
    """Accuracies of the tasks of which all runs that were evaluated on one have the same kind."""
    found = []
    for task in dict.fromkeys(task for run in runs for task in run.history.tasks):
        metrics = [run.history.tasks[task].metrics if task in run.history.tasks else None for run in runs]
        metric = next((name for name in ACCURACIES if all(name in one for one in metrics if one is not None)), None)
        if metric:
            values = [one[metric] if one else None for one in metrics]
            errors = [one.get(metric + STDERR) if one else None for one in metrics]
            found.append(Result(f"{shorten(task)}\n{metric}", values, errors))
    return found


def _losses(by_tokens: Axes, by_time: Axes, comparison: Comparison) -> None:
    runs, measure = comparison.runs, comparison.measure
    longest = max(run.points[-1].seconds for run in runs)
    unit, name = next((unit, name) for least, unit, name in TIME_UNITS if longest >= least)
    for i, run in enumerate(runs):
        losses = [getattr(point, measure) for point in run.points]
        style: dict[str, Any] = {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": DASHES[i // len(COLOURS) % len(DASHES)],
            "linewidth": 1.8,
            "marker": "o" if len(losses) <= MAX_MARKERS else None,
            "markersize": 3.5,
        }
        by_tokens.plot([point.tokens for point in run.points], losses, **style)
        by_time.plot([point.seconds / unit for point in run.points], losses, **style)
    for i, run in enumerate(runs):
        found, style = training(run, comparison), TRAINING | {"color": COLOURS[i % len(COLOURS)]}
        if found:
            losses = [loss for _, loss in found]
            by_tokens.plot([point.tokens for point, _ in found], losses, **style)
            by_time.plot([point.seconds / unit for point, _ in found], losses, **style)
    by_tokens.xaxis.set_major_formatter(lambda tokens, _: human_count(tokens))
    by_tokens.set(xlabel="tokens", ylabel=f"loss ({UNIT[measure]})")
    by_time.set(xlabel=f"training time ({name})")
    by_time.tick_params(labelleft=False)
    by_tokens.set_ylim(*_range(comparison))
    tokens, seconds = comparison.equal["tokens"], comparison.equal["seconds"]
    verticals = (
        (by_tokens, tokens.at if tokens else None, "equal tokens "),
        (by_time, seconds.at / unit if seconds else None, "equal time "),
    )
    for axes, position, text in verticals:
        _frame(axes)
        axes.set_xlim(left=0)
        if position is not None and len(runs) > 1:
            axes.axvline(position, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
            where = axes.get_xaxis_transform()
            axes.text(position, 1, text, ha="right", va="bottom", color="0.4", fontsize=8, transform=where)


def _name_lines(axes: Axes) -> None:
    """Say in the corner that curves leave free which lines are of which text."""
    from matplotlib.lines import Line2D

    styles: dict[str, dict[str, Any]] = {"validation": {"linewidth": 1.8}, "training": TRAINING}
    lines = [Line2D([], [], color="0.3", label=name, **style) for name, style in styles.items()]
    axes.legend(handles=lines, loc="upper right", frameon=False, handlelength=3)


def _range(comparison: Comparison) -> tuple[float, float]:
    """From the lowest loss to the highest after the head, with a margin."""
    runs = comparison.runs
    points = [(point.tokens, float(getattr(point, comparison.measure))) for run in runs for point in run.points]
    points += [(point.tokens, loss) for run in runs for point, loss in training(run, comparison)]
    head = HEAD_FRACTION * max(tokens for tokens, _ in points)
    bottom, top = min(loss for _, loss in points), max(loss for tokens, loss in points if tokens >= head)
    margin = 0.05 * (top - bottom) or 0.05 * abs(top) or 1.0
    return bottom - margin, top + margin


def _tasks(axes: Axes, results: Sequence[Result], n: int) -> None:
    """Points of `n` runs with standard errors, side by side above each task."""
    for i in range(n):
        found = [
            (j, value, result.errors[i] or 0.0)
            for j, result in enumerate(results)
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
    axes.set_xticks(range(len(results)), [result.task for result in results])
    for label in axes.get_xticklabels():
        label.set_parse_math(False)
    axes.set_xlim(-0.5, len(results) - 0.5)
    axes.set(ylabel="accuracy (bars: standard error)")
    _frame(axes)


def _frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def _legend(page: Figure, axes: Axes, comparison: Comparison) -> None:
    """Names of the runs below the axes."""
    texts = [f"{shorten(run.name)}  {getattr(run.points[-1], comparison.measure):.3f}" for run in comparison.runs]
    most = max(1, LEGEND_CHARACTERS // (max(map(len, texts)) + HANDLE_CHARACTERS))
    rows = math.ceil(len(texts) / most)
    legend = page.legend(
        axes.get_lines()[: len(texts)],
        texts,
        title=f"runs and their last validation loss ({UNIT[comparison.measure]})",
        title_fontsize=9,
        alignment="left",
        loc="outside lower left",
        ncols=math.ceil(len(texts) / rows),
        frameon=False,
        handlelength=3,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
