"""Optimizers for groups of parameters: each parameter has a role, and each role a rule."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from groundup.config.sections import OptimizerConfig
from groundup.distributed.dtensor import is_sharded
from groundup.optim.muon import Muon

Role = Literal["matrix", "embedding", "head", "vector"]


class GroupRule(NamedTuple):
    """Update rule of the parameters of a role."""

    algorithm: Literal["adamw", "muon", "sgd"]
    learning_rate: str  # the config's field with its peak
    decays: bool


def _one_rule(algorithm: Literal["adamw", "sgd"]) -> dict[Role, GroupRule]:
    """The same for all roles, except that vectors do not decay."""
    return {role: GroupRule(algorithm, "learning_rate", decays=role != "vector") for role in get_args(Role)}


# Muon (Keller Jordan et al., kellerjordan.github.io/posts/muon) is meant for the matrices between hidden layers.
# AdamW serves embeddings and head better, without decay, as in nanochat.
RULES: dict[str, dict[Role, GroupRule]] = {
    "adamw": _one_rule("adamw"),
    "muon": {
        "matrix": GroupRule("muon", "matrix_learning_rate", decays=True),
        "embedding": GroupRule("adamw", "embedding_learning_rate", decays=False),
        "head": GroupRule("adamw", "head_learning_rate", decays=False),
        "vector": GroupRule("adamw", "learning_rate", decays=False),
    },
    "sgd": _one_rule("sgd"),
}


def role(name: str, dimensions: int) -> Role:
    """Role of a named parameter with so many dimensions; a tied head is an embedding."""
    if dimensions < 2:
        return "vector"
    if name in ("wte.weight", "wpe.weight"):
        return "embedding"
    return "head" if name == "lm_head.weight" else "matrix"


def peak_lrs(config: OptimizerConfig) -> dict[str, float]:
    """Peak learning rates that this optimizer's rules read, by field, learning_rate first; without unset ones."""
    names = dict.fromkeys(["learning_rate", *(rule.learning_rate for rule in RULES[config.name].values())])
    return {name: value for name in names if (value := getattr(config, name)) is not None}


def scale_lrs(config: OptimizerConfig, learning_rate: float) -> OptimizerConfig:
    """The config with this learning rate and all other peaks scaled alike, in two digits, easy to type."""
    factor = learning_rate / config.learning_rate
    return config.model_copy(update={name: float(f"{factor * value:.1e}") for name, value in peak_lrs(config).items()})


class OptimizerContainer:
    """Several optimizers with disjoint parameters, used as one.

    The `scale` of each group is its peak learning rate as a multiple of the schedule's.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """Optimizer state of each parameter, empty before its first step; the dictionaries are the optimizers' own."""
        return {p: o.state[p] for o in self.optimizers for group in o.param_groups for p in group["params"]}

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig, precision: str = "fp32"
) -> OptimizerContainer:
    """The rules of `config.name` over all parameters that require gradients; AdamW and SGD are fused where possible.

    `precision` is that of training: with bf16, Muon's iterations are in bf16 too. SGD's weight decay is torch's: added
    to the gradient, and so to the Nesterov momentum (Sutskever et al. 2013).
    """
    members: dict[GroupRule, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            members[RULES[config.name][role(name, parameter.dim())]].append(parameter)
    groups: dict[str, list[dict[str, Any]]] = {"adamw": [], "muon": [], "sgd": []}
    for rule, parameters in members.items():
        peak = getattr(config, rule.learning_rate) or config.learning_rate
        decay = config.weight_decay if rule.decays else 0.0
        group = {"params": parameters, "lr": peak, "scale": peak / config.learning_rate, "weight_decay": decay}
        groups[rule.algorithm].append(group)
    optimizers: list[torch.optim.Optimizer] = []
    if groups["muon"]:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        optimizers.append(Muon(groups["muon"], momentum=config.momentum, dtype=dtype, method=config.orthogonalize))
    parameters = [parameter for moved in members.values() for parameter in moved]
    fused = all(parameter.device.type in ("cpu", "cuda", "mps") for parameter in parameters)
    if groups["adamw"]:
        betas = (config.beta1, config.beta2)
        optimizers.append(torch.optim.AdamW(groups["adamw"], betas=betas, eps=config.eps, fused=fused))
    if groups["sgd"]:
        momentum, fused = config.momentum, fused and not any(is_sharded(parameter) for parameter in parameters)
        optimizers.append(torch.optim.SGD(groups["sgd"], momentum=momentum, nesterov=momentum > 0, fused=fused))
    return OptimizerContainer(optimizers)


def state_shapes(config: OptimizerConfig, learned: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the state that an optimizer has after a step, by `parameter|key`, given those of its parameters."""
    keys = {
        "adamw": ("step", "exp_avg", "exp_avg_sq"),
        "muon": ("momentum_buffer",),
        "sgd": ("momentum_buffer",) if config.momentum else (),
    }
    return {
        f"{name}|{key}": () if key == "step" else shape
        for name, shape in learned.items()
        for key in keys[RULES[config.name][role(name, len(shape))].algorithm]
    }
