"""Packed weights: what is rounded and by how much, what is not, and that all paths of a model go through them."""

from copy import deepcopy

import pytest
import torch
from perturbed import perturbed
from torch import nn

from groundup.config.model import ModelConfig
from groundup.config.presets import GPT1_PARTS, MODERN_PARTS, NANOCHAT_PARTS
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import GPT
from groundup.model.ngram import NGramGPT
from groundup.model.quantized import PackedLinear, pack_int8, quantize, unpack_int8

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 72, "block_size": 16, "vocab_size": 70}
PARTS = {
    "gpt1": GPT1_PARTS,
    "gpt2": {},
    "modern": MODERN_PARTS,
    "nanochat": NANOCHAT_PARTS,
    "n-grams": {**NANOCHAT_PARTS, "ngram": 3, "ngram_rows": 500},
    "n-grams with frequencies": {**NANOCHAT_PARTS, "ngram": 3, "ngram_rows": 500, "ngram_width": 70},
}
IDS = torch.randint(70, (2, 16), generator=torch.Generator().manual_seed(4))


def build(parts: str) -> GPT:
    return perturbed(ModelConfig(**{**SHAPE, **PARTS[parts]})).eval()


@pytest.mark.parametrize("width", [1, 63, 64, 65, 100, 128, 172])
def test_int8_is_wrong_by_half_a_step_of_a_groups_scale(width):
    weight = torch.randn(5, width, generator=torch.Generator().manual_seed(width))
    weight[0] = 0
    weight[1, 0] = 1e4  # the groups behind keep their precision
    packed, scale = pack_int8(before := weight.clone())
    assert torch.equal(before, weight), "a caller's weight stays as it is"
    assert packed.dtype == torch.int8
    assert packed.shape == (5, width)
    assert scale.shape == (5, -(-width // 64))
    error, step = (unpack_int8(packed, scale) - weight).abs(), scale.repeat_interleave(64, 1)[:, :width]
    assert (error <= 0.5001 * step).all()
    for start in range(0, width, 64):
        group = slice(start, start + 64)
        torch.testing.assert_close(step[:, start] * 127, weight[:, group].abs().amax(1))
        assert packed[1:, group].abs().amax(1).eq(127).all()


@pytest.mark.parametrize("kind", ["bf16", "int8"])
@pytest.mark.parametrize("parts", PARTS)
def test_a_quantized_model_computes_what_its_rounded_weights_say(parts, kind):
    plain, quantized = build(parts), quantize(build(parts), kind)
    with torch.no_grad():
        for name, layer in quantized.named_modules():
            if isinstance(layer, PackedLinear):
                rounded = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
                rounded.weight.copy_(layer.weight)
                if layer.bias is not None:
                    rounded.bias.copy_(plain.get_submodule(name).bias)
                plain.set_submodule(name, rounded)
        torch.testing.assert_close(quantized(IDS), plain(IDS), rtol=0, atol=1e-6)
        loss = [gpt.loss(IDS[:, :-1], IDS[:, 1:], "per_sequence") for gpt in (quantized, plain)]
        torch.testing.assert_close(*loss)
        assert not torch.equal(plain(IDS), build(parts)(IDS))
        torch.testing.assert_close(use_fused_cpu_kernels(quantized)(IDS), plain(IDS), rtol=0, atol=1e-4)


@pytest.mark.parametrize("parts", PARTS)
def test_all_linear_layers_are_packed_and_all_else_stays_as_it_was(parts):
    plain, quantized = build(parts), quantize(build(parts), "int8")
    assert not any(isinstance(module, nn.Linear) for module in quantized.modules())
    assert isinstance(quantized.lm_head, PackedLinear)
    kept = dict(quantized.named_parameters())
    assert "wte.weight" in kept
    assert not isinstance(plain, NGramGPT) or {"ngrams.code", "ngrams.tables.0"} <= kept.keys()
    for name, parameter in plain.named_parameters():
        module = plain.get_submodule(name.rpartition(".")[0])
        assert (name in kept) == (not isinstance(module, nn.Linear))
        assert name not in kept or torch.equal(kept[name], parameter)


def test_a_copy_and_a_move_keep_the_packed_types():
    layer = deepcopy(quantize(build("gpt2"), "int8")).to("cpu").lm_head
    assert isinstance(layer, PackedLinear)
    assert (layer.packed.dtype, layer.scale.dtype, layer.weight.dtype) == (torch.int8, torch.float32, torch.float32)


@pytest.mark.parametrize("parts", PARTS)
def test_on_a_gpu_everything_is_bf16(parts):
    """The device `meta` takes a GPU's place."""
    model = quantize(build(parts).to("meta"), "bf16")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    assert isinstance(model.lm_head, nn.Linear)
    assert model(IDS.to("meta")).dtype == torch.bfloat16
