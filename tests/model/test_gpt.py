"""Laws of the model: counts, start, padding, causality, dropout."""

import math

import pytest
import torch

from groundup.config import ModelConfig
from groundup.model.count import flops_per_token, parameters
from groundup.model.gpt import GPT, IGNORED, NextTokenLoss
from groundup.presets import PRESETS

SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 70}


def small(**changes) -> GPT:
    return GPT(ModelConfig(**{**SMALL, **changes})).init_weights(torch.Generator().manual_seed(0))


def ids(rows=2, n=16, seed=0) -> torch.Tensor:
    return torch.randint(70, (rows, n), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "count"),
    [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)],
)
def test_the_four_sizes_have_the_published_number_of_parameters(name, count):
    config = ModelConfig(**PRESETS[name]["model"], vocab_size=50_257)
    assert parameters(config) == count
    with torch.device("meta"):
        built = sum(p.numel() for p in GPT(config).parameters())
    assert built - (config.padded_vocab - config.vocab) * config.n_embd == count


@pytest.mark.parametrize("changes", [{}, {"bias": False}, {"tied": False}, {"n_inner": 40}, {"vocab_multiple": 1}])
def test_the_arithmetic_counts_what_is_built(changes):
    model = small(**changes)
    padding = (model.config.padded_vocab - 70) * 32 * (1 if model.config.tied else 2)
    assert sum(p.numel() for p in model.parameters()) - padding == parameters(model.config)


def test_flops_of_gpt2_small_are_the_published_798_million():
    assert round(flops_per_token(ModelConfig(**PRESETS["gpt2"]["model"], vocab_size=50_257)) / 1e6) == 798


def test_a_new_model_knows_nothing():
    loss = NextTokenLoss(small())(ids(), ids(seed=1)).item() / 32
    assert loss == pytest.approx(math.log(70), abs=0.05)


def test_residual_projections_start_smaller_the_deeper_the_model():
    model = small(n_layer=8, n_embd=256, n_head=2)
    expected = 0.02 / math.sqrt(16)
    assert model.h[3].mlp.c_proj.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert model.h[3].attn.c_proj.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert model.h[3].mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_released_init_scales_nothing_and_halves_positions():
    model = small(n_embd=256, block_size=256, init="gpt2-released")
    assert model.h[0].attn.c_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.wpe.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_padded_ids_change_nothing_and_learn_nothing():
    padded, plain = small(), small(vocab_multiple=1)
    with torch.no_grad():
        for a, b in zip(padded.parameters(), plain.parameters(), strict=True):
            b.copy_(a[: b.size(0)])
        padded.wte.weight[70:] = 1e4
    torch.testing.assert_close(padded(ids()), plain(ids()))
    losses = [NextTokenLoss(m)(ids(), ids(seed=1)) for m in (padded, plain)]
    torch.testing.assert_close(*losses)
    losses[0].backward()
    assert padded.wte.weight.grad[70:].abs().max() == 0


def test_no_token_sees_a_later_one():
    model = small().eval()
    changed = ids().clone()
    changed[:, 9] = (changed[:, 9] + 1) % 70
    before, after = model(ids()), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_the_loss_is_a_sum_over_scored_targets():
    loss_sum = NextTokenLoss(small())
    targets = ids(seed=1)
    halves = targets.clone(), targets.clone()
    halves[0][:, ::2] = IGNORED
    halves[1][:, 1::2] = IGNORED
    parts = [loss_sum(ids(), half) for half in halves]
    torch.testing.assert_close(sum(parts), loss_sum(ids(), targets))


def test_dropout_acts_in_training_only():
    model = small(dropout=0.3)
    assert not torch.equal(model.train()(ids()), model(ids()))
    assert torch.equal(model.eval()(ids()), model(ids()))
    torch.testing.assert_close(model(ids()), small().eval()(ids()))
