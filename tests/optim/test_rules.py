"""Every parameter has one role and the decay that goes with it."""

import pytest
import torch

from groundup.config import ModelConfig, OptimizerConfig
from groundup.model.gpt import GPT
from groundup.optim.rules import build_adamw, role

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 30}


@pytest.mark.parametrize("tied", [True, False])
def test_groups_partition_the_parameters_and_only_matrices_decay(tied):
    model = GPT(ModelConfig(**SHAPE, tied=tied))
    groups = build_adamw(model.named_parameters(), OptimizerConfig(weight_decay=0.3)).param_groups
    grouped = [p for group in groups for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters()}
    assert len(grouped) == len(list(model.parameters()))
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.dim() >= 2 else 0.0)


def test_roles():
    names = {name: role(name, p) for name, p in GPT(ModelConfig(**SHAPE, tied=False)).named_parameters()}
    assert names["wte.weight"] == names["wpe.weight"] == "embedding"
    assert names["lm_head.weight"] == "head"
    assert names["h.0.mlp.c_fc.weight"] == "matrix"
    assert names["h.0.mlp.c_fc.bias"] == names["ln_f.weight"] == "vector"


def test_adamw_is_fused_and_takes_the_configured_numbers():
    config = OptimizerConfig(learning_rate=0.01, beta1=0.8, beta2=0.9, eps=1e-6)
    (decayed, _) = build_adamw(GPT(ModelConfig(**SHAPE)).named_parameters(), config).param_groups
    assert (decayed["lr"], decayed["betas"], decayed["eps"], decayed["fused"]) == (0.01, (0.8, 0.9), 1e-6, True)


def test_one_step_is_the_formula_of_the_paper():
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optimizer = build_adamw([("w", weight)], OptimizerConfig(learning_rate=0.1, weight_decay=0.5))
    weight.grad = torch.tensor([[3.0, -4.0]])
    optimizer.step()
    # The first step of Adam moves by the sign of the gradient; decay takes lr · decay of the weight before.
    torch.testing.assert_close(weight.detach(), torch.tensor([[1.0 * 0.95 - 0.1, -2.0 * 0.95 + 0.1]]))
