"""Table of a comparison with one column per run, notes on what limits it, and all of it as JSON."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from os import PathLike
from typing import Any

from rich.cells import cell_len
from rich.text import Text
from typing_extensions import override

from groundup.comparison.comparison import AXES, Axis, Comparison, EqualPoint, Measure, Reading, Run, compare_runs
from groundup.ui.format import human_count, human_time, single_line, visible
from groundup.ui.notebook import html_table

LOSS_NAMES: dict[Measure, str] = {"val_loss": "val loss", "bits_per_byte": "bits/byte"}
UNIT: dict[Measure, str] = {"val_loss": "nats per token", "bits_per_byte": "bits per byte of text"}
STDERR, TIES = "_stderr", "_ties"  # suffixes of a metric's standard error, and of its number of ties
QUESTIONS = "n"  # among a task's metrics: its number of questions
GAP = 2  # cells between columns
MAX_LR_DIFFERENCE = 0.1  # as a fraction of the peak; beyond it a comparison is unfair


def short_time(seconds: float) -> str:
    """Format a duration: `4.2s`, or `2m 05s` from a minute on."""
    return f"{seconds:.1f}s" if seconds < 59.95 else human_time(seconds)


FORMATS: dict[Axis, Callable[[float], str]] = {"tokens": human_count, "step": "{:,.0f}".format, "seconds": short_time}
POSITIONS: dict[Axis, str] = {"tokens": "{} tokens", "step": "step {}", "seconds": "{}"}


@dataclass(frozen=True)
class Row:
    """One line of the table; a heading has no cells."""

    label: str
    cells: tuple[str, ...] = ()
    best: frozenset[int] = frozenset()  # columns of the lowest loss, or the highest accuracy


def rows(comparison: Comparison) -> Iterator[Row]:
    """Rows of the table, heading after heading."""
    yield from _facts(comparison)
    if len(comparison.runs) > 1:
        yield from _equal(comparison)
        yield from _needed(comparison)
    yield from _tasks(comparison.runs)
    if comparison.settings:
        yield Row("settings that differ")
    for key, values in comparison.settings.items():
        yield Row(key, tuple(single_line(_setting(value)) for value in values))


def _facts(comparison: Comparison) -> Iterator[Row]:
    runs, loss = comparison.runs, LOSS_NAMES[comparison.measure]
    yield Row("parameters", tuple(f"{run.parameters:,}" for run in runs))
    yield Row("tokens", tuple(human_count(run.history.tokens) for run in runs))
    yield Row("steps", tuple(f"{run.history.step:,}" for run in runs))
    yield Row("time", tuple(short_time(run.history.seconds) for run in runs))
    speeds = [run.history.tokens / run.history.seconds if run.history.seconds > 0 else None for run in runs]
    yield Row("tokens/s", tuple("–" if speed is None else f"{speed:,.0f}" for speed in speeds))
    losses = [[getattr(point, comparison.measure) for point in run.points] for run in runs]
    best = [min(values) for values in losses]
    at_tokens = [run.points[values.index(low)].tokens for run, values, low in zip(runs, losses, best, strict=True)]
    yield Row(f"lowest {loss}", tuple(f"{value:.4f}" for value in best), _lowest(best))
    yield Row("  at tokens", tuple(human_count(tokens) for tokens in at_tokens))
    last = [values[-1] for values in losses]
    yield Row(f"last {loss}", tuple(f"{value:.4f}" for value in last), _lowest(last))


def _equal(comparison: Comparison) -> Iterator[Row]:
    if not any(comparison.equal.values()):
        return
    yield Row(f"{LOSS_NAMES[comparison.measure]} at the same point")
    for axis, point in comparison.equal.items():
        if point:
            values = [reading.value for reading in point.losses]
            cells = [
                f"{value:.4f}{_mark(reading)}" + (f" {value - values[0]:+.4f}" if i else "")
                for i, (value, reading) in enumerate(zip(values, point.losses, strict=True))
            ]
            yield Row(f"at {position(axis, point.at)}", tuple(cells), _lowest(values))
    tokens = comparison.equal["tokens"]
    if tokens and _lr_differs(tokens):
        yield Row("learning rate / peak", tuple("–" if lr is None else f"{lr:.0%}" for lr in tokens.lr))


def _needed(comparison: Comparison) -> Iterator[Row]:
    yield Row(f"to reach {LOSS_NAMES[comparison.measure]} {comparison.target:.4f}")
    for axis, readings in comparison.needed.items():
        first = readings[0]  # no ratio if it may have been reached earlier
        cells = [
            f"{'≤ ' * reading.first}{FORMATS[axis](reading.value)}{_mark(reading)}"
            + (f" {reading.value / first.value:.2f}x" if i and first.value > 0 and not first.first else "")
            for i, reading in enumerate(readings)
        ]
        lowest = _lowest([reading.value for reading in readings])
        if early := {i for i, reading in enumerate(readings) if reading.first}:  # their true values may be lower
            lowest = lowest & early if len(early) == 1 else frozenset()
        yield Row({"tokens": "tokens", "step": "steps", "seconds": "time"}[axis], tuple(cells), lowest)


def _tasks(runs: Sequence[Run]) -> Iterator[Row]:
    tasks = dict.fromkeys(task for run in runs for task in run.history.tasks)
    if tasks:
        yield Row("tasks")
    for task in tasks:
        found = [run.history.tasks.get(task) for run in runs]
        metrics = dict.fromkeys(name for one in found if one for name in one.metrics)
        for name in (name for name in metrics if name != QUESTIONS and not name.endswith((STDERR, TIES))):
            values = [one.metrics.get(name) if one else None for one in found]
            errors = [one.metrics.get(name + STDERR) if one else None for one in found]
            cells = tuple(_with_error(value, error) for value, error in zip(values, errors, strict=True))
            known = [value for value in values if value is not None]
            # The best is highlighted only if all runs had the same questions.
            alike = len({one.metrics.get(QUESTIONS) for one in found if one}) == 1
            high = frozenset(i for i, value in enumerate(values) if alike and len(known) > 1 and value == max(known))
            yield Row(single_line(f"{task} {name}"), cells, high if name.startswith("acc") else frozenset())
        counts = [one.metrics.get(QUESTIONS) if one else None for one in found]
        yield Row("  questions", tuple("–" if count is None else f"{count:,.0f}" for count in counts))
        yield Row("  at step", tuple(f"{one.step:,}" if one else "–" for one in found))


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return "–"
    shown = f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"
    return shown if error is None else f"{shown} ± {error:.3f}"


def _lowest(values: Sequence[float]) -> frozenset[int]:
    return frozenset(i for i, value in enumerate(values) if len(values) > 1 and value == min(values))


def _mark(reading: Reading) -> str:
    return "~" if reading.interpolated else ""


def _setting(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value) or '""'


def position(axis: Axis, value: float) -> str:
    """Format a position: `819K tokens`, `step 400` or `46.0s`."""
    return POSITIONS[axis].format(FORMATS[axis](value))


def _apart(runs: Sequence[Run], axis: Axis) -> str:
    """Which run's evaluations begin after those of another have ended."""
    late = max(runs, key=lambda run: getattr(run.points[0], axis))
    early = min(runs, key=lambda run: getattr(run.points[-1], axis))
    first, last = (FORMATS[axis](getattr(p, axis)) for p in (late.points[0], early.points[-1]))
    return (
        f"the first evaluation of {single_line(late.name)} ({first}) is later than the last of "
        f"{single_line(early.name)} ({last})"
    )


