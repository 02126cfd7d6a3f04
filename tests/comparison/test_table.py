"""Table, notes, plot and JSON of a comparison."""

import io
import json

import pytest
from makers import make_run
from rich.console import Console

from groundup.cli.compare import _chart
from groundup.comparison.plot import MAX_NAME_CHARACTERS, accuracies, shorten
from groundup.comparison.table import as_json, compare, notes, rows


def cells(found, label):
    (row,) = [row for row in rows(found) if row.label.strip() == label]
    return row.cells


def test_needs_are_shown_as_multiples_of_the_first_runs(tmp_path):
    runs = [make_run(tmp_path / "a", {10: 4.0, 20: 3.0}), make_run(tmp_path / "b", {5: 3.5, 10: 2.5}, seconds=3.0)]
    found = compare(runs)
    (needed,) = [row for row in rows(found) if row.label == "time" and "x" in row.cells[1]]
    assert needed.cells == ("20.0s", "22.5s~ 1.12x")
    assert needed.best == {0}
    assert cells(found, "at step 10") == ("4.0000", "2.5000 -1.5000")
    early = compare([runs[0], make_run(tmp_path / "c", {4: 2.0, 10: 2.5})])
    assert {row.cells for row in rows(early) if "≤" in "".join(row.cells)} == {
        ("5.12K", "≤ 1.02K 0.20x"), ("20", "≤ 4 0.20x"), ("20.0s", "≤ 4.0s 0.20x"),
    }  # fmt: skip
    best = {row.best for row in rows(early) if "≤" in "".join(row.cells)}
    assert best == {frozenset({1})}
    slower = compare([make_run(tmp_path / "d", {2: 4.0, 3: 3.0}), make_run(tmp_path / "e", {4: 2.0, 10: 2.5})])
    hidden = [row for row in rows(slower) if "≤" in "".join(row.cells)]
    assert hidden  # the second may have been faster
    assert not any(row.best for row in hidden)
    turned = compare([early.runs[1].path, runs[0]])  # an upper bound is not compared
    assert not any("x" in cell for row in rows(turned) for cell in row.cells)


def test_speeds_and_ratios_of_runs_that_took_no_second_are_shown_and_none_of_those_that_took_no_time(tmp_path):
    fast = [make_run(tmp_path / name, {10: 4.0, 20: 3.0}, seconds=0.01) for name in ("a", "b")]
    assert cells(compare(fast), "tokens/s") == ("25,600", "25,600")
    (needed,) = [row for row in rows(compare(fast)) if row.label == "time" and "x" in row.cells[1]]
    assert needed.cells[1].endswith(" 1.00x")
    timeless = compare([make_run(tmp_path / "c", {10: 4.0, 20: 3.0}, seconds=0.0), fast[0]])
    assert cells(timeless, "tokens/s") == ("–", "25,600")
    assert not any("x" in cell for row in rows(timeless) if row.label == "time" for cell in row.cells)


def test_learning_rates_at_the_same_point_are_shown_where_they_differ(tmp_path):
    runs = [make_run(tmp_path / "a", {10: 4.0}), make_run(tmp_path / "b", {10: 4.0}, optimizer={"learning_rate": 2e-3})]
    assert cells(compare(runs), "learning rate / peak") == ("100%", "50%")


ALIKE = {"losses": {10: 4.0, 20: 3.0}}
WARNINGS = {
    "bits per byte": {**ALIKE, "tokenizer": "u" * 64, "data": "e" * 64},
    "one validation text is unknown": {**ALIKE, "data": "e" * 64},
    "model.block_size differ": {**ALIKE, "model": {"block_size": 8}},
    "model.block_size and evaluate.tokens differ": {**ALIKE, "model": {"block_size": 8}, "evaluate": {"tokens": 9}},
    "different machines": {**ALIKE, "train": {"threads": 2}},
    "had not decayed equally": {**ALIKE, "optimizer": {"learning_rate": 1e-2}},
    "no comparison at equal step: the first evaluation of b (30) is later than the last of a (20)": {
        "losses": {30: 2.0}
    },
    "~ interpolated": {"losses": {5: 4.0, 15: 2.9, 20: 2.8}},
    "differ in train.seed alone": {**ALIKE, "train": {"seed": 2}},
    "≤ reached at the first evaluation": {"losses": {10: 2.0, 20: 1.0}},
}


@pytest.mark.parametrize(("sentence", "other"), WARNINGS.items(), ids=WARNINGS)
def test_each_note_is_given_only_where_it_applies(sentence, other, tmp_path):
    other = dict(other)
    one, two = make_run(tmp_path / "a", ALIKE["losses"]), make_run(tmp_path / "b", other.pop("losses"), **other)
    assert sentence in " | ".join(notes(compare([one, two])))
    assert notes(compare([one])) == notes(compare([two])) == []


def test_tasks_have_errors_and_missing_ones_a_dash(tmp_path):
    record = {
        "event": "evaluate",
        "step": 5,
        "results": {"\x1b[1mquiz\n": {"acc": 0.5, "acc_stderr": 0.02, "ppl": 31.4, "n": 1000}},
    }
    found = compare([make_run(tmp_path / "a", {10: 4.0}, more=[record]), make_run(tmp_path / "b", {10: 4.0})])
    assert cells(found, r"\x1b[1mquiz⏎ acc") == ("0.500 ± 0.020", "–")
    assert cells(found, r"\x1b[1mquiz⏎ ppl") == ("31.4", "–")
    assert cells(found, "questions") == ("1,000", "–")
    (result,) = accuracies(found.runs)
    assert (result.values, result.errors) == ([0.5, None], [0.02, None])


def test_plotted_accuracies_are_those_that_all_runs_have_normalised_first(tmp_path):
    def task(**metrics):
        return [{"event": "evaluate", "step": 5, "results": {"quiz": metrics}}]

    runs = [make_run(tmp_path / n, {10: 4.0}, more=task(**m)) for n, m in
            {"a": {"acc": 0.1, "acc_norm": 0.2}, "b": {"acc": 0.3}, "c": {"ppl": 9.0}}.items()]  # fmt: skip
    assert [r.task for r in accuracies(compare(runs[:1]).runs)] == ["quiz\nacc_norm"]
    assert [r.values for r in accuracies(compare(runs[:2]).runs)] == [[0.1, 0.3]]
    assert accuracies(compare(runs).runs) == []


def test_long_names_are_shortened_in_a_plot(tmp_path):
    (run,) = compare([make_run(tmp_path / ("x" * 99), {10: 4.0})]).runs
    assert len(shorten(run.name)) == MAX_NAME_CHARACTERS + 1


def test_json_has_only_finite_numbers(tmp_path):
    found = compare([make_run(tmp_path / "a", {10: 4.0}), make_run(tmp_path / "b", {20: 4.0})])
    values = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert values["at"] == {"tokens": None, "step": None, "seconds": None}
    assert [run["lowest"]["step"] for run in values["runs"]] == [10, 20]
    assert values["notes"] == notes(found)


def test_the_chart_names_curves_from_the_highest_end_to_the_lowest(tmp_path):
    losses = {"low": {10: 4.0, 20: 2.0}, "high": {10: 3.0, 30: 2.5}}
    found = compare([make_run(tmp_path / name, of) for name, of in losses.items()])
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    _chart(found, list(losses), console)
    shown = console.file.getvalue()
    assert shown.index("━ high") < shown.index("━ low")
    assert any("\u2800" < letter < "\u2900" for letter in shown)
