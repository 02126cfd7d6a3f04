"""What the backward pass computes again instead of keeping (activation checkpointing, arXiv:1604.06174).

`cheap` computes norms and nonlinearities again: what they give is kept for the matrix product that reads it and for
nothing else, and is a third of what a block keeps. `blocks` computes whole blocks
again: they keep their input alone, for a third more work. `model/memory.py` has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def apply_activation_checkpointing(model: nn.Module, what: str) -> None:
    """Let `what` there is in each block of `model.h` be computed anew in the backward pass, while it trains.

    Names of parameters, values and gradients stay what they are, bit for bit, dropout included.
    """
    blocks = model.h
    assert isinstance(blocks, nn.ModuleList), "a stack of blocks"
    for block in blocks:
        if what == "full":
            draws = any(getattr(part, "p", 0) or getattr(part, "dropout", 0) for part in block.modules())
            block.forward = partial(_whole, block, draws)
        elif what == "selective":
            _join(block)


def _whole(block: nn.Module, draws: bool, *inputs: Any) -> Any:
    """The generator's state is kept with the input, and set again for the second time."""
    forward = partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=draws)


def _join(block: Any) -> None:
    """Make each part that is cheap a part of the product that reads it."""
    parts: list[tuple[Callable[[Tensor], Tensor], nn.Linear]] = [(block.mlp.activation, block.mlp.c_proj)]
    block.mlp.activation = _as_it_is
    if not block.ends_normed:  # else what the norms give is the stream itself, which is kept anyway
        for norm, product in ((block.ln_1, block.attn.c_attn), (block.ln_2, block.mlp.c_fc)):
            parts.append((partial(type(norm).forward, norm), product))
            norm.forward = _as_it_is
    for cheap, product in parts:
        product.forward = partial(_joined, product, cheap)  # type: ignore[method-assign]


def _joined(product: nn.Linear, cheap: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    def both(x: Tensor) -> Tensor:
        return F.linear(cheap(x), product.weight, product.bias)

    if not (product.training and torch.is_grad_enabled()):
        return both(x)
    # The second time ends where the product has what it needs, before it is computed.
    return checkpoint(both, x, use_reentrant=False, preserve_rng_state=False)


def _as_it_is(x: Tensor) -> Tensor:
    return x
