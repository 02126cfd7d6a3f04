"""Muon against torch.optim.Muon, which updates one matrix at a time."""

import pytest
import torch

from groundup.optim.muon import POLYNOMIALS, Muon, orthogonalize

SHAPES = [(8, 8), (24, 8), (8, 8), (8, 32), (24, 8)]


def moved(optimizer, parameters, steps=4):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach() for p in parameters]


def fresh():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def test_bf16_updates_equal_those_of_torch():
    ours, theirs = fresh(), fresh()
    groups = [{"params": ours, "lr": 0.03, "weight_decay": 0.2}]
    a = moved(Muon(groups, momentum=0.9, dtype=torch.bfloat16), ours)
    b = moved(torch.optim.Muon(theirs, lr=0.03, weight_decay=0.2, momentum=0.9), theirs)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, atol=4e-3, rtol=0)  # of moves of about 0.1: products are rounded to 8 bits


def test_fp32_updates_differ_from_torch_by_bf16_rounding_only():
    ours, theirs = fresh(), fresh()
    a = moved(Muon([{"params": ours, "lr": 0.03, "weight_decay": 0.2}], momentum=0.9), ours)
    b = moved(torch.optim.Muon(theirs, lr=0.03, weight_decay=0.2, momentum=0.9), theirs)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, atol=5e-3, rtol=0)


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 48, 16), (3, 16, 64)])
@pytest.mark.parametrize("by", POLYNOMIALS)
def test_all_singular_values_are_near_one(shape, by):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    values = torch.linalg.svdvals(orthogonalize(x, by))
    assert values.shape == torch.linalg.svdvals(x).shape
    low, high = {"newton_schulz": (0.5, 1.3), "polar_express": (0.15, 1.9)}[by]  # the latter stops half way
    assert 0.7 < values.median() < 1.3
    assert low < values.min()
    assert values.max() < high


def test_a_matrix_without_a_gradient_is_not_updated():
    still, moving = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4, 4))
    moving.grad = torch.eye(4)
    optimizer = Muon([still, moving], momentum=0.9)
    optimizer.step()
    assert torch.equal(still, torch.ones(4, 4))
    assert not torch.equal(moving, torch.ones(4, 4))
    assert still not in optimizer.state
