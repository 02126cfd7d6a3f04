"""Elementwise functions of a GPT block, each in one pass over memory and with a backward pass of its own.

Every function is defined by the torch code that it falls back on: on GPUs, under torch.compile, for shapes and types
that the C++ does not support, and without a compiler. Both agree up to rounding.

Letters: B batch, T time, H heads, D head width, C = H·D.
"""

import ctypes
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from groundup.kernels.cpu_build import MAX_HEAD_WIDTH, library

BLOCK_ROWS = 64  # in whose order the C++ adds up gradients of weights
SUFFIXES = {torch.float32: "fp32", torch.bfloat16: "bf16"}  # of the C++ functions' names
GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu_tanh": lambda dy, x: torch.ops.aten.gelu_backward(dy, x, approximate="tanh"),
    "relu_squared": lambda dy, x: 2 * dy * F.relu(x),
}


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x / √(mean(x²) + eps) over the last dimension (arXiv:1910.07467, without weights): any shape to the same."""
    if x.dtype == torch.float32 and _supported(x):
        return cast(Tensor, _apply(_RMSNorm, x, eps))
    return F.rms_norm(x, x.shape[-1:], eps=eps)


def scaled_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The same times a weight per number: (…, C) and (C,) -> (…, C)."""
    if x.dtype == weight.dtype == torch.float32 and _supported(x) and _supported(weight):
        return cast(Tensor, _apply(_ScaledRMSNorm, x, weight, eps))
    return F.rms_norm(x, x.shape[-1:], weight.type_as(x), eps)


def relu_squared(x: Tensor) -> Tensor:
    """max(0, x)² (arXiv:2109.08668): any shape to the same."""
    return cast(Tensor, _apply(_Elementwise, x, "relu_squared")) if _supported(x) else F.relu(x).square()


def gelu_tanh(x: Tensor) -> Tensor:
    """x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2 (arXiv:1606.08415, section 2): any shape to the same."""
    return cast(Tensor, _apply(_Elementwise, x, "gelu_tanh")) if _supported(x) else F.gelu(x, approximate="tanh")


def swiglu(gate: Tensor, x: Tensor) -> Tensor:
    """x·gate·sigmoid(gate) (arXiv:2002.05202): two tensors of one shape to the same."""
    if gate.dtype == x.dtype and gate.shape == x.shape and _supported(gate) and _supported(x):
        return cast(Tensor, _apply(_SwiGLU, gate, x))
    return F.silu(gate) * x


