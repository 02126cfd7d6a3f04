"""Which rule moves which parameter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from groundup.config import OptimizerConfig

Role = Literal["matrix", "embedding", "head", "vector"]

DECAYED: frozenset[Role] = frozenset({"matrix", "embedding", "head"})  # two or more dimensions


def role(name: str, parameter: nn.Parameter) -> Role:
    """The one role of a named parameter; a tied head is its embedding."""
    if parameter.dim() < 2:
        return "vector"
    if name in ("wte.weight", "wpe.weight"):
        return "embedding"
    return "head" if name == "lm_head.weight" else "matrix"


def build_adamw(named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over all parameters that learn, one group with weight decay and one without; fused where torch can."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            (decayed if role(name, parameter) in DECAYED else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    device = next(iter(decayed + plain)).device.type
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=device in ("cpu", "cuda", "mps"),
    )
