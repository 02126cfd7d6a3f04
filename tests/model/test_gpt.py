"""Laws of the model: parameter counts, initial loss, padding, causality, dropout."""

import math

import pytest
import torch

from groundup.config.model import ModelConfig
from groundup.config.presets import GPT1_PARTS, MODERN_PARTS, NANOCHAT_PARTS, PRESETS
from groundup.config.sections import OptimizerConfig
from groundup.model import build_model
from groundup.model.gpt import GPT, IGNORED, NextTokenLoss
from groundup.model.positions import RotaryPositions
from groundup.model.size import counted, flops_per_token, parameters, shapes
from groundup.optim.optimizer import build_optimizer

SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 70}


def small(**changes) -> GPT:
    return build_model(ModelConfig(**{**SMALL, **changes})).init_weights(torch.Generator().manual_seed(0))


def ids(rows=2, n=16, seed=0) -> torch.Tensor:
    return torch.randint(70, (rows, n), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt1", 116_534_784),
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("gpt3-small", 125_226_240),
    ],
)
def test_the_known_models_have_the_published_number_of_parameters(name, count):
    config = ModelConfig(**PRESETS[name]["model"], vocab_size=40_478 if name == "gpt1" else 50_257)
    assert parameters(config) == count
    with torch.device("meta"):
        built = sum(p.numel() for p in GPT(config).parameters())
    assert built - (config.padded_vocab - config.vocab) * config.n_embd == count


# GPT-1, a modern model, and unpublished combinations: every part works with every other.
MIXTURES: dict[str, dict] = {
    "gpt1": GPT1_PARTS,
    "modern": MODERN_PARTS,
    "nanochat": NANOCHAT_PARTS,
    "gpt2, swiglu": {"activation": "swiglu"},
    "gpt2, layer norms of queries and keys, rotated after": {
        "qk_norm": "before_rotary",
        "position_embedding": "rotary_ccw",
    },
    "gpt1, rotary": {**GPT1_PARTS, "position_embedding": "rotary"},
    "gpt1, rmsnorm and relu2": {**GPT1_PARTS, "norm": "rmsnorm", "activation": "relu2"},
    "gpt2, qk-norm": {"qk_norm": "after_rotary"},
    "gpt2, modern start": {"init": "modern", "tie_embeddings": False},
    "gpt2, softcap and norm of the embedding": {"logit_softcap": 15.0, "embedding_norm": True},
    "modern, tied and with biases": {**MODERN_PARTS, "tie_embeddings": True, "bias": True},
    "gpt2, modern start, tied": {"init": "modern"},
    "modern, layernorm, learned positions": {**MODERN_PARTS, "norm": "layernorm", "position_embedding": "learned"},
    "modern, n-grams": {**MODERN_PARTS, "ngram": 3, "ngram_rows": 500},
    "gpt2, n-grams": {"ngram": 4, "ngram_rows": 100, "ngram_width": 5},
    "modern, post-norm": {**MODERN_PARTS, "norm_position": "post_norm"},
}


@pytest.mark.parametrize(
    "changes",
    [{}, {"bias": False}, {"tie_embeddings": False}, {"n_inner": 40}, {"vocab_multiple": 1}, *MIXTURES.values()],
)
def test_size_arithmetic_matches_the_built_model(changes):
    model = small(**changes)
    padding = (model.config.padded_vocab - 70) * 32 * (1 if model.config.tie_embeddings else 2)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) - padding == parameters(model.config)
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == counted(model.config)
    assert shapes(model.config) == {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert not model.state_dict().keys() & dict(model.named_buffers()).keys()  # these are computed from the config


def test_flops_of_gpt2_small_are_the_published_798_million():
    assert round(flops_per_token(ModelConfig(**PRESETS["gpt2"]["model"], vocab_size=50_257)) / 1e6) == 798


def test_the_initial_loss_is_that_of_uniform_guessing():
    loss = NextTokenLoss(small())(ids(), ids(seed=1)).item() / 32
    assert loss == pytest.approx(math.log(70), abs=0.05)


@pytest.mark.parametrize("softcap", [None, 15.0])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n_embd", [64, 768])
def test_the_initial_loss_of_modern_is_that_of_uniform_guessing_at_any_width(n_embd, tied, softcap):
    model = small(**{**MODERN_PARTS, "n_embd": n_embd, "tie_embeddings": tied, "logit_softcap": softcap})
    loss = NextTokenLoss(model)(ids(), ids(seed=1)).item() / 32
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


def test_padded_ids_change_no_result_and_get_no_gradient():
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


def test_no_token_attends_to_a_later_one():
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


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("parts", MIXTURES.values(), ids=MIXTURES)
def test_every_combination_of_parts_learns(parts, optimizer):
    model = small(**parts)
    loss_sum = NextTokenLoss(model)
    config = OptimizerConfig(name=optimizer, learning_rate=0.01, embedding_learning_rate=0.1, weight_decay=0.0)
    moving = build_optimizer(model.named_parameters(), config)
    x = ids(rows=4)
    first = last = 0.0
    for step in range(30):
        loss = loss_sum(x[:, :-1], x[:, 1:]) / 60
        first, last = first if step else loss.item(), loss.item()
        loss.backward()
        moving.step()
        moving.zero_grad()
    assert first == pytest.approx(math.log(70), abs=0.6)
    assert last < 0.5 * first, "four short rows can be learnt by heart"


@pytest.mark.parametrize("parts", MIXTURES.values(), ids=MIXTURES)
def test_every_combination_of_parts_is_causal(parts):
    model = small(**parts).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # modern parts start with a head of zeros, which would hide everything
            parameter.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    changed = ids().clone()
    changed[:, 9] = (changed[:, 9] + 1) % 70
    before, after = model(ids()), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_rotary_scores_depend_only_on_the_distance():
    rotary = RotaryPositions(ModelConfig(**SMALL, position_embedding="rotary"))
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0)).unbind()

    def score(i, j):
        rotated = [rotary.rotation(torch.tensor([position])).apply(x) for x, position in ((q, i), (k, j))]
        return (rotated[0] * rotated[1]).sum()

    torch.testing.assert_close(score(3, 1), score(14, 12))
    assert not torch.allclose(score(3, 1), score(3, 2))
    assert not torch.allclose(score(3, 1), score(1, 3)), "before and after differ"
    torch.testing.assert_close(score(0, 0), (q * k).sum())


def test_softcap_bounds_logits():
    model = small(logit_softcap=2.0)
    with torch.no_grad():
        model.wte.weight.mul_(1000)
    assert model(ids()).abs().max() <= 2.0
