"""The learning rate follows its formula."""

import math

import pytest

from groundup.config import ScheduleConfig
from groundup.optim.schedule import build_schedule


def rates(total: int | None, **config) -> list[float]:
    schedule = build_schedule(ScheduleConfig(**config), 2.0, total)
    steps = total or 100
    return [schedule(step, (step + 1) / steps) for step in range(steps)]


def test_warm_up_is_linear_and_ends_at_the_peak():
    lr = rates(100, warmup_steps=10, floor=0.1)
    assert lr[:10] == pytest.approx([2.0 * (i + 1) / 10 for i in range(10)])


def test_after_warm_up_the_cosine_of_the_remaining_steps():
    lr = rates(100, warmup_steps=10, floor=0.1)
    for step in range(10, 100):
        x = (step + 1 - 10) / 90
        assert lr[step] == pytest.approx(0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * x)))
    assert lr[-1] == pytest.approx(0.2)


def test_a_fraction_means_the_same_as_its_steps():
    assert rates(200, warmup_fraction=0.05) == pytest.approx(rates(200, warmup_steps=10))


def test_by_the_clock_the_rate_ends_at_the_floor_when_time_is_up():
    lr = rates(None, warmup_steps=5, floor=0.05)
    assert lr[-1] == pytest.approx(0.1)
    assert max(lr) < 2.0  # warm-up overlaps the decay
    assert lr[4] > lr[3] > lr[0] > 0


def test_constant_stays():
    assert rates(50, name="constant", warmup_steps=0) == [2.0] * 50
