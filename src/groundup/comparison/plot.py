"""Plot of a comparison: its curves and task accuracies."""

from __future__ import annotations

from groundup.comparison.comparison import Comparison, Run
from groundup.comparison.table import STDERR, UNIT, single_line
from groundup.ui.plot import Drawing, Line, Result

ACCURACIES = ("acc_norm", "acc")  # the first one that all runs of a task have is drawn
MAX_NAME_CHARACTERS = 48


def drawing(comparison: Comparison) -> Drawing:
    """Curves of all runs and accuracies of tasks."""
    runs, measure = comparison.runs, comparison.measure
    lines = [
        Line(
            shorten(single_line(run.name)),
            [point.tokens for point in run.points],
            [point.seconds for point in run.points],
            [getattr(point, measure) for point in run.points],
        )
        for run in runs
    ]
    tokens, seconds = (comparison.equal[axis] for axis in ("tokens", "seconds"))
    marks = tokens.at if tokens else None, seconds.at if seconds else None
    many = f"{len(runs)} runs" if len(runs) > 1 else lines[0].name
    other = {"same": "", "other": ", of different texts", "unknown": ", perhaps of different texts"}
    title = f"Validation loss of {many}{other[comparison.same_text]}"
    return Drawing(title, f"validation loss ({UNIT[measure]})", lines, marks, _results(runs))


def shorten(name: str) -> str:
    """Shorten a long name to its beginning and end."""
    half = MAX_NAME_CHARACTERS // 2
    return name if len(name) <= MAX_NAME_CHARACTERS else f"{name[:half]}…{name[-half:]}"


def _results(runs: tuple[Run, ...]) -> list[Result]:
    found = []
    for task in dict.fromkeys(task for run in runs for task in run.history.tasks):
        metrics = [run.history.tasks[task].metrics if task in run.history.tasks else None for run in runs]
        metric = next((name for name in ACCURACIES if all(name in one for one in metrics if one is not None)), None)
        if metric:
            values = [one[metric] if one else None for one in metrics]
            errors = [one.get(metric + STDERR) if one else None for one in metrics]
            found.append(Result(f"{shorten(single_line(task))}\n{metric}", values, errors))
    return found