def _lr_differs(point: EqualPoint) -> bool:
    known = [lr for lr in point.lr if lr is not None]
    return bool(known) and max(known) - min(known) > MAX_LR_DIFFERENCE


def table(names: list[str], rows: list[Row], width: int | None) -> Iterator[Text]:
    """Lines of the table; if not all columns fit into `width`, further tables follow below."""
    columns = [[name, *(row.cells[i] for row in rows if row.cells)] for i, name in enumerate(names)]
    left, *wide = [GAP + max(map(cell_len, column)) for column in ([row.label for row in rows], *columns)]
    begin = 0
    while begin < len(names):
        end = begin + 1
        while end < len(names) and (width is None or left + sum(wide[begin : end + 1]) - GAP <= width):
            end += 1
        if begin:
            yield Text()
        for row in (Row("", tuple(names)), *rows):
            if not row.cells:
                yield Text()
            line = Text(row.label, "" if row.cells else "bold")
            for i in range(begin, end if row.cells else begin):
                line.pad_right(left + sum(wide[begin:i]) - line.cell_len)
                line.append(row.cells[i], "bold green" if i in row.best else "" if row.label else "bold")
            yield line
        begin = end


def notes(comparison: Comparison) -> list[str]:
    """Limits of the comparison, one sentence each."""
    found = []
    if comparison.measure == "bits_per_byte":
        found.append(
            "the runs have different tokenizers, so nats per token cannot be compared: losses are in bits per byte"
        )
    if comparison.same_text == "other":
        found.append("losses are of different validation texts: a lower one may be of an easier text")
    if comparison.same_text == "unknown":
        found.append(
            "whether all losses are of one validation text is unknown: prepared folders have changed or are missing"
        )
    found += [single_line(f"{run.name}: {run.text.changed}") for run in comparison.runs if run.text.changed]
    found += [
        f"{single_line(run.name)}: losses before step {run.points[0].step:,} are of other text, and left out"
        for run in comparison.runs
        if run.points[0].text
    ]
    if scored := [key for key in ("model.block_size", "evaluate.tokens") if key in comparison.settings]:
        keys = " and ".join(scored)
        found.append(f"{keys} differ, so the runs scored different tokens, or saw different text before them")
    if len({run.machine for run in comparison.runs}) > 1:
        found.append("times are of different machines, devices, processes or threads")
    tokens = comparison.equal["tokens"]
    if tokens and _lr_differs(tokens):
        found.append(
            "learning rates had not decayed equally at that point, which changes losses: compare runs of equal length"
        )
    if list(comparison.settings) == ["train.seed"]:
        found.append("the runs differ in train.seed alone, so their difference is what another seed changes")
    missing = [axis for axis, point in comparison.equal.items() if point is None]
    found += [f"no comparison at equal {axis}: {_apart(comparison.runs, axis)}" for axis in missing]
    readings = [r for m in comparison.equal.values() if m for r in m.losses]
    readings += [r for axis in AXES for r in comparison.needed[axis]]
    if len(comparison.runs) > 1 and any(reading.interpolated for reading in readings):
        found.append("~ interpolated between two evaluations")
    if len(comparison.runs) > 1 and any(reading.first for reading in readings):
        found.append("≤ reached at the first evaluation or before it")
    return found


