"""Activation checkpointing: the backward pass recomputes activations instead of keeping them (arXiv:1604.06174).

`selective` recomputes norms and nonlinearities, whose outputs are kept only for the one matrix product that reads them
and are a third of what a block keeps. `full` recomputes complete blocks, which then keep their input alone, for a third
more work. `model/memory.py` has the formulas.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def apply_activation_checkpointing(model: nn.Module, mode: str) -> None:
    """Let the blocks of `model.h` recompute activations while training; `mode` is none, selective or full.

    Names of parameters, values and gradients stay the same, bit for bit, dropout included.
    """
    blocks = model.h
    assert isinstance(blocks, nn.ModuleList), "a stack of blocks"
    for block in blocks:
        if mode == "full":
            has_dropout = any(getattr(part, "p", 0) or getattr(part, "dropout", 0) for part in block.modules())
            block.forward = partial(_recomputed_block, block, has_dropout)
        elif mode == "selective":
            _recompute_elementwise(block)


def _recomputed_block(block: nn.Module, has_dropout: bool, *inputs: Any) -> Any:
    """With dropout, the generator's state is kept with the input and restored to recompute."""
    forward = partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=has_dropout)


def _recompute_elementwise(block: Any) -> None:
    """Move norms and the nonlinearity into the forward methods of the linear layers that read their outputs."""
    pairs: list[tuple[Callable[..., Tensor], nn.Linear]] = [(block.mlp.activation, block.mlp.c_proj)]
    block.mlp.activation = _pass_on
    if not block.ends_normed:  # post-norm's norms give the stream itself, which is kept anyway
        norms = [(block.ln_1, block.attn.c_attn)]
        if not hasattr(block.mlp, "c_gate"):  # else two products read the norm, and would each compute it
            norms.append((block.ln_2, block.mlp.c_fc))
        for norm, linear in norms:
            pairs.append((partial(type(norm).forward, norm), linear))
            norm.forward = _pass_on
    for function, linear in pairs:
        linear.forward = partial(_recomputed_linear, linear, function)  # type: ignore[method-assign]


def _recomputed_linear(linear: nn.Linear, function: Callable[..., Tensor], x: Tensor | tuple[Tensor, ...]) -> Tensor:
    def both(*inputs: Tensor) -> Tensor:
        return F.linear(function(*inputs), linear.weight, linear.bias)

    inputs = x if isinstance(x, tuple) else (x,)
    if not (linear.training and torch.is_grad_enabled()):
        return both(*inputs)
    # Recomputation ends where the product has its input; the product itself is not computed again.
    return checkpoint(both, *inputs, use_reentrant=False, preserve_rng_state=False)


def _pass_on(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
    """The input itself; of a gated nonlinearity, both."""
    return inputs if len(inputs) > 1 else inputs[0]
