"""What the guard lets through, notes, and does not stand."""

import math

import pytest

from groundup.errors import TrainingError
from groundup.training.guard import SETTLED, LossGuard, RollbackRequested, RunningStats

USUAL = [(2.0 + 0.1 * math.sin(step), 1.0 + 0.1 * math.cos(step)) for step in range(2 * SETTLED)]


def settled(**options) -> tuple[LossGuard, list]:
    noted = []
    guard = LossGuard(**options, note=lambda event, **values: noted.append((event, values)))
    for step, (loss, norm) in enumerate(USUAL, 1):
        assert guard.allows_step(step, loss, norm)
    assert noted == [], "what is usual is no spike"
    return guard, noted


def test_a_deviation_is_counted_from_the_running_mean():
    usual = RunningStats()
    for x in [1.0, 3.0] * 200:
        usual.update(x)
    assert usual.mean == pytest.approx(2.0, abs=0.05)
    assert usual.deviation(4.0) == pytest.approx(2.0, abs=0.1)
    assert RunningStats().deviation(1e9) == 0.0, "nothing is known yet"


def test_a_spike_is_noted_with_its_deviations_and_still_applied():
    guard, noted = settled()
    assert guard.allows_step(101, 9.0, 1.0)
    (event, values) = noted.pop()
    assert (event, values["step"], values["loss"]) == ("spike", 101, 9.0)
    assert values["z_loss"] > 8
    assert guard.loss.mean < 2.2, "a spike does not move what is usual"


def test_without_a_threshold_nothing_is_noted():
    guard, noted = settled(spike=None)
    assert guard.allows_step(101, 99.0, 99.0)
    assert noted == []


def test_gradients_that_stay_large_become_usual():
    guard, noted = settled(bad_steps=3, rollbacks=1)
    for step in range(101, 200):
        assert guard.allows_step(step, 2.0, 50.0)
    assert 1 <= len(noted) < 20


def test_after_so_many_bad_steps_in_a_row_the_run_goes_back():
    at = []
    guard, _ = settled(bad_steps=3, rollbacks=1, cursor=lambda: 8 * at[-1])
    at.append(101)
    guard.allows_step(101, 9.0, 1.0)
    at.append(102)
    assert not guard.allows_step(102, math.nan, 1.0)
    with pytest.raises(RollbackRequested, match="3 steps in a row") as caught:
        guard.allows_step(103, 9.0, 1.0)
    assert (caught.value.first, caught.value.cursor, caught.value.last) == (101, 808, 103)


def test_good_steps_between_bad_ones_keep_a_run_going():
    guard, _ = settled(bad_steps=2, rollbacks=1)
    for step in range(101, 121, 2):
        assert not guard.allows_step(step, math.inf, 1.0)
        assert guard.allows_step(step + 1, 2.0, 1.0)


def test_when_it_may_not_go_back_again_only_what_is_finite_goes_on():
    guard, _ = settled(bad_steps=2, rollbacks=0)
    assert guard.allows_step(101, 9.0, 1.0)
    assert guard.allows_step(102, 9.0, 1.0), "a loss that stays is the new usual one"
    assert guard.loss.n == 0
    guard.allows_step(103, math.nan, 1.0)
    with pytest.raises(TrainingError, match="not finite, 2 steps in a row"):
        guard.allows_step(104, math.nan, 1.0)


def test_how_often_it_went_back_is_counted_by_whoever_remembers():
    gone = [0]
    guard, _ = settled(bad_steps=1, rollbacks=1, went_back=lambda: gone[0])
    with pytest.raises(RollbackRequested):
        guard.allows_step(101, 9.0, 1.0)
    gone[0] = 1
    assert guard.allows_step(102, 9.0, 1.0)


def test_fp16_that_overflows_is_left_out_and_not_counted():
    guard, _ = settled(bad_steps=2, rollbacks=0, overflows=lambda: True)
    for step in range(101, 130):
        assert not guard.allows_step(step, 2.0, math.inf)
    assert not guard.allows_step(130, math.nan, math.nan), "a loss that is not finite is no overflow of gradients"


def test_its_books_can_be_kept_and_read_again():
    guard, _ = settled()
    guard.allows_step(101, 9.0, 1.0)
    other = LossGuard()
    other.restore(guard.books())
    assert other.books() == guard.books()
    other.restore({})
    assert other.books() == LossGuard().books()
