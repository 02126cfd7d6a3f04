"""Fused CPU kernels for a finished model: the same functions in fewer passes over memory.

Applied from outside, as torch.compile and FSDP2 are, so that the modules themselves stay plain torch.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import override

from groundup.kernels import elementwise
from groundup.kernels.cpu_build import library
from groundup.model.blocks import Attention, FeedForward, Qwen3Attention, gelu_tanh, relu2, swiglu
from groundup.model.context import Context
from groundup.model.gpt import GPT
from groundup.model.norms import RMSNorm, ScaledRMSNorm
from groundup.model.positions import Rotary, RotaryPositions, Rotation

FUSED_ACTIVATIONS: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    gelu_tanh: elementwise.gelu_tanh,
    relu2: elementwise.relu_squared,
    swiglu: elementwise.swiglu,
}


class FusedRMSNorm(RMSNorm):
    """RMSNorm in one pass over memory."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return elementwise.rms_norm(x, self.eps)


class FusedScaledRMSNorm(ScaledRMSNorm):
    """RMSNorm with weights in one pass over memory."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return elementwise.scaled_rms_norm(x, self.weight, self.eps)


class FusedAttention(Attention):
    """Attention that splits, rotates and normalises queries and keys in one pass over memory.

    For rotary positions and an RMSNorm of queries and keys.
    """

    @override
    def forward(self, x: Tensor, context: Context, rotation: Rotation) -> Tensor:
        assert isinstance(rotation, Rotary), "the model has rotary positions"
        assert isinstance(self.qk_norm, RMSNorm), "the model has an RMSNorm of queries and keys"
        B, T, C = x.shape
        qkv, eps = self.c_attn(x), self.qk_norm.eps
        q, k, v = elementwise.rotary_qk_norm(qkv, rotation.cos, rotation.sin, self.n_head, eps)  # (B, H, T, D)
        y = context.attend(self.layer, q, k, v, self.dropout if self.training else 0.0)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class FusedQwen3Attention(Qwen3Attention):
    """The same for queries and keys that are normalised first, with weights."""

    @override
    def forward(self, x: Tensor, context: Context, rotation: Rotation) -> Tensor:
        assert isinstance(rotation, Rotary), "the model has rotary positions"
        q_norm, k_norm = self.q_norm, self.k_norm
        assert isinstance(q_norm, ScaledRMSNorm), "the model has RMSNorms with weights of queries and keys"
        assert isinstance(k_norm, ScaledRMSNorm), "the model has RMSNorms with weights of queries and keys"
        B, T, C = x.shape
        qkv, weights = self.c_attn(x), torch.stack([q_norm.weight, k_norm.weight])  # (B, T, 3C) and (2, D)
        q, k, v = elementwise.qk_norm_rotary(qkv, weights, rotation.cos, rotation.sin, self.n_head, q_norm.eps)
        y = context.attend(self.layer, q, k, v, self.dropout if self.training else 0.0)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


def use_fused_cpu_kernels(model: GPT) -> GPT:
    """Let a model on a CPU compute with fused kernels where they can be compiled; returns it, changed in place.

    Results are the same up to rounding. Apply before activation checkpointing, which replaces forward methods.
    """
    if model.lm_head.weight.device.type != "cpu" or library() is None:
        return model
    rotary = isinstance(model.wpe, RotaryPositions)
    for module in model.modules():
        if type(module) is RMSNorm:
            module.__class__ = FusedRMSNorm
        elif type(module) is Attention and isinstance(module.qk_norm, RMSNorm) and rotary:
            module.__class__ = FusedAttention
        elif type(module) is ScaledRMSNorm:
            module.__class__ = FusedScaledRMSNorm
        elif type(module) is Qwen3Attention and type(module.q_norm) is ScaledRMSNorm and rotary:
            module.__class__ = FusedQwen3Attention
        elif isinstance(module, FeedForward):
            module.activation = FUSED_ACTIVATIONS.get(module.activation, module.activation)
    return model
