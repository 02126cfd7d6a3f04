"""Young's and Daly's formulas against Daly's examples, and the simulation against the formula and a report."""

import math
from itertools import pairwise

import pytest

from groundup.planning.failures import GPU_MTBF, NODE_WRITES, RESTART, Reliability, cut, daly, young

MINUTE, HOUR = 60.0, 3600.0

# Mean time between failures; work, restart and dump are 500 h, 10 min and 5 min: Daly (2006), captions of his figures
# 3 to 5, which also give the best interval that his formula finds.
DALYS = [(24 * HOUR, 117 * MINUTE), (6 * HOUR, 57 * MINUTE), (15 * MINUTE, 9.1 * MINUTE)]


@pytest.mark.parametrize(("mtbf", "published"), DALYS)
def test_dalys_interval_is_the_one_that_he_published(mtbf, published):
    assert daly(5 * MINUTE, mtbf) == pytest.approx(published, rel=0.006)  # he rounds to two or three figures


@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e6])
def test_formulas_know_no_unit_of_time(scale):
    for formula in (young, daly):
        assert formula(scale * 5, scale * 1000) == pytest.approx(scale * formula(5, 1000))
    one, other = Reliability(1000, 5, 60), Reliability(scale * 1000, scale * 5, scale * 60)
    assert other.expected(scale * 1e5, scale * 90) == pytest.approx(scale * one.expected(1e5, 90))


def test_daly_approaches_young_where_checkpoints_are_cheap_and_stays_at_the_mtbf_where_they_are_dear():
    gaps = [1 - daly(dump, 1e6) / young(dump, 1e6) for dump in (1e4, 1e2, 1.0)]
    assert all(near < far for far, near in pairwise(gaps))
    assert gaps[-1] == pytest.approx(0, abs=1e-3)
    assert daly(2e6, 1e6) == daly(1e9, 1e6) == 1e6
    assert daly(2e6 * (1 - 1e-9), 1e6) == pytest.approx(1e6, rel=0.3)  # where its two halves meet, his own do not quite


@pytest.mark.parametrize(("mtbf", "_"), DALYS)
def test_dalys_interval_loses_the_least_of_a_grid_by_formula_and_by_simulation(mtbf, _):
    job, work = Reliability(mtbf, 5 * MINUTE, 10 * MINUTE), 500 * HOUR
    best = job.interval
    grid = [best * 2.0**step for step in (-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2)]
    expected = {tau: job.expected(work, tau) for tau in grid if job.expected(work, tau) < 100 * work}
    assert expected[best] <= 1.002 * min(expected.values())
    simulated = {tau: job.simulate(work, tau) for tau in expected}
    least = min(simulated.values(), key=lambda s: s.mean)
    assert simulated[best].mean <= least.mean + 4 * math.hypot(least.error, simulated[best].error)
    assert simulated[best].mean < min(simulated[tau].mean for tau in expected if not best / 1.9 < tau < best * 1.9)


@pytest.mark.parametrize("mtbf", [100 * HOUR, 6 * HOUR, 15 * MINUTE])
@pytest.mark.parametrize("restart", [0.0, 10 * MINUTE])
@pytest.mark.parametrize("work", [HOUR, 500 * HOUR])
def test_the_simulated_mean_is_the_expected_one(mtbf, restart, work):
    job = Reliability(mtbf, 5 * MINUTE, restart)
    found, expected = job.simulate(work, job.interval), job.expected(work, job.interval)
    assert abs(found.mean - expected) < 4.5 * found.error + 1e-9 * expected
    assert found.error < 0.01 * expected


def test_the_simulation_repeats_itself_and_its_error_shrinks_with_trials():
    job = Reliability(HOUR, MINUTE)
    assert job.simulate(1e5, 600) == job.simulate(1e5, 600)
    few, many = job.simulate(1e5, 600, trials=50), job.simulate(1e5, 600, trials=5000)
    assert many.error == pytest.approx(few.error / 10, rel=0.5)


def test_without_failures_only_checkpoints_cost():
    job = Reliability(1e15, 10, RESTART)
    assert job.expected(1000, 100) == pytest.approx(1000 + 10 * 10)
    assert job.simulate(1000, 100).mean == pytest.approx(1000 + 10 * 10)
    assert job.failures(1000, 100) == pytest.approx(0, abs=1e-9)


def test_more_failures_dearer_checkpoints_and_longer_restarts_never_help():
    def lost(mtbf=HOUR, dump=30.0, restart=300.0):
        job = Reliability(mtbf, dump, restart)
        return job.expected(1e6, job.interval)

    for worse in ([lost(mtbf=m) for m in (1e6, 1e5, 1e4, 2e3)], [lost(dump=d) for d in (1, 10, 100, 500)]):
        assert worse == sorted(worse)
    assert [lost(restart=r) for r in (0, 10, 1000, 5000)] == sorted(lost(restart=r) for r in (0, 10, 1000, 5000))


def test_what_never_ends_is_infinite_and_raises_nothing():
    assert Reliability(1.0, 1e4).expected(1e6, 100) == math.inf
    assert Reliability(1.0, 1.0, 1e9).expected(1e6, 100) == math.inf


@pytest.mark.parametrize(("work", "interval"), [(1, 1), (1, 3), (10, 3), (1e9, 7.7)])
def test_pieces_are_equal_sum_to_the_work_and_are_no_longer_than_the_interval(work, interval):
    pieces, piece = cut(work, interval)
    assert pieces * piece == pytest.approx(work)
    assert piece <= interval * (1 + 1e-12)


def test_llama_3_would_have_run_as_it_was_reported_to():
    """Over 90 % of 54 days were training (arXiv:2407.21783, section 3.3.4); with a restart of our own."""
    gpus, parameters = 16_384, 405e9
    dump = 12 * parameters / (gpus / 8 * NODE_WRITES)
    job = Reliability(GPU_MTBF / gpus, dump)
    assert 54 * 24 * HOUR / job.mtbf == pytest.approx(419)
    work = 54 * 24 * HOUR * 0.9
    assert 0.90 < work / job.simulate(work, job.interval).mean < 0.95
