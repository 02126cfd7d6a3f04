"""Names and settings of transformers' architectures, in both directions."""

import pytest
import torch

from groundup.config.model import ModelConfig
from groundup.config.presets import PRESETS
from groundup.errors import CheckpointError, UsageError
from groundup.interop.hf_architectures import FAMILIES
from groundup.interop.hf_mapping import check_weights, config_json, family_of, model_config, to_groundup, to_hf
from groundup.model.gpt import GPT

PARTS = {"gpt2": "gpt2-nano", "openai-gpt": "gpt1", "nanochat": "nanochat", "qwen3": "modern-micro"}
HEADS = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 70, "dropout": 0.0}


def shape(family: str, **values) -> ModelConfig:
    return ModelConfig(**{**PRESETS[PARTS[family]]["model"], **SIZES, "vocab_multiple": 64, **values})


def weights(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Random weights, with zero rows past the vocabulary."""
    torch.manual_seed(0)
    model = GPT(config)
    found = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    for name in found.keys() & {"wte.weight", "lm_head.weight"}:
        found[name][config.vocab :] = 0
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip_changes_nothing(family, tied):
    config = shape(family, tie_embeddings=tied)
    before = weights(config)
    after = to_groundup(config, to_hf(config, before))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model_config(config_json(config, 3)) == config
    assert family_of(config).model_type == family


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_knows_each_name_and_computes_the_same(family):
    """The strict loader accepts what we write; a misread config.json would change the logits."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = shape(family, n_inner=None if family == "openai-gpt" else 40, norm_eps=1e-3)
    tensors = weights(config)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config_json(config, 3))).eval()
    left = model.load_state_dict(to_hf(config, tensors), strict=False)
    assert left.unexpected_keys == []
    assert set(left.missing_keys) <= ({"lm_head.weight"} if config.tie_embeddings else set())
    mine = GPT(config).eval()
    mine.load_state_dict(tensors, strict=False)
    ids = torch.randint(70, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(mine(ids), model(ids).logits, atol=1e-4, rtol=0)


def test_missing_biases_become_zeros():
    config = shape("gpt2", bias=False)
    written = to_hf(config, weights(config))
    assert written["transformer.h.1.attn.c_attn.bias"].tolist() == [0.0] * 48
    assert written["transformer.ln_f.bias"].tolist() == [0.0] * 16


def test_prefixes_and_buffers_are_ignored():
    config = shape("gpt2")
    written = to_hf(config, weights(config))
    bare = {name.removeprefix("transformer."): tensor for name, tensor in written.items()}
    bare |= {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    bare |= {"position_ids": torch.arange(8)}
    bare |= {"lm_head.weight": bare["wte.weight"]}
    assert all(torch.equal(tensor, weights(config)[name]) for name, tensor in to_groundup(config, bare).items())


def test_weights_of_another_type_become_fp32():
    config = shape("nanochat")
    halves = {name: tensor.bfloat16() for name, tensor in to_hf(config, weights(config)).items()}
    assert {tensor.dtype for tensor in to_groundup(config, halves).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx true"),
        ({"scale_attn_weights": False}, "scale_attn_weights false"),
        ({"add_cross_attention": True}, "add_cross_attention true"),
        ({"activation_function": "silu"}, 'activation_function "silu"'),
        ({"n_layer": "many"}, 'n_layer "many"'),
        ({"n_head": 3}, "not divisible by n_head 3"),
        ({"model_type": "nanochat", "num_key_value_heads": 1}, "num_key_value_heads 1"),
        ({"model_type": "nanochat", "head_dim": 7}, "head_dim 7"),
        ({"model_type": "nanochat", "attention_bias": True}, "attention_bias true"),
        ({"model_type": "nanochat", "rope_parameters": {"rope_type": "yarn"}}, "yarn"),
        (
            {"model_type": "qwen3", "num_attention_heads": 4, "num_key_value_heads": 2},
            "key head for each of the 4 query",
        ),
        ({"model_type": "qwen3"} | HEADS | {"head_dim": 128}, "head_dim 128: .* 8 here"),
        ({"model_type": "qwen3", "num_attention_heads": 4}, "num_key_value_heads 32: queries that share keys"),
        ({"model_type": "qwen3"} | HEADS | {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"model_type": "qwen3"} | HEADS | {"use_sliding_window": True}, "use_sliding_window true"),
        ({"model_type": "qwen3"} | HEADS | {"attention_bias": True}, "attention_bias true"),
        ({"model_type": "qwen3"} | HEADS | {"rope_parameters": {"rope_type": "yarn"}}, "yarn"),
        ({"model_type": "qwen3"} | HEADS | {"hidden_act": "gelu"}, 'hidden_act "gelu"'),
        ({"model_type": "openai-gpt", "afn": "swish"}, 'afn "swish"'),
    ],
)
def test_settings_that_groundup_cannot_compute_are_refused(change, message):
    with pytest.raises(UsageError, match="(?s)" + message):
        model_config(config_json(shape("gpt2"), 3) | change)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        (
            "nanochat",
            {"activation": "relu2", "qk_norm": "none"},
            'nanochat, where model.qk_norm must be "after_rotary", not "none"',
        ),
        ("gpt2", {"logit_softcap": 15.0}, "gpt2, where model.logit_softcap must be null, not 15.0"),
        ("openai-gpt", {"n_inner": 48}, "model.n_inner must be 4 x n_embd, 64, not 48"),
        ("openai-gpt", {"activation": "gelu"}, "model.activation must be gelu_tanh or relu, not gelu"),
    ],
)
def test_a_model_of_an_unknown_family_is_refused(family, change, message):
    with pytest.raises(UsageError, match=message):
        family_of(shape(family, **change))


def test_a_context_that_no_weight_confirms_has_a_largest_length():
    with pytest.raises(CheckpointError, match="max_position_embeddings 1,000,000,000: a context has at most 1,048,576"):
        check_weights(shape("nanochat", block_size=10**9), {})


def test_weights_that_do_not_fit_are_refused():
    config = shape("gpt2")
    complete = to_hf(config, weights(config))
    with pytest.raises(CheckpointError, match=r"transformer\.ln_f\.weight: missing"):
        to_groundup(config, {name: tensor for name, tensor in complete.items() if name != "transformer.ln_f.weight"})
    with pytest.raises(CheckpointError, match=r"score\.weight: the weights have it"):
        to_groundup(config, complete | {"score.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"71 x 16 in the weights, and 70 x 16"):
        to_groundup(config, complete | {"transformer.wte.weight": torch.ones(71, 16)})
