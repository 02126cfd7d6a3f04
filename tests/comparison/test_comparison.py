"""Losses at equal tokens, steps and time, the needs of each run, and no extrapolation."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import make_run

import groundup
from groundup.checkpoint.data_match import same_text
from groundup.checkpoint.log import Evaluation
from groundup.comparison.comparison import AXES, Curve
from groundup.comparison.table import compare
from groundup.errors import CheckpointError, GroundupError, UsageError


def curve(losses, gap=10):
    """Curve with an evaluation every `gap` steps of 100 tokens and 2 seconds."""
    steps = range(gap, gap * len(losses) + 1, gap)
    return Curve(
        [Evaluation(n, 100 * n, 2.0 * n, None, x, None, None) for n, x in zip(steps, losses, strict=True)], "val_loss"
    )


losses = st.lists(st.floats(0.1, 20), min_size=1, max_size=20)


@given(losses, st.floats(0, 1))
def test_interpolation_is_exact_on_lines_and_bounded_by_neighbours(values, where):
    straight = curve([10 - 0.1 * i for i in range(1, 11)])
    step = 10 + 90 * where
    assert straight.loss_at("step", step).value == pytest.approx(10 - 0.01 * step)
    assert straight.loss_at("step", step).interpolated == (step % 10 != 0)
    any_curve = curve(values)
    step = 10 + 10 * (len(values) - 1) * where
    i = min(int(step // 10) - 1, len(values) - 1)
    near = values[i : i + 2]
    assert min(near) - 1e-9 <= any_curve.loss_at("step", step).value <= max(near) + 1e-9


@given(losses)
def test_first_reaching_is_the_first_position_of_a_loss(values):
    any_curve, target = curve(values), min(values) + (max(values) - min(values)) / 3
    found = any_curve.first_reaching("step", target)
    if found.first:
        assert values[0] < target
        assert found.value == 10
    else:
        assert any_curve.loss_at("step", found.value).value == pytest.approx(target)
        assert all(
            x > target for step, x in zip(range(10, 1000, 10), values, strict=False) if step < found.value - 1e-6
        )


@pytest.mark.parametrize("step", [9.99, 30.01])
def test_nothing_is_extrapolated(step):
    with pytest.raises(AssertionError):
        curve([3, 2, 1]).loss_at("step", step)


def test_a_run_and_its_copy_are_equal(tmp_path):
    runs = [make_run(tmp_path / name, {10: 4.0, 20: 3.0, 30: 3.2}) for name in "ab"]
    found = compare(runs)
    assert (found.measure, found.same_text, found.settings) == ("val_loss", "same", {})
    for axis, position in zip(AXES, (30 * 256, 30, 30.0), strict=True):
        point = found.equal[axis]
        assert point.at == position
        assert [(r.value, r.interpolated) for r in point.losses] == [(3.2, False)] * 2
        assert found.needed[axis][0] == found.needed[axis][1]
    assert found.target == 3.0


def test_runs_are_compared_at_the_end_of_the_shortest_on_each_axis(tmp_path):
    long = make_run(tmp_path / "long", {10: 4.0, 20: 3.0, 40: 2.0}, seconds=2.0)
    wide = make_run(tmp_path / "wide", {10: 3.5, 15: 2.5}, seconds=6.0, train={"batch_tokens": 512})
    found = compare([long, wide])
    tokens, step, seconds = (found.equal[axis] for axis in AXES)
    assert (tokens.at, step.at, seconds.at) == (15 * 512, 15, 80.0)  # not 90, which `long` never saw
    assert [r.value for r in tokens.losses] == [2.5, 2.5]  # at step 30 of the one and 15 of the other
    assert [r.value for r in step.losses] == [3.5, 2.5]
    assert [r.interpolated for r in seconds.losses] == [False, True]
    assert seconds.losses[1].value == pytest.approx(3.5 - 20 / 30)
    assert found.target == 2.5
    assert [r.value for r in found.needed["seconds"]] == [60.0, 90.0]
    assert [r.value for r in found.needed["step"]] == [30.0, 15.0]
    assert found.settings == {"train.batch_tokens": (256, 512)}


def test_steps_after_the_last_evaluation_have_no_loss(tmp_path):
    found = compare([make_run(tmp_path / "a", {10: 4.0}, last=50), make_run(tmp_path / "b", {5: 4.0, 40: 3.0})])
    assert found.equal["step"].at == 10
    assert found.runs[0].history.step == 50


def test_runs_without_a_common_position_may_still_have_reached_one_loss(tmp_path):
    found = compare([make_run(tmp_path / "a", {5: 4.0, 10: 3.0}), make_run(tmp_path / "b", {20: 3.5, 30: 2.0})])
    assert set(found.equal.values()) == {None}
    assert [(r.value, r.first) for r in found.needed["step"]] == [
        (10.0, False),
        (pytest.approx(23.33, abs=0.01), False),
    ]


def test_at_tokens_must_have_been_reached_by_all(tmp_path):
    runs = [make_run(tmp_path / "a", {10: 4.0, 20: 3.0}), make_run(tmp_path / "b", {10: 5.0, 30: 3.0})]
    found = groundup.compare(runs, at_tokens=15 * 256).equal["tokens"]
    assert [r.value for r in found.losses] == pytest.approx([3.5, 4.5])
    for tokens in (10 * 256 - 1, 20 * 256 + 1):
        with pytest.raises(UsageError, match=r"a was evaluated from 2,560 to 5,120 tokens; give a number between"):
            compare(runs, at_tokens=tokens)


def test_learning_rate_is_a_fraction_of_the_peak(tmp_path):
    runs = [make_run(tmp_path / "a", {10: 4.0}), make_run(tmp_path / "b", {10: 4.0}, optimizer={"learning_rate": 4e-3})]
    assert compare(runs).equal["tokens"].lr == (1.0, 0.25)


def test_different_tokenizers_are_compared_in_bits_per_byte(tmp_path):
    one = make_run(tmp_path / "a", {10: 4.0})
    assert compare([one, make_run(tmp_path / "b", {10: 2.0}, data="e" * 64)]).measure == "val_loss"
    found = compare([one, make_run(tmp_path / "c", {10: 2.0}, data="e" * 64, tokenizer="u" * 64)])
    assert (found.measure, found.target, found.same_text) == ("bits_per_byte", 2.0, "unknown")
    assert compare([one, make_run(tmp_path / "d", {10: 2.0}, data=None)]).measure == "bits_per_byte"  # unknown


def test_prepared_folders_decide_whether_texts_are_the_same(tmp_path, prepared, sentences):
    (tmp_path / "other.txt").write_text(sentences(100, seed=1))
    groundup.prepare([prepared.parent / "text.txt"], tmp_path / "same", tokenizer="char")
    groundup.prepare([tmp_path / "other.txt"], tmp_path / "other", tokenizer="char")
    places = {"a": prepared, "same": tmp_path / "same", "other": tmp_path / "other"}
    runs = {name: make_run(tmp_path / f"run-{name}", {10: 4.0}, data=None, place=at) for name, at in places.items()}

    def result(*chosen):
        found = compare([runs[name] for name in chosen])
        return found.measure, found.same_text

    assert result("a", "same") == ("bits_per_byte", "same")
    assert result("a", "other") == ("bits_per_byte", "other")
    assert result("same", "other") == ("val_loss", "other")
    text = compare([runs["a"]]).runs[0].text
    more = replace(text, data="e", tokenizer="e", train_size=(9, 9))
    assert same_text([text, more]) == "unknown"  # the same number of tokens held out
    stranger = make_run(tmp_path / "stranger", {10: 4.0}, place=prepared)  # whose checkpoint has other data
    assert compare([stranger]).runs[0].text.data == "d" * 64
    assert compare([stranger, runs["a"]]).same_text == "unknown"


def test_moved_data_is_no_difference(tmp_path):
    one = make_run(tmp_path / "a", {10: 4.0})
    other = make_run(tmp_path / "b", {10: 4.0})
    config = (other / "config.yaml").read_text().replace("data: nowhere", "data: elsewhere")
    (other / "config.yaml").write_text(config)
    assert compare([one, other]).settings == {}
    (other / "checkpoints" / "step-00000001" / "progress.json").write_text('{"data": "f"}')
    assert compare([one, other]).settings == {"data": ("nowhere", "elsewhere")}


def test_a_run_without_the_measure_is_refused_in_one_sentence(tmp_path):
    good = make_run(tmp_path / "good", {10: 4.0})
    none = make_run(tmp_path / "none", {}, last=5)
    alone = make_run(tmp_path / "alone", {}, last=5, more=[{"event": "eval", "step": 5, "train_loss": 1.0}])
    bits = make_run(
        tmp_path / "bits", {}, last=5, data="e", tokenizer="e", more=[{"event": "eval", "step": 5, "val_loss": 1.0}]
    )
    for runs, sentence in (
        ([good, none], "none/log.jsonl: no evaluation yet; let it train"),
        ([good, alone], "alone/log.jsonl: no validation loss that is a number"),
        ([good, bits], "bits/log.jsonl: no bits per byte"),
        ([good, tmp_path / "nowhere"], "nowhere: holds no run"),
        ([good, tmp_path / "none" / ".." / "good"], "the same run twice"),
        ([good] * 13, "13 runs: from 1 to 12"),
        ([], "0 runs: from 1 to 12"),
    ):
        with pytest.raises((CheckpointError, UsageError), match=sentence) as error:
            compare(runs)
        assert isinstance(error.value, GroundupError)
        assert "\n" not in str(error.value)
    (none / "log.jsonl").unlink()
    with pytest.raises(CheckpointError, match="no evaluation yet"):
        compare([none])


def test_machines_are_distinguished(tmp_path):
    runs = [make_run(tmp_path / name, {10: 4.0}) for name in "ab"]
    first, second = compare(runs).runs
    assert first.machine == second.machine
    (runs[1] / "environment.json").write_text('{"machine": "another", "cores": 64}')
    assert compare(runs).runs[1].machine != first.machine
    assert replace(first, name="x").parameters == first.parameters > 0