def rotary_qk_norm(qkv: Tensor, cos: Tensor, sin: Tensor, n_head: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys, rotated by their positions and RMS-normalised, and values: (B, T, 3C) -> three (B, H, T, D).

    `cos` and `sin` are (T, D) or (B, 1, T, D): each angle twice, the second half of the sines negated.
    """
    D = cos.size(-1)
    per_position = cos.dtype == sin.dtype == torch.float32 and cos.shape == sin.shape == (qkv.size(1), D)
    if per_position and D <= MAX_HEAD_WIDTH and D % 2 == 0 and _supported(qkv):
        q, k, v = cast(list[Tensor], _apply(_RotaryQKNorm, qkv, cos, sin, n_head, eps))
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    B, T, _ = qkv.shape
    q, k, v = (part.view(B, T, n_head, -1).transpose(1, 2) for part in qkv.chunk(3, dim=2))
    q, k = (F.rms_norm(apply_rotary(part, cos, sin), part.shape[-1:], eps=eps) for part in (q, k))
    return q, k, v


def qk_norm_rotary(
    qkv: Tensor, weights: Tensor, cos: Tensor, sin: Tensor, n_head: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys, RMS-normalised with `weights`, (2, D), and then rotated, and values, as `rotary_qk_norm`."""
    D = cos.size(-1)
    per_position = cos.dtype == sin.dtype == torch.float32 and cos.shape == sin.shape == (qkv.size(1), D)
    narrow = D <= MAX_HEAD_WIDTH and D % 2 == 0
    if per_position and narrow and weights.dtype == torch.float32 and _supported(qkv) and _supported(weights):
        q, k, v = cast(list[Tensor], _apply(_QKNormRotary, qkv, weights, cos, sin, n_head, eps))
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    B, T, _ = qkv.shape
    q, k, v = (part.view(B, T, n_head, -1).transpose(1, 2) for part in qkv.chunk(3, dim=2))
    q, k = (F.rms_norm(x, x.shape[-1:], w.type_as(x), eps) for x, w in zip((q, k), weights, strict=True))
    return apply_rotary(q, cos, sin), apply_rotary(k, cos, sin), v


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of numbers rotated by the angles of their positions (arXiv:2104.09864): (B, H, T, D) to the same."""
    cos, sin = cos.type_as(x), sin.type_as(x)
    return x * cos + x.roll(x.size(-1) // 2, -1) * sin


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`Function.apply`, which torch leaves without types."""
    return function.apply(*arguments)  # type: ignore[no-untyped-call]


def _supported(x: Tensor) -> bool:
    """Whether the C++ can compute with `x`."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter):
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return False
    plain = x.device.type == "cpu" and x.dtype in SUFFIXES and x.is_contiguous() and x.numel() > 0
    return plain and library() is not None


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    compiled = library()
    assert compiled is not None, "checked by _supported"
    types = {int: ctypes.c_int64, float: ctypes.c_float}
    getattr(compiled, f"{name}_{SUFFIXES[dtype]}")(
        *(ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else types[type(a)](a) for a in arguments)
    )


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        width = x.size(-1)
        y, scale = torch.empty_like(x), x.new_empty(x.numel() // width)
        _call("rms_norm", x.dtype, x, y, scale, scale.numel(), width, eps)
        ctx.save_for_backward(x, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, scale = ctx.saved_tensors
        dx = torch.empty_like(x)
        _call("rms_norm_backward", x.dtype, dy.contiguous(), x, scale, dx, scale.numel(), x.size(-1))
        return dx, None


class _ScaledRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        width = x.size(-1)
        y, scale = torch.empty_like(x), x.new_empty(x.numel() // width)
        _call("scaled_rms_norm", x.dtype, x, weight, y, scale, scale.numel(), width, eps)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        rows, width = scale.numel(), x.size(-1)
        dx, dw, sums = torch.empty_like(x), torch.empty_like(weight), x.new_empty(-(-rows // BLOCK_ROWS) * width)
        _call("scaled_rms_norm_backward", x.dtype, dy.contiguous(), x, weight, scale, dx, dw, sums, rows, width)
        return dx, dw, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        _call("swiglu", x.dtype, gate, x, y, x.numel())
        ctx.save_for_backward(gate, x)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        gate, x = ctx.saved_tensors
        if torch.is_grad_enabled():  # for the gradient of a gradient, which torch's own functions have
            s = gate.sigmoid()
            return dy * x * s * (1 + gate * (1 - s)), dy * gate * s
        dgate, dx = torch.empty_like(gate), torch.empty_like(x)
        _call("swiglu_backward", x.dtype, dy.contiguous(), gate, x, dgate, dx, x.numel())
        return dgate, dx


class _Elementwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        y = torch.empty_like(x)
        _call(name, x.dtype, x, y, x.numel())
        ctx.save_for_backward(x)
        ctx.name = name
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # for the gradient of a gradient, which torch's own functions have
            return GRADIENTS[ctx.name](dy, x), None
        dx = torch.empty_like(x)
        _call(f"{ctx.name}_backward", x.dtype, dy.contiguous(), x, dx, x.numel())
        return dx, None


class _RotaryQKNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, n_head: int, eps: float) -> Any:
        B, T, D = qkv.size(0), qkv.size(1), cos.size(-1)
        q, k = qkv.new_empty(2, B, T, n_head, D).unbind()
        _call("rotary_qk_norm", qkv.dtype, qkv, cos, sin, q, k, B, T, n_head, D, eps)
        ctx.save_for_backward(qkv, cos, sin)
        ctx.n_head, ctx.eps = n_head, eps
        return q, k, qkv.view(B, T, 3, n_head, D)[:, :, 2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        qkv, cos, sin = ctx.saved_tensors
        B, T, D = qkv.size(0), qkv.size(1), cos.size(-1)
        dense = [g if g.stride(-1) == 1 else g.contiguous() for g in gradients]
        strides = torch.tensor([[g.stride(0), g.stride(1), g.stride(2)] for g in dense])
        d = torch.empty_like(qkv)
        _call("rotary_qk_norm_backward", qkv.dtype, qkv, cos, sin, *dense, strides, d, B, T, ctx.n_head, D, ctx.eps)
        return d, None, None, None, None


class _QKNormRotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, weights: Tensor, cos: Tensor, sin: Tensor, n_head: int, eps: float) -> Any:
        B, T, D = qkv.size(0), qkv.size(1), cos.size(-1)
        q, k = qkv.new_empty(2, B, T, n_head, D).unbind()
        _call("qk_norm_rotary", qkv.dtype, qkv, weights, cos, sin, q, k, B, T, n_head, D, eps)
        ctx.save_for_backward(qkv, weights, cos, sin)
        ctx.n_head, ctx.eps = n_head, eps
        return q, k, qkv.view(B, T, 3, n_head, D)[:, :, 2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        qkv, weights, cos, sin = ctx.saved_tensors
        B, T, D = qkv.size(0), qkv.size(1), cos.size(-1)
        dense = [g if g.stride(-1) == 1 else g.contiguous() for g in gradients]
        strides = torch.tensor([[g.stride(0), g.stride(1), g.stride(2)] for g in dense])
        d, dw = torch.empty_like(qkv), torch.empty_like(weights)
        sums = weights.new_empty(-(-B * T // BLOCK_ROWS), 2, D)
        inputs, outputs = (qkv, weights, cos, sin, *dense, strides), (d, dw, sums)
        _call("qk_norm_rotary_backward", qkv.dtype, *inputs, *outputs, B, T, ctx.n_head, D, ctx.eps)
        return d, dw, None, None, None, None
