"""Models of which no part is at its initial value."""

import torch

from groundup.config.model import ModelConfig
from groundup.model import build_model
from groundup.model.gpt import GPT


def perturbed(config: ModelConfig) -> GPT:
    """A new model with noise on all parameters: some parts start at zero, where mistakes would not show."""
    gpt = build_model(config).init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for i, parameter in enumerate(gpt.parameters()):
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    return gpt
