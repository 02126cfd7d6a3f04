"""The parts of a GPT block, and the tables that name them.

Letters: B batch, T time, C width (`n_embd`), H heads, D head width, I inner width (`n_inner`).
Submodules are named as in the released GPT-2 weights (c_attn, c_proj, c_fc), so that those load by name.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from groundup.config.model import ModelConfig
from groundup.model.context import Context
from groundup.model.norms import norm
from groundup.model.positions import Rotation


class Attention(nn.Module):
    """Multi-head self-attention (arXiv:1706.03762, section 3.2); the context decides what each token attends to."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head, self.dropout = layer, config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.qk_norm = norm(config, width=config.n_embd // config.n_head, present=config.qk_norm == "after_rotary")
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor, context: Context, rotation: Rotation) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        # Split before the view: the gradients of q, k and v then join without a copy.
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=2))
        q, k = self.position(q, k, rotation)
        y = context.attend(self.layer, q, k, v, self.dropout if self.training else 0.0)  # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))

    def position(self, q: Tensor, k: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Queries and keys rotated by position, then normalised: twice (B, H, T, D) to the same."""
        return self.qk_norm(rotation.apply(q)), self.qk_norm(rotation.apply(k))


class Qwen3Attention(Attention):
    """Attention that normalises queries and keys with a norm for each, before the rotation (arXiv:2505.09388)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.q_norm, self.k_norm = (norm(config, width=config.n_embd // config.n_head) for _ in "qk")

    @override
    def position(self, q: Tensor, k: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        return rotation.apply(self.q_norm(q)), rotation.apply(self.k_norm(k))


ATTENTIONS: dict[str, type[Attention]] = {
    "none": Attention,
    "after_rotary": Attention,
    "before_rotary": Qwen3Attention,
}
"""By how queries and keys are normalised, `qk_norm`."""


def gelu_tanh(x: Tensor) -> Tensor:
    """Approximate GELU, as in GPT-1 and GPT-2 (arXiv:1606.08415, section 2)."""
    return F.gelu(x, approximate="tanh")


def relu2(x: Tensor) -> Tensor:
    """Squared ReLU (arXiv:2109.08668)."""
    return F.relu(x).square()


def swiglu(gate: Tensor, x: Tensor) -> Tensor:
    """`x` times the SiLU of a gate, gate · sigmoid(gate) (arXiv:2002.05202)."""
    return F.silu(gate) * x


ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "gelu_tanh": gelu_tanh,
    "gelu": F.gelu,
    "relu": F.relu,
    "relu2": relu2,
    "swiglu": swiglu,
}


class FeedForward(nn.Module):
    """Two linear layers around a nonlinearity, applied to each token alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.inner, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]
        self.c_proj = nn.Linear(config.inner, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.c_proj(self.activation(self.c_fc(x)))  # through (B, T, I)


class GatedFeedForward(FeedForward):
    """Feed-forward layer whose nonlinearity takes two projections of its input, a gate and a value."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.c_gate = nn.Linear(config.n_embd, config.inner, bias=config.bias)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.activation(self.c_gate(x), self.c_fc(x)))  # through twice (B, T, I)


class PreNorm(nn.Module):
    """GPT-2's block: each branch reads a normalised copy of the residual stream and adds to the stream itself."""

    ends_normed = False  # the stream leaves as it is, so a norm must follow the last block

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = norm(config)
        self.attn = ATTENTIONS[config.qk_norm](config, layer)
        self.ln_2 = norm(config)
        self.mlp = GatedFeedForward(config) if config.is_gated else FeedForward(config)
        self.drop = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x: Tensor, context: Context, rotation: Rotation) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.drop(self.attn(self.ln_1(x), context, rotation))
        return x + self.drop(self.mlp(self.ln_2(x)))


class PostNorm(PreNorm):
    """GPT-1's block, and the original transformer's: the sum of stream and branch is normalised."""

    ends_normed = True

    @override
    def forward(self, x: Tensor, context: Context, rotation: Rotation) -> Tensor:
        x = self.ln_1(x + self.drop(self.attn(x, context, rotation)))
        return self.ln_2(x + self.drop(self.mlp(x)))


BLOCKS: dict[str, type[PreNorm]] = {"pre_norm": PreNorm, "post_norm": PostNorm}
