"""Which rule moves which parameter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from groundup.config.sections import OptimizerConfig
from groundup.optim.muon import Muon

Role = Literal["matrix", "embedding", "head", "vector"]


class GroupRule(NamedTuple):
    """How the parameters of a role move."""

    algorithm: Literal["adamw", "muon", "sgd"]
    learning_rate: str  # the config's field that holds its peak
    decays: bool


# Muon (Keller Jordan et al., kellerjordan.github.io/posts/muon) is meant for the matrices between hidden layers.
# Embeddings and head are lookups in disguise: AdamW serves them better, and without decay, as in nanochat.
RULES: dict[str, dict[Role, GroupRule]] = {
    "adamw": {
        "matrix": GroupRule("adamw", "learning_rate", decays=True),
        "embedding": GroupRule("adamw", "learning_rate", decays=True),
        "head": GroupRule("adamw", "learning_rate", decays=True),
        "vector": GroupRule("adamw", "learning_rate", decays=False),
    },
    "muon": {
        "matrix": GroupRule("muon", "matrix_learning_rate", decays=True),
        "embedding": GroupRule("adamw", "embedding_learning_rate", decays=False),
        "head": GroupRule("adamw", "head_learning_rate", decays=False),
        "vector": GroupRule("adamw", "learning_rate", decays=False),
    },
    "sgd": {
        "matrix": GroupRule("sgd", "learning_rate", decays=True),
        "embedding": GroupRule("sgd", "learning_rate", decays=True),
        "head": GroupRule("sgd", "learning_rate", decays=True),
        "vector": GroupRule("sgd", "learning_rate", decays=False),
    },
}


def role(name: str, parameter: nn.Parameter) -> Role:
    """The one role of a named parameter; a tied head is its embedding."""
    if parameter.dim() < 2:
        return "vector"
    if name in ("wte.weight", "wpe.weight"):
        return "embedding"
    return "head" if name == "lm_head.weight" else "matrix"


def peak_lrs(config: OptimizerConfig) -> dict[str, float]:
    """The peaks that the rules of this optimizer read, learning_rate first; those that follow it are left out."""
    names = dict.fromkeys(["learning_rate", *(rule.learning_rate for rule in RULES[config.name].values())])
    return {name: value for name in names if (value := getattr(config, name)) is not None}


def scale_lrs(config: OptimizerConfig, learning_rate: float) -> OptimizerConfig:
    """The same with this learning rate, and all other peaks alike; in two figures, so that a person can type them."""
    factor = learning_rate / config.learning_rate
    return config.model_copy(update={name: float(f"{factor * value:.1e}") for name, value in peak_lrs(config).items()})


class OptimizerContainer:
    """Several optimizers, each with parameters of its own, as one.

    Each group's `scale` is its peak learning rate as a multiple of the schedule's.
    """

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """Each parameter's moments; empty before its first step. What is written into them is written into the part."""
        return {p: part.state[p] for part in self.parts for group in part.param_groups for p in group["params"]}

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    config: OptimizerConfig,
    precision: str = "fp32",
) -> OptimizerContainer:
    """`config.name`'s rules over all parameters that learn; AdamW and SGD are fused where torch can.

    `precision` is what training computes in: where that is bf16, so are Muon's iterations. SGD's weight decay is
    torch's: added to the gradient, and so to the momentum, which Nesterov's rule looks ahead along (Sutskever et al.
    2013).
    """
    members: dict[GroupRule, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            members[RULES[config.name][role(name, parameter)]].append(parameter)
    groups: dict[str, list[dict[str, Any]]] = {"adamw": [], "muon": [], "sgd": []}
    for rule, parameters in members.items():
        peak = getattr(config, rule.learning_rate) or config.learning_rate
        decay = config.weight_decay if rule.decays else 0.0
        group = {"params": parameters, "lr": peak, "scale": peak / config.learning_rate, "weight_decay": decay}
        groups[rule.algorithm].append(group)
    parts: list[torch.optim.Optimizer] = []
    if groups["muon"]:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        parts.append(Muon(groups["muon"], momentum=config.momentum, dtype=dtype, by=config.orthogonalize))
    fused = all(p.device.type in ("cpu", "cuda", "mps") for moved in members.values() for p in moved)
    if groups["adamw"]:
        betas = (config.beta1, config.beta2)
        parts.append(torch.optim.AdamW(groups["adamw"], betas=betas, eps=config.eps, fused=fused))
    if groups["sgd"]:
        momentum = config.momentum
        parts.append(torch.optim.SGD(groups["sgd"], momentum=momentum, nesterov=momentum > 0, fused=fused))
    return OptimizerContainer(parts)
