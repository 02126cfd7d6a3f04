"""The learning rate follows its formula."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from groundup.config.sections import ScheduleConfig
from groundup.errors import ConfigError
from groundup.optim.schedule import build_schedule, squeezed


def rates(total: int | None, **config) -> list[float]:
    schedule = build_schedule(ScheduleConfig(**config), 2.0, total)
    steps = total or 100
    return [schedule(step, (step + 1) / steps) for step in range(steps)]


def test_warm_up_is_linear_and_ends_at_the_peak():
    lr = rates(100, warmup_steps=10, min_lr_ratio=0.1)
    assert lr[:10] == pytest.approx([2.0 * (i + 1) / 10 for i in range(10)])


def test_after_warm_up_the_cosine_of_the_remaining_steps():
    lr = rates(100, warmup_steps=10, min_lr_ratio=0.1)
    for step in range(10, 100):
        x = (step + 1 - 10) / 90
        assert lr[step] == pytest.approx(0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * x)))
    assert lr[-1] == pytest.approx(0.2)


def test_a_fraction_equals_its_steps():
    assert rates(200, warmup_fraction=0.05) == pytest.approx(rates(200, warmup_steps=10))


def test_in_a_run_of_given_time_the_rate_ends_at_its_minimum():
    lr = rates(None, warmup_steps=5, min_lr_ratio=0.05)
    assert lr[-1] == pytest.approx(0.1)
    assert max(lr) < 2.0  # warm-up overlaps the decay
    assert lr[4] > lr[3] > lr[0] > 0


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "wsd", "inverse_sqrt", "onecycle"])
def test_the_first_step_of_a_run_of_given_time_moves_the_weights(name):
    """How much of the run will be done after it is unknown: its fraction is 0."""
    schedule = build_schedule(ScheduleConfig(name=name, warmup_fraction=0.1), 2.0, None)
    assert 0 < schedule(0, 0.0) < schedule(1, 0.05)


def test_constant_is_constant():
    assert rates(50, name="constant", warmup_steps=0) == [2.0] * 50


def test_tokens_equal_their_steps():
    in_steps, in_tokens = (
        build_schedule(ScheduleConfig(name="wsd", **lengths), 2.0, 100, 64)
        for lengths in ({"warmup_steps": 10, "cooldown_steps": 20}, {"warmup_tokens": 640, "cooldown_tokens": 1280})
    )
    assert [in_steps(i, (i + 1) / 100) for i in range(100)] == [in_tokens(i, (i + 1) / 100) for i in range(100)]
    # GPT-3's 375M tokens are 715.26 steps of half a million: not rounded to steps.
    gpt3 = build_schedule(ScheduleConfig(name="constant", warmup_tokens=375_000_000), 1.0, 10_000, 524_288)
    assert gpt3(0, 1e-4) == pytest.approx(524_288 / 375_000_000)
    assert gpt3(714, 0.0715) < gpt3(715, 0.0716) == 1.0


def test_linear_is_a_straight_line_from_the_peak_to_the_minimum():
    lr = rates(100, name="linear", warmup_steps=20, min_lr_ratio=0.25)
    assert lr[19] == pytest.approx(2.0)
    assert lr[19:] == pytest.approx([2.0 - 1.5 * i / 80 for i in range(81)])
    assert lr[:20] == pytest.approx([2.0 * (i + 1) / 20 for i in range(20)])


@pytest.mark.parametrize(
    "cooldown", [{"cooldown_steps": 40}, {"cooldown_fraction": 0.4}, {}], ids=["steps", "fraction", "default"]
)
@pytest.mark.parametrize("total", [100, None])
def test_wsd_is_constant_until_its_cooldown(total, cooldown):
    lr = rates(total, name="wsd", warmup_fraction=0.1, min_lr_ratio=0.1, **cooldown)
    assert lr[:10] == pytest.approx([2.0 * (i + 1) / 10 for i in range(10)])
    assert lr[10:60] == pytest.approx([2.0] * 50)
    assert lr[59:] == pytest.approx([2.0 - 1.8 * i / 40 for i in range(41)])


def test_inverse_sqrt_follows_its_formula_down_to_the_minimum():
    lr = rates(1000, name="inverse_sqrt", warmup_steps=16, min_lr_ratio=0.2)
    assert lr[:16] == pytest.approx([2.0 * (i + 1) / 16 for i in range(16)])
    assert lr[16:] == pytest.approx([2.0 * max(0.2, math.sqrt(16 / (i + 1))) for i in range(16, 1000)])
    assert lr[-1] == pytest.approx(0.4)
    for total in (1000, None):
        width = total or 100
        by_part = rates(total, name="inverse_sqrt", warmup_fraction=16 / width, min_lr_ratio=0.2)
        assert by_part == pytest.approx(lr[:width])
    assert rates(50, name="inverse_sqrt", min_lr_ratio=0.0) == pytest.approx(
        [2.0 / math.sqrt(i + 1) for i in range(50)]
    )


@pytest.mark.parametrize("total", [1, 2, 3, 7, 10, 100, 333, 1001])
@pytest.mark.parametrize("part", [None, 0.0, 0.05, 0.25, 0.3, 0.5, 0.9, 1.0])
def test_onecycle_equals_torch_at_every_step(total, part):
    if part is not None and part * total == 1.0:
        pytest.skip("torch divides by zero")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    factors = {"div_factor": 13.0, "final_div_factor": 300.0}
    theirs = OneCycleLR(optimizer, 2.0, total, pct_start=0.3 if part is None else part, cycle_momentum=False, **factors)
    for step, lr in enumerate(rates(total, name="onecycle", warmup_fraction=part, **factors)):
        if step:
            optimizer.step()
            theirs.step()
        assert lr == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=0.0)


def test_onecycle_rises_for_as_many_steps_as_given():
    assert rates(200, name="onecycle", warmup_steps=50) == rates(200, name="onecycle", warmup_fraction=0.25)
    assert rates(10, name="onecycle", warmup_steps=1)[0] == 2.0


def test_onecycle_in_a_run_of_given_time_is_the_same_curve():
    for warmup in ({}, {"warmup_steps": 30}):
        lr = rates(None, name="onecycle", **warmup)
        assert max(lr) == pytest.approx(lr[29]) == pytest.approx(2.0)
        assert lr[14] == pytest.approx((2.0 + 2.0 / 25) / 2)
        assert lr[64] == pytest.approx((2.0 + 2.0 / 25e4) / 2)
        assert lr[-1] == pytest.approx(2.0 / 25e4)


NAMES = ("cosine", "linear", "constant", "wsd", "inverse_sqrt", "onecycle")
LENGTHS = (0, 1, 5, 400)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("total", [1, 2, 50, None])
@pytest.mark.parametrize("warmup", [{}, *({"warmup_steps": n} for n in LENGTHS), {"warmup_fraction": 1.0}], ids=str)
def test_schedules_stay_in_range_even_beyond_the_ends(name, total, warmup):
    cooldown = {"cooldown_steps": 3} if name == "wsd" and not total else {"cooldown_fraction": 1e-9}
    try:
        schedule = build_schedule(ScheduleConfig(name=name, **warmup, **cooldown), 2.0, total)
    except ConfigError:
        assert name == "wsd"
        return
    for step, fraction in [(0, 0.0), (0, 1.0), (0, 1e-9), (1, 0.5), (49, 1.0), (60, 1.2), (10**6, 1.0)]:
        assert 0.0 <= schedule(step, fraction) <= 2.0
        assert schedule(step, fraction) == schedule(step, fraction)  # no state


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"warmup_steps": 70}, r"70 steps and a cooldown of 0\.4 of the run .* 100 steps"),
        ({"warmup_fraction": 0.5, "cooldown_steps": 60}, "0.5 of the run and a cooldown of 60 steps"),
        ({"warmup_tokens": 640, "cooldown_tokens": 6400}, "10 steps and a cooldown of 100 steps"),
    ],
    ids=str,
)
def test_warm_up_and_cooldown_longer_than_the_run_are_refused(lengths, message):
    with pytest.raises(ConfigError, match=message):
        build_schedule(ScheduleConfig(name="wsd", **lengths), 1.0, 100, 64)
    with pytest.raises(ConfigError, match="are longer than the run; give smaller ones"):
        build_schedule(ScheduleConfig(name="wsd", warmup_fraction=0.7, cooldown_fraction=0.4), 1.0, None)


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_warm_up_and_cooldown_may_fill_the_run(part):
    lr = rates(100, name="wsd", warmup_fraction=part, cooldown_fraction=1.0 - part, min_lr_ratio=0.0)
    assert max(lr) == pytest.approx(2.0) == pytest.approx(lr[round(100 * part) - 1])
    assert lr[-1] == pytest.approx(0.0, abs=1e-12)
    tokens = {"warmup_tokens": 776_868, "cooldown_tokens": 77_132}  # fractions add up to more than one by rounding
    assert build_schedule(ScheduleConfig(name="wsd", **tokens, min_lr_ratio=0.0), 1.0, 854, 1000)(853, 1.0) == 0.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "lengths",
    [
        {"warmup_steps": 10, "cooldown_steps": 20},
        {"warmup_tokens": 640, "cooldown_tokens": 1280},
        {"warmup_fraction": 0.1, "cooldown_fraction": 0.2},
        {"warmup_steps": 0},
        {},
    ],
    ids=str,
)
def test_a_schedule_squeezed_into_its_own_length_is_unchanged(name, lengths):
    config = ScheduleConfig(name=name, **lengths)
    same = squeezed(config, 100, 64)
    assert ScheduleConfig.model_validate(same.model_dump()) == same
    before, after = (build_schedule(c, 2.0, 100, 64) for c in (config, same))
    for step in range(100):
        assert after(step, (step + 1) / 100) == pytest.approx(before(step, (step + 1) / 100))


def test_squeezing_scales_warm_up_and_cooldown():
    config = squeezed(ScheduleConfig(name="wsd", warmup_steps=50, cooldown_steps=200, min_lr_ratio=0.0), 500, 64)
    assert rates(50, **config.model_dump()) == pytest.approx(
        rates(50, name="wsd", warmup_steps=5, cooldown_steps=20, min_lr_ratio=0.0)
    )
    assert squeezed(ScheduleConfig(warmup_steps=900), 500, 64).warmup_fraction == 1.0
    assert squeezed(ScheduleConfig(warmup_steps=900), None, 64).warmup_fraction == 0.1  # steps unknown
    assert squeezed(ScheduleConfig(warmup_steps=0), None, 64).warmup_fraction == 0.0
