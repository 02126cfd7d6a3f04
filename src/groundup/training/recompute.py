"""Activation checkpointing (arXiv:1604.06174): blocks that keep their input alone, and are computed twice.

A third more work, and far less memory: `model/memory.py` has the formula.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(model: nn.Module) -> None:
    """Let each block in `model.h` be computed anew in the backward pass, while it trains and gradients are recorded.

    Names of parameters, values and gradients stay what they are, bit for bit, dropout included: the generator's state
    is kept with the input, and set again for the second time.
    """
    blocks = model.h
    assert isinstance(blocks, nn.ModuleList), "a stack of blocks"
    for block in blocks:
        draws = any(getattr(part, "p", 0) or getattr(part, "dropout", 0) for part in block.modules())
        block.forward = partial(_recomputed, block, draws)


def _recomputed(block: nn.Module, draws: bool, *inputs: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=draws)
