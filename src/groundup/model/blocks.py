"""The parts of a GPT block, and the tables that name them.

Letters: B batch, T time, C width (`n_embd`), H heads, D head width, I inner width (`n_inner`).
Names of submodules are those of the released GPT-2 weights (c_attn, c_proj, c_fc), so that they load by name.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from groundup.config.model import ModelConfig
from groundup.kernels.elementwise import gelu_tanh, relu_squared
from groundup.model.context import Context
from groundup.model.norms import norm
from groundup.model.positions import Rotation

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": gelu_tanh,  # GPT-1's and GPT-2's own form of arXiv:1606.08415
    "gelu": F.gelu,
    "relu": F.relu,
    "relu2": relu_squared,
}


class Attention(nn.Module):
    """Multi-head self-attention; what a token may see is the context's business."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head = layer, config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.qk_norm = norm(config, width=config.n_embd // config.n_head, present=config.qk_norm)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor, context: Context, rotate: Rotation) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        q, k, v = rotate.heads(self.c_attn(x), self.n_head, self.qk_norm)  # (B, H, T, D) each
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


class PreNorm(nn.Module):
    """GPT-2's block: each branch reads a normalised copy of the residual stream and adds to the stream itself."""

    ends_normed = False  # the stream leaves as it is, so a norm must follow the last block

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = norm(config)
        self.attn = Attention(config, layer)
        self.ln_2 = norm(config)
        self.mlp = FeedForward(config)
        self.drop = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x: Tensor, context: Context, rotate: Rotation) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.drop(self.attn(self.ln_1(x), context, rotate))
        return x + self.drop(self.mlp(self.ln_2(x)))


class PostNorm(PreNorm):
    """GPT-1's block, and the original transformer's: the sum of stream and branch is normalised."""

    ends_normed = True

    def forward(self, x: Tensor, context: Context, rotate: Rotation) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = self.ln_1(x + self.drop(self.attn(x, context, rotate)))
        return self.ln_2(x + self.drop(self.mlp(x)))


BLOCKS: dict[str, type[PreNorm]] = {"pre_norm": PreNorm, "post_norm": PostNorm}
