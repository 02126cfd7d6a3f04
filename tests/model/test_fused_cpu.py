"""Fused CPU kernels compute what the plain modules compute, and change nothing else about a model."""

import copy
import pickle

import pytest
import torch
from perturbed import perturbed

from groundup.config.model import ModelConfig
from groundup.config.presets import GPT1_PARTS, MODERN_PARTS, NANOCHAT_PARTS
from groundup.kernels import elementwise
from groundup.kernels.cpu_build import library
from groundup.model import fused_cpu
from groundup.model.fused_cpu import (
    FusedAttention,
    FusedQwen3Attention,
    FusedRMSNorm,
    FusedScaledRMSNorm,
    use_fused_cpu_kernels,
)
from groundup.model.gpt import GPT, NextTokenLoss

compiles = pytest.mark.skipif(library() is None, reason="no C++ compiler that works here")
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 70}
PARTS = {
    "gpt1": GPT1_PARTS,
    "gpt2": {},
    "modern": MODERN_PARTS,
    "nanochat": NANOCHAT_PARTS,
    "nanochat, learned positions": {**NANOCHAT_PARTS, "position_embedding": "learned"},
    "nanochat, layernorm": {**NANOCHAT_PARTS, "norm": "layernorm"},
    "nanochat, n-grams": {**NANOCHAT_PARTS, "ngram": 3, "ngram_rows": 500},
}
IDS = torch.randint(70, (2, 16), generator=torch.Generator().manual_seed(4))


def build(parts: str) -> GPT:
    return perturbed(ModelConfig(**{**SHAPE, **PARTS[parts]}))


def loss_and_gradients(gpt: GPT) -> list[torch.Tensor]:
    loss = NextTokenLoss(gpt)(IDS[:, :-1], IDS[:, 1:])
    learned = [p for p in gpt.parameters() if p.requires_grad]
    return [loss.detach(), *torch.autograd.grad(loss, learned)]


@compiles
@pytest.mark.parametrize("parts", PARTS)
def test_loss_and_gradients_are_those_of_the_plain_model(parts, monkeypatch):
    plain, fused = build(parts), use_fused_cpu_kernels(build(parts))
    calls = []
    monkeypatch.setattr(elementwise, "_call", lambda *a, call=elementwise._call: (calls.append(a[0]), call(*a)))
    found = loss_and_gradients(fused)
    assert calls or (parts == "nanochat, layernorm" and plain.config.activation != "relu2")
    calls.clear()
    for a, b in zip(found, loss_and_gradients(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert not calls, "a plain model is plain torch"


@compiles
def test_nanochat_blocks_are_fused():
    block = use_fused_cpu_kernels(build("nanochat")).h[0]
    assert type(block.ln_1) is FusedRMSNorm
    assert type(block.attn) is FusedAttention
    assert block.mlp.activation is elementwise.relu_squared


@compiles
def test_modern_blocks_are_fused():
    block = use_fused_cpu_kernels(build("modern")).h[0]
    assert type(block.ln_1) is FusedScaledRMSNorm
    assert type(block.attn) is FusedQwen3Attention
    assert block.mlp.activation is elementwise.swiglu


@compiles
@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_fused_and_have_the_same_names(how):
    fused = use_fused_cpu_kernels(build("nanochat"))
    other = how(fused)
    assert type(other.h[0].attn) is FusedAttention
    assert list(other.state_dict()) == list(build("nanochat").state_dict())
    assert torch.equal(other(IDS), fused(IDS))


def test_without_a_compiler_nothing_changes(monkeypatch):
    monkeypatch.setattr(fused_cpu, "library", lambda: None)
    assert torch.equal(use_fused_cpu_kernels(build("nanochat"))(IDS), build("nanochat")(IDS))
