"""Every parameter has one role, which determines its weight decay."""

import pytest
import torch

from groundup.config.model import ModelConfig
from groundup.config.sections import OptimizerConfig
from groundup.model.gpt import GPT
from groundup.optim.muon import Muon
from groundup.optim.optimizer import build_optimizer, peak_lrs, role, scale_lrs
from groundup.training.loop import set_learning_rate

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 30}


@pytest.mark.parametrize("tied", [True, False])
def test_groups_partition_the_parameters_and_only_matrices_decay(tied):
    model = GPT(ModelConfig(**SHAPE, tie_embeddings=tied))
    groups = build_optimizer(model.named_parameters(), OptimizerConfig(weight_decay=0.3)).param_groups
    grouped = [p for group in groups for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters()}
    assert len(grouped) == len(list(model.parameters()))
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.dim() >= 2 else 0.0)


@pytest.mark.parametrize("tied", [True, False])
def test_muon_updates_the_matrices_and_adamw_the_rest(tied):
    model = GPT(ModelConfig(**SHAPE, tie_embeddings=tied))
    config = OptimizerConfig(
        name="muon", learning_rate=0.01, matrix_learning_rate=0.03, embedding_learning_rate=0.2, weight_decay=0.3
    )
    muon, adamw = build_optimizer(model.named_parameters(), config).optimizers
    assert isinstance(muon, Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for part in (muon, adamw)
        for group in part.param_groups
        for p in group["params"]
    }
    assert found.keys() == {name for name, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        expected = {
            "matrix": (0.03, 0.3), "embedding": (0.2, 0.0), "head": (0.01, 0.0), "vector": (0.01, 0.0),
        }[role(name, p.dim())]  # fmt: skip
        assert found[name] == expected, name


def test_the_schedule_scales_every_group_alike():
    config = OptimizerConfig(name="muon", learning_rate=0.01, matrix_learning_rate=0.03)
    optimizer = build_optimizer(GPT(ModelConfig(**SHAPE)).named_parameters(), config)
    set_learning_rate(optimizer, 0.001)
    assert sorted({round(group["lr"], 9) for group in optimizer.param_groups}) == [0.001, 0.003]


def test_optimizer_state_can_be_read_and_written():
    model = GPT(ModelConfig(**SHAPE)).init_weights()
    optimizer = build_optimizer(model.named_parameters(), OptimizerConfig(name="muon"))
    model(torch.zeros(1, 8, dtype=torch.long)).logsumexp(-1).sum().backward()
    optimizer.step()
    kinds = {key for moments in optimizer.state.values() for key in moments}
    assert kinds == {"momentum_buffer", "exp_avg", "exp_avg_sq", "step"}
    assert set(optimizer.state) == set(model.parameters())
    for moments in optimizer.state.values():
        moments.clear()
    assert not any(part.state[p] for part in optimizer.optimizers for p in part.state)


def test_roles():
    names = {
        name: role(name, p.dim()) for name, p in GPT(ModelConfig(**SHAPE, tie_embeddings=False)).named_parameters()
    }
    assert names["wte.weight"] == names["wpe.weight"] == "embedding"
    assert names["lm_head.weight"] == "head"
    assert names["h.0.mlp.c_fc.weight"] == "matrix"
    assert names["h.0.mlp.c_fc.bias"] == names["ln_f.weight"] == "vector"


def test_adamw_is_fused_and_configured():
    config = OptimizerConfig(learning_rate=0.01, beta1=0.8, beta2=0.9, eps=1e-6)
    (decayed, _) = build_optimizer(GPT(ModelConfig(**SHAPE)).named_parameters(), config).param_groups
    assert (decayed["lr"], decayed["betas"], decayed["eps"], decayed["fused"]) == (0.01, (0.8, 0.9), 1e-6, True)


def test_one_step_is_the_formula_of_the_paper():
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optimizer = build_optimizer([("w", weight)], OptimizerConfig(learning_rate=0.1, weight_decay=0.5))
    weight.grad = torch.tensor([[3.0, -4.0]])
    optimizer.step()
    # The first step of Adam moves by the sign of the gradient; decay takes lr · decay of the weight before.
    torch.testing.assert_close(weight.detach(), torch.tensor([[1.0 * 0.95 - 0.1, -2.0 * 0.95 + 0.1]]))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("tied", [True, False])
def test_sgd_updates_everything_and_vectors_do_not_decay(tied, momentum):
    model = GPT(ModelConfig(**SHAPE, tie_embeddings=tied))
    config = OptimizerConfig(name="sgd", learning_rate=0.05, momentum=momentum, weight_decay=0.3)
    (part,) = build_optimizer(model.named_parameters(), config).optimizers
    assert isinstance(part, torch.optim.SGD)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: group for group in part.param_groups for p in group["params"]}
    assert found.keys() == {name for name, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        group = found[name]
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.05, momentum, momentum > 0)
        assert group["weight_decay"] == (0.0 if role(name, p.dim()) == "vector" else 0.3), name


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_follows_its_formula(momentum):
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    config = OptimizerConfig(name="sgd", learning_rate=0.1, momentum=momentum, weight_decay=0.5)
    optimizer = build_optimizer([("w", weight)], config)
    w, v = weight.detach().clone(), torch.zeros(1, 2)
    for gradient in (torch.tensor([[3.0, -4.0]]), torch.tensor([[-1.0, 2.0]])):
        weight.grad = gradient.clone()
        optimizer.step()
        decayed = gradient + 0.5 * w
        v = momentum * v + decayed
        w -= 0.1 * (decayed + momentum * v)
    torch.testing.assert_close(weight.detach(), w)
    assert {key for moments in optimizer.state.values() for key in moments} == (
        {"momentum_buffer"} if momentum else set()
    )


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("embedding", [None, 0.2])
def test_all_peak_learning_rates_scale_alike(name, embedding):
    config = OptimizerConfig(name=name, learning_rate=0.004, embedding_learning_rate=embedding)
    expected = {"learning_rate": 0.004}
    if name == "muon":
        expected |= {"matrix_learning_rate": 0.02} | ({"embedding_learning_rate": 0.2} if embedding else {})
    assert peak_lrs(config) == expected
    assert next(iter(peak_lrs(config))) == "learning_rate"
    assert peak_lrs(scale_lrs(config, 0.002)) == {key: value / 2 for key, value in expected.items()}
    assert scale_lrs(config, 0.0012345).learning_rate == 0.0012  # a number that a person can type

    def scales(c: OptimizerConfig) -> list[float]:
        named = GPT(ModelConfig(**SHAPE, tie_embeddings=False)).named_parameters()
        return [group["scale"] for group in build_optimizer(named, c).param_groups]

    assert scales(scale_lrs(config, 0.002)) == pytest.approx(scales(config))
