"""The parts of a GPT block, and the tables that name them.

Letters: B batch, T time, C width (`n_embd`), H heads, D head width, I inner width (`n_inner`).
Names of submodules are those of the released GPT-2 weights (c_attn, c_proj, c_fc), so that they load by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from groundup.config import ModelConfig
from groundup.model.context import Context

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": partial(F.gelu, approximate="tanh"),  # GPT-2's own form of arXiv:1606.08415
    "gelu": F.gelu,
    "relu": F.relu,
}


class Attention(nn.Module):
    """Multi-head self-attention; what a token may see is the context's business."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head = layer, config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(C, dim=2))
        # q, k, v are (B, H, T, D) each. Split before the view: the gradients then join without a copy.
        y = context.attend(self.layer, q, k, v, self.dropout if self.training else 0.0)  # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class FeedForward(nn.Module):
    """Two linear layers around a nonlinearity, each token by itself."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.inner, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]
        self.c_proj = nn.Linear(config.inner, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.c_proj(self.activation(self.c_fc(x)))  # through (B, T, I)


class Block(nn.Module):
    """Pre-norm: each branch reads a normalised copy of the residual stream and adds to the stream itself."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = FeedForward(config)
        self.drop = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.drop(self.attn(self.ln_1(x), context))
        return x + self.drop(self.mlp(self.ln_2(x)))


def _gpt2_std(name: str, n_layer: int) -> float:
    # Each block adds to the stream twice, so its variance would grow with depth (GPT-2 paper, section 2.3).
    return 0.02 / math.sqrt(2 * n_layer) if name.endswith("c_proj.weight") else 0.02


def _gpt2_released_std(name: str, n_layer: int) -> float:
    # OpenAI's published code scales nothing and draws positions from N(0, 0.01) (openai/gpt-2, src/model.py).
    return 0.01 if name == "wpe.weight" else 0.02


INITS: dict[str, Callable[[str, int], float]] = {"gpt2": _gpt2_std, "gpt2-released": _gpt2_released_std}
"""Standard deviation of a matrix at the start, from its name and the number of blocks."""
