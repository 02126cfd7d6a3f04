"""Draws follow the filtered distribution."""

import pytest
import torch

from groundup.errors import UsageError
from groundup.generation.filters import TopK, TopP
from groundup.generation.sampler import Sampler

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


def shares(sampler: Sampler, n: int = 4000) -> list[float]:
    drawn = torch.stack([sampler(LOGITS)[0] for _ in range(n)])
    return (torch.bincount(drawn, minlength=4) / n).tolist()


def test_draws_follow_the_probabilities():
    assert shares(Sampler()) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_temperature_sharpens():
    squares = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert shares(Sampler(t=0.5)) == pytest.approx((squares / squares.sum()).tolist(), abs=0.03)


def test_temperature_zero_is_greedy():
    assert Sampler(t=0)(LOGITS).tolist() == [0]


def test_top_k_keeps_k_and_renormalises():
    assert shares(Sampler(k=2)) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert TopK(9)(LOGITS, []).isfinite().all()


@pytest.mark.parametrize(("p", "kept"), [(0.4, 1), (0.5, 1), (0.6, 2), (0.81, 3), (1.0, 4)])
def test_top_p_keeps_the_fewest_that_reach_p(p, kept):
    shuffled = LOGITS[:, [2, 0, 3, 1]]
    alive = TopP(p)(shuffled, []).isfinite()
    assert alive.sum() == kept
    assert alive[0, 1]  # the likeliest token is always kept


def test_a_rows_draws_do_not_depend_on_the_other_rows():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together, alone = Sampler(seed=7), Sampler(seed=7)
    for _ in range(20):
        assert together(logits)[0] == alone(logits[:1])[0]


def test_rows_and_seeds_differ():
    logits = torch.zeros(2, 1000)
    a, b = Sampler(seed=1), Sampler(seed=2)
    first, second = a(logits).tolist(), b(logits).tolist()
    assert len({*first, *second}) == 4


def test_filtered_tokens_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, -torch.inf]])
    sampler = Sampler(seed=0)
    assert {sampler(logits).item() for _ in range(200)} == {1}


@pytest.mark.parametrize(
    ("arguments", "name"), [((-1.0,), "temperature"), ((1.0, 0), "top_k"), ((1.0, None, 1.5), "top_p")]
)
def test_values_out_of_range_are_refused_by_name(arguments, name):
    with pytest.raises(UsageError, match=name):
        Sampler(*arguments)
