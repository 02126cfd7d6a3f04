"""Weights of a finished model in bf16 or int8: half or a quarter of the memory, for generation and evaluation.

Applied from outside, as fused kernels are: the modules of the model stay as they are but for their linear layers.
Letters: O outputs, I inputs of a layer, G groups of up to `GROUP` inputs.
"""

from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Quantization = Literal["none", "bf16", "int8"]
GROUP = 64  # inputs of a row that share a scale
MAX_INT8 = 127
Model = TypeVar("Model", bound=nn.Module)


class PackedLinear(nn.Module):
    """Linear layer with weights in fewer bits, that computes in fp32.

    The buffer `packed`, (O, I), is bf16; or int8, times a `scale` for each group of `GROUP` inputs of a row, (O, G) in
    fp32. `weight` is the same in fp32: for other modules, the layer is an nn.Linear without gradients. It is
    computed at each access and not stored, so that at most one layer's fp32 weight is in memory.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, kind: Quantization) -> None:
        """Pack a weight, (O, I)."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        packed, scale = pack_int8(weight) if kind == "int8" else (weight.to(torch.bfloat16), None)
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self.packed: Tensor
        self.scale: Tensor | None
        self.bias: Tensor | None

    @property
    def weight(self) -> Tensor:
        """The weight in fp32, (O, I)."""
        return self.packed.float() if self.scale is None else unpack_int8(self.packed, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) -> (…, O)."""
        return F.linear(x, self.weight, self.bias)


def pack_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(O, I) in fp32 as integers from -127 to 127, (O, I), and the scale of each group of a row, (O, G).

    A scale is the group's largest magnitude / 127, so that no weight is wrong by more than half of it. The last group
    of a row may be shorter.
    """
    outputs, inputs = weight.shape
    groups = F.pad(weight.float(), (0, -inputs % GROUP)).view(outputs, -1, GROUP)  # (O, G, GROUP), a copy
    scale = torch.linalg.vector_norm(groups, torch.inf, dim=2) / MAX_INT8
    divisor = scale.where(scale > 0, 1)  # a group of zeros
    packed = groups.div_(divisor[:, :, None]).round_().clamp_(-MAX_INT8, MAX_INT8).to(torch.int8)
    return packed.flatten(1)[:, :inputs].contiguous(), scale


def unpack_int8(packed: Tensor, scale: Tensor) -> Tensor:
    """The inverse of `pack_int8` but for its rounding: (O, I) and (O, G) -> (O, I) in fp32."""
    weight, whole = packed.float(), packed.size(1) // GROUP
    weight[:, : whole * GROUP].view(len(weight), whole, GROUP).mul_(scale[:, :whole, None])
    weight[:, whole * GROUP :].mul_(scale[:, whole:])
    return weight


@torch.no_grad()
def quantize(model: Model, kind: Quantization) -> Model:
    """Pack every linear layer of a finished model, the head included; returns it, changed in place.

    Embeddings, norms, biases and n-gram tables stay in fp32. Of a head that is tied to the embedding, the embedding
    keeps fp32 rows to look up, and the head gets a packed copy. `none`: no-op. On a GPU, bf16 is what everything
    becomes, as its units take nothing else: weights, activations and caches.
    """
    if kind == "none":
        return model
    if kind == "bf16" and next(model.parameters()).device.type != "cpu":
        return model.bfloat16()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                bias = None if layer.bias is None else layer.bias.detach()
                setattr(parent, name, PackedLinear(layer.weight.detach(), bias, kind))
    return model