@dataclass(frozen=True, repr=False)
class PrintedComparison(Comparison):
    """A comparison that prints as its table, also in a notebook."""

    @override
    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)


def compare(runs: Sequence[str | PathLike[str]], *, at_tokens: int | None = None) -> PrintedComparison:
    """Compare runs of `groundup train`, finished or not, by their validation losses; printed, the result is a table.

    The unit is nats per token, or bits per byte if tokenizers differ; runs are compared at the largest number of
    tokens, steps and seconds that all have reached, or at `at_tokens`.
    Raises UsageError for no run, too many, the same one twice, or tokens that not all have reached; CheckpointError
    for a folder without a run or without an evaluation.
    """
    found = compare_runs(runs, at_tokens=at_tokens)
    return PrintedComparison(**{field.name: getattr(found, field.name) for field in fields(found)})


def as_text(comparison: Comparison) -> str:
    """The table and its notes as plain text."""
    lines = [
        line.plain for line in table([single_line(run.name) for run in comparison.runs], list(rows(comparison)), None)
    ]
    return "\n".join([*lines, "", *(f"note  {note}" for note in notes(comparison))])


def as_html(comparison: Comparison) -> str:
    """The same for a notebook."""
    cells = [(row.label, *row.cells) for row in rows(comparison)]
    shown = html_table(cells, header=("", *(run.name for run in comparison.runs)))
    return shown + "".join(f"<p>{escape(visible(note))}</p>" for note in notes(comparison))


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything in the table, and every evaluation, with full precision; sequences are in the order of `runs`."""
    return {
        "measure": comparison.measure,
        "unit": UNIT[comparison.measure],
        "same_text": comparison.same_text,
        "runs": [_run_json(run, comparison.measure) for run in comparison.runs],
        "at": {axis: point and asdict(point) for axis, point in comparison.equal.items()},
        "to_reach": {"loss": comparison.target}
        | {axis: [asdict(reading) for reading in readings] for axis, readings in comparison.needed.items()},
        "settings": comparison.settings,
        "notes": notes(comparison),
    }


def _run_json(run: Run, measure: Measure) -> dict[str, Any]:
    return {
        "name": run.name,
        "path": run.path.as_posix(),
        "parameters": run.parameters,
        "tokens": run.history.tokens,
        "steps": run.history.step,
        "seconds": run.history.seconds,
        "lowest": asdict(min(run.points, key=lambda point: getattr(point, measure))),
        "last": asdict(run.points[-1]),
        "evaluations": [asdict(point) for point in run.history.evaluations],
        "tasks": {name: asdict(task) for name, task in run.history.tasks.items()},
    }
