"""The loss guard: which steps it applies, logs, and gives up on."""

import math

import pytest

from groundup.errors import TrainingError
from groundup.training.guard import WARMUP_STEPS, LossGuard, RollbackRequested, RunningStats

USUAL_STEPS = [(2.0 + 0.1 * math.sin(step), 1.0 + 0.1 * math.cos(step)) for step in range(2 * WARMUP_STEPS)]


def warmed_up(**options) -> tuple[LossGuard, list]:
    logged = []
    guard = LossGuard(**options, log=lambda event, **values: logged.append((event, values)))
    for step, (loss, norm) in enumerate(USUAL_STEPS, 1):
        assert guard.allows_step(step, loss, norm)
    assert logged == [], "an ordinary step is no spike"
    return guard, logged


def test_a_deviation_is_counted_from_the_running_mean():
    stats = RunningStats()
    for x in [1.0, 3.0] * 200:
        stats.update(x)
    assert stats.mean == pytest.approx(2.0, abs=0.05)
    assert stats.deviation(4.0) == pytest.approx(2.0, abs=0.1)
    assert RunningStats().deviation(1e9) == 0.0, "nothing is known yet"


def test_a_spike_is_logged_with_its_deviations_and_still_applied():
    guard, logged = warmed_up()
    assert guard.allows_step(101, 9.0, 1.0)
    (event, values) = logged.pop()
    assert (event, values["step"], values["loss"]) == ("spike", 101, 9.0)
    assert values["z_loss"] > 8
    assert guard.loss.mean < 2.2, "a spike does not move the running mean"


def test_without_a_threshold_nothing_is_logged():
    guard, logged = warmed_up(spike_sigma=None)
    assert guard.allows_step(101, 99.0, 99.0)
    assert logged == []


def test_a_gradient_norm_that_stays_large_is_logged_only_at_first():
    guard, logged = warmed_up(max_bad_steps=3, max_rollbacks=1)
    for step in range(101, 200):
        assert guard.allows_step(step, 2.0, 50.0)
    assert 1 <= len(logged) < 20


def test_max_bad_steps_in_a_row_request_a_rollback():
    at = [0]
    guard, _ = warmed_up(max_bad_steps=3, max_rollbacks=1, cursor=lambda: 8 * at[-1])
    at.append(101)
    guard.allows_step(101, 9.0, 1.0)
    at.append(102)
    assert not guard.allows_step(102, math.nan, 1.0)
    with pytest.raises(RollbackRequested, match="3 steps in a row") as caught:
        guard.allows_step(103, 9.0, 1.0)
    assert (caught.value.first, caught.value.cursor, caught.value.last) == (101, 808, 103)


def test_a_good_step_resets_the_count_of_bad_ones():
    guard, _ = warmed_up(max_bad_steps=2, max_rollbacks=1)
    for step in range(101, 121, 2):
        assert not guard.allows_step(step, math.inf, 1.0)
        assert guard.allows_step(step + 1, 2.0, 1.0)


def test_after_max_rollbacks_a_high_loss_is_accepted_and_a_non_finite_one_is_an_error():
    guard, _ = warmed_up(max_bad_steps=2, max_rollbacks=0)
    assert guard.allows_step(101, 9.0, 1.0)
    assert guard.allows_step(102, 9.0, 1.0), "a loss that stays high is the new level"
    assert guard.loss.n == 0
    guard.allows_step(103, math.nan, 1.0)
    with pytest.raises(
        TrainingError, match="not finite, 2 steps in a row; if that began with a resume, move the newest"
    ):
        guard.allows_step(104, math.nan, 1.0)


def test_rollbacks_are_counted_by_the_caller():
    made = [0]
    guard, _ = warmed_up(max_bad_steps=1, max_rollbacks=1, rollbacks=lambda: made[0])
    with pytest.raises(RollbackRequested):
        guard.allows_step(101, 9.0, 1.0)
    made[0] = 1
    assert guard.allows_step(102, 9.0, 1.0)


def test_a_state_that_is_not_finite_is_of_the_last_step_allowed_since_the_state_was_loaded():
    guard, _ = warmed_up(max_rollbacks=9, cursor=lambda: 7)
    for first in (len(USUAL_STEPS), 3):
        with pytest.raises(RollbackRequested) as caught:
            guard.reject_state(3, "wte.weight")
        assert (caught.value.first, caught.value.cursor) == (first, 7)
        guard.load_state_dict({})


def test_an_overflow_in_fp16_is_left_out_and_does_not_count_as_bad():
    guard, _ = warmed_up(max_bad_steps=2, max_rollbacks=0, overflows=lambda: True)
    for step in range(101, 130):
        assert not guard.allows_step(step, 2.0, math.inf)
    assert not guard.allows_step(130, math.nan, math.nan), "a loss that is not finite is no overflow of gradients"


def test_the_state_dict_restores_the_guard():
    guard, _ = warmed_up()
    guard.allows_step(101, 9.0, 1.0)
    other = LossGuard()
    other.load_state_dict(guard.state_dict())
    assert other.state_dict() == guard.state_dict()
    other.load_state_dict({})
    assert other.state_dict() == LossGuard().state_dict()
