"""A step of generation in one C++ call: all layers of a GPT and its head, for a few tokens (`decode.cpp`).

The structures hold the addresses of a model's tensors. The caller must keep these tensors allocated and not move them.

Letters: N tokens, C width, H heads, D head width, I inner width, V outputs of the head.
"""

import ctypes
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from groundup.kernels.cpu_build import Kernels, kernels

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
"""Types of weights."""

ACTIVATIONS = ("gelu_tanh", "gelu", "relu", "relu2", "swiglu")


class NormKind(IntEnum):
    """Kinds of norm: none, LayerNorm, RMSNorm."""

    NONE = 0
    LAYER = 1
    RMS = 2


class Matrix(ctypes.Structure):
    """A linear layer, x·Wᵀ + bias: (inputs,) -> (outputs,)."""

    _fields_ = (
        ("type", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class Norm(ctypes.Structure):
    """A norm over the last dimension, with a weight and a bias for each number where they are given."""

    _fields_ = (
        ("kind", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_double),
    )


class Layer(ctypes.Structure):
    """A block's parts, and where the keys and values of all slots are: (slots, H, context, D) each, fp32."""

    _fields_ = (
        *((name, Norm) for name in ("norm_1", "norm_2", "q_norm", "k_norm")),
        *((name, Matrix) for name in ("qkv", "attention_out", "up", "gate", "down")),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
    )


class Model(ctypes.Structure):
    """A GPT after its embeddings, to which a linear layer of `features` may be added (n-gram features).

    `cos` and `sin` as in `model.positions.RotaryPositions`, or null.
    """

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("layers", "width", "heads", "inner", "context", "activation")),
        *((name, ctypes.c_int64) for name in ("post_norm", "norm_before_rotation")),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("features", Matrix),
        ("embedding_norm", Norm),
        ("final_norm", Norm),
        ("head", Matrix),
        ("layer", ctypes.POINTER(Layer)),
    )


class Span(ctypes.Structure):
    """New tokens of one sequence: its slot, the position of the first of them, its row in the step, their number."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("slot", "position", "first_row", "rows"))


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers are; None for None."""
    return None if tensor is None else tensor.data_ptr()


def matrix(weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Matrix:
    """A linear layer with weights (outputs, inputs), fp32, bf16 or int8; `scale`, of int8: (outputs, groups)."""
    return Matrix(TYPES[weight.dtype], *weight.shape, address(weight), address(scale), address(bias))


def decode_kernels() -> Kernels:
    """The compiled functions, or the reason why there are none."""
    found = kernels("decode")
    if found.library is not None:
        found.library.decode_workspace.restype = ctypes.c_int64
    return found


class DecodeStep:
    """Calls the C++ for one model; not for two threads at once."""

    def __init__(self, library: ctypes.CDLL, model: Model) -> None:
        self._library, self._model = library, model
        self._workspace = torch.empty(0)

    def __call__(
        self, x: Tensor, features: Tensor | None, spans: Sequence[tuple[int, int, int]], logits: int, threads: int
    ) -> Tensor:
        """Logits of the last `logits` of N tokens from their embeddings, fp32: (N, C) -> (logits, V).

        `features`, (N, F), where the model has a layer for them. `spans`: slot, position of the first token, and number
        of tokens, for each sequence; keys and values of the tokens are written there. `x` is overwritten.
        """
        rows, table, first = len(x), (Span * len(spans))(), 0
        for span, (slot, position, n) in zip(table, spans, strict=True):
            span.slot, span.position, span.first_row, span.rows = slot, position, first, n
            first += n
        assert first == rows, "one row for each token"
        for tensor in (x, features):
            assert tensor is None or (tensor.is_contiguous() and tensor.dtype == torch.float32), "dense and fp32"
        out, model = torch.empty(logits, self._model.head.outputs), ctypes.byref(self._model)
        needed = self._library.decode_workspace(model, ctypes.c_int64(rows), ctypes.c_int64(threads))
        if needed > len(self._workspace):
            self._workspace = torch.empty(needed)
        self._library.decode(
            model, table, ctypes.c_int64(len(spans)), _pointer(x), _pointer(features), ctypes.c_int64(rows - logits),
            _pointer(out), _pointer(self._workspace), ctypes.c_int64(threads),
        )  # fmt: skip
        return out


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(address(tensor))
