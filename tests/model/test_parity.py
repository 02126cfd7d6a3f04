"""Our GPT computes the same as the published implementations."""

import json

import numpy as np
import pytest
import torch

from groundup.config.model import ModelConfig
from groundup.config.presets import PRESETS
from groundup.interop.hf_mapping import model_config, to_groundup
from groundup.model.gpt import GPT


def randomised(model: torch.nn.Module, seed: int = 0) -> None:
    """Set every tensor to random values, including biases and norms, so that a swapped or missing one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.1, generator=generator)


def load(model: GPT, state: dict[str, torch.Tensor]) -> None:
    """Set every parameter from weights under transformers' names; a padded row that leaked into a result would show."""
    parameters, tensors = dict(model.named_parameters()), to_groundup(model.config, state)
    assert parameters.keys() == tensors.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            assert parameter.shape == tensors[name].shape
            parameter.copy_(tensors[name])
            if name in ("wte.weight", "lm_head.weight"):
                parameter[model.config.vocab :].fill_(1e3)


@pytest.mark.parametrize("n_inner", [None, 96])
@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu", "relu"])
def test_logits_equal_transformers(n_inner, activation):
    from transformers import GPT2Config, GPT2LMHeadModel

    names = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
    shape = {"n_layer": 3, "n_head": 4, "n_embd": 64, "n_inner": n_inner, "vocab_size": 301}
    theirs = GPT2LMHeadModel(GPT2Config(**shape, n_positions=32, activation_function=names[activation])).eval()
    randomised(theirs)
    ours = GPT(ModelConfig(**shape, block_size=32, activation=activation)).eval()
    load(ours, theirs.state_dict())
    ids = torch.randint(301, (3, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)


def test_tiny_random_gpt2_reproduces_its_stored_logits(shared_data):
    from safetensors.torch import load_file

    folder = shared_data / "tiny-random-gpt2"
    golden = np.load(folder / "golden_hf_logits.npz")
    ours = GPT(model_config(json.loads((folder / "config.json").read_text()))).eval()
    load(ours, load_file(folder / "model.safetensors"))
    ids, logits = (torch.from_numpy(golden[key]) for key in ("input_ids", "logits"))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), logits, atol=1e-4, rtol=0)


def test_a_trained_mingpt_reproduces_every_stored_activation(shared_data):
    folder = shared_data / "gpt-nano-sort"
    weights, golden = np.load(folder / "gpt_nano_sort_weights.npz"), np.load(folder / "gpt_nano_sort_partials.npz")
    model = GPT(ModelConfig(n_layer=3, n_head=3, n_embd=48, vocab_size=3, block_size=11, tie_embeddings=False)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            key = name if name == "lm_head.weight" else f"transformer.{name}"
            tensor = torch.from_numpy(weights[key])
            parameter[: tensor.size(0)].copy_(tensor)

    seen = {}
    watched = {"block0": "h.0", "block1": "h.1", "block2": "h.2", "ln1": "h.0.ln_1", "qkv": "h.0.attn.c_attn"}
    watched |= {"yProj": "h.0.attn.c_proj", "ln2": "h.0.ln_2", "fc": "h.0.mlp.c_fc", "mlp": "h.0.mlp", "ln_f": "ln_f"}
    for key, module in watched.items():
        model.get_submodule(module).register_forward_hook(lambda _m, _i, out, key=key: seen.setdefault(key, out))
    with torch.no_grad():
        logits = model(torch.from_numpy(golden["idx"]).long())
    for key in watched:
        torch.testing.assert_close(seen[key], torch.from_numpy(golden[key]), atol=1e-4, rtol=1e-4, msg=key)
    torch.testing.assert_close(logits, torch.from_numpy(golden["lm_head"]), atol=1e-4, rtol=1e-4)


def architecture(preset: str) -> dict:
    """A preset without its sizes."""
    sizes = ("n_layer", "n_head", "n_embd", "block_size")
    return {key: value for key, value in PRESETS[preset]["model"].items() if key not in sizes}


def test_gpt1_equals_transformers_openai_gpt():
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    shape = {"n_layer": 3, "n_head": 4, "n_embd": 64, "vocab_size": 301}
    theirs = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**shape, n_positions=32)).eval()
    randomised(theirs)
    ours = GPT(ModelConfig(**{**architecture("gpt1"), **shape}, block_size=32)).eval()
    load(ours, theirs.state_dict())
    ids = torch.randint(301, (3, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_inner", [None, 96])
def test_nanochat_equals_transformers_nanochat(n_inner):
    from transformers import NanoChatConfig, NanoChatForCausalLM

    shape = {"n_layer": 3, "n_head": 4, "n_embd": 64, "n_inner": n_inner, "vocab_size": 301}
    theirs = NanoChatForCausalLM(
        NanoChatConfig(
            num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, hidden_size=64, vocab_size=301,
            intermediate_size=n_inner or 256, max_position_embeddings=32, pad_token_id=0,
        )
    ).eval()  # fmt: skip
    randomised(theirs)
    ours = GPT(ModelConfig(**{**architecture("nanochat"), **shape}, block_size=32)).eval()
    load(ours, theirs.state_dict())
    ids = torch.randint(301, (3, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("n_inner", "tied"), [(None, False), (96, True)])
def test_modern_equals_transformers_qwen3(n_inner, tied):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = {"n_layer": 3, "n_head": 4, "n_embd": 64, "n_inner": n_inner, "vocab_size": 301, "tie_embeddings": tied}
    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, head_dim=16, hidden_size=64,
            vocab_size=301, intermediate_size=n_inner or 192, max_position_embeddings=32, tie_word_embeddings=tied,
        )
    ).eval()  # fmt: skip
    randomised(theirs)
    ours = GPT(ModelConfig(**{**architecture("modern"), **shape}, block_size=32)).eval()
    load(ours, theirs.state_dict())
    ids = torch.randint(301, (3, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)
