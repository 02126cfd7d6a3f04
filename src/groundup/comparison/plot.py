"""A comparison as a picture shows it."""

from __future__ import annotations

from groundup.comparison.comparison import Comparison, Run
from groundup.comparison.table import STDERR, UNIT, on_a_line
from groundup.ui.plot import Drawing, Line, Result

ACCURACIES = ("acc_norm", "acc")  # which of a task's metrics is drawn, if all runs that had the task have it
LONGEST = 48  # letters of a name


def drawing(comparison: Comparison) -> Drawing:
    """All curves, and the accuracies of tasks."""
    runs, measure = comparison.runs, comparison.measure
    lines = [
        Line(
            shortened(on_a_line(run.name)),
            [point.tokens for point in run.points],
            [point.seconds for point in run.points],
            [getattr(point, measure) for point in run.points],
        )
        for run in runs
    ]
    tokens, seconds = (comparison.meetings[axis] for axis in ("tokens", "seconds"))
    met = tokens.at if tokens else None, seconds.at if seconds else None
    many = f"{len(runs)} runs" if len(runs) > 1 else lines[0].name
    other = {"same": "", "other": ", of different texts", "unknown": ", perhaps of different texts"}
    title = f"Validation loss of {many}{other[comparison.same_text]}"
    return Drawing(title, f"validation loss ({UNIT[measure]})", lines, met, _results(runs))


def shortened(name: str) -> str:
    """A name with room for it in a picture: of a long one its beginning and its end."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 :]}"


def _results(runs: tuple[Run, ...]) -> list[Result]:
    found = []
    for task in dict.fromkeys(task for run in runs for task in run.history.tasks):
        told = [run.history.tasks[task].metrics if task in run.history.tasks else None for run in runs]
        metric = next((name for name in ACCURACIES if all(name in one for one in told if one is not None)), None)
        if metric:
            values = [one[metric] if one else None for one in told]
            errors = [one.get(metric + STDERR) if one else None for one in told]
            found.append(Result(f"{shortened(on_a_line(task))}\n{metric}", values, errors))
    return found
