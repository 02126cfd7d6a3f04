"""The rungs of `bench.ladder`: each known speed-up of a training step as one switch, and a training run with them.

All start from the same weights and see the same sequences, in the loop of `groundup train`. Variants that groundup
itself never uses, such as attention as separate operations, are defined here and not in the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contenders import Ours, Task, Trainee, init_model, open_setup
from bench.loss import full_logits
from groundup.config.model import ModelConfig
from groundup.config.sections import OptimizerConfig
from groundup.model.context import Causal, Context
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.optim.optimizer import OptimizerContainer
from groundup.utils.device import Name, choose_precision, set_matmul_precision


@dataclass(frozen=True)
class Switches:
    """Variant of a training step; by default everything is off."""

    rounding: Literal["highest", "high"] = "highest"  # of fp32 products on a GPU
    precision: Name = "fp32"
    backend: str = ""  # of torch.compile; empty: eager
    attention: str = "written out"
    adamw: str = "for-loop"
    vocab_multiple: int = 1
    loss: str = "whole"

    @property
    def arithmetic(self) -> str:
        """Precision of matrix products: fp32, tf32, bf16 or fp16."""
        return "tf32" if (self.precision, self.rounding) == ("fp32", "high") else self.precision


Idle = Callable[[torch.device, ModelConfig], str]  # why a rung is skipped here; empty if it is not


def never(device: torch.device, config: ModelConfig) -> str:
    """Never skipped."""
    return ""


def on_cpu(device: torch.device, config: ModelConfig) -> str:
    """Skipped on CPUs."""
    return "no effect on a CPU" if device.type == "cpu" else ""


def without_bf16(device: torch.device, config: ModelConfig) -> str:
    """Skipped on GPUs without bf16; a CPU without it emulates it, and the rung shows the cost."""
    return "" if device.type == "cpu" or auto(device) == "bf16" else "a GPU without bf16 units"


def better_in_bf16(device: torch.device, config: ModelConfig) -> str:
    """Skipped except on GPUs with fp16 but no bf16."""
    if device.type == "cpu":
        return "for GPUs without bf16 units"
    return {"bf16": "bf16 needs no scaler", "fp32": "a GPU without fp16 units"}.get(auto(device), "")


def auto(device: torch.device) -> Name:
    """Precision that `train.precision: auto` chooses on a GPU."""
    return choose_precision("auto", device).name


def nothing_to_pad(device: torch.device, config: ModelConfig) -> str:
    """Skipped if the vocabulary is a multiple of 64 already."""
    return f"{config.vocab:,} is a multiple of 64" if config.vocab % 64 == 0 else ""


@dataclass(frozen=True)
class Rung:
    """One speed-up."""

    key: str  # for --only
    name: str  # in the table
    changes: Mapping[str, str | int] = field(default_factory=dict)  # fields of Switches
    skip: Idle = never
    keep_if_faster: bool = True  # False: measured for comparison, never kept for the next


FIRST = Rung("first", "fp32, all of them off")
# In the order of the videos and projects that teach them.
RUNGS = (
    Rung("tf32", "TF32: float32_matmul_precision high", {"rounding": "high"}, on_cpu),
    Rung("bf16", "bf16 autocast", {"precision": "bf16"}, without_bf16),
    Rung("fp16", "fp16 autocast, with a scaler", {"precision": "fp16"}, better_in_bf16),
    Rung("aot_eager", "torch.compile, aot_eager", {"backend": "aot_eager"}, keep_if_faster=False),
    Rung("cudagraphs", "torch.compile, cudagraphs", {"backend": "cudagraphs"}, on_cpu, keep_if_faster=False),
    Rung("inductor", "torch.compile, inductor", {"backend": "inductor"}),
    Rung("sdpa", "scaled_dot_product_attention", {"attention": "sdpa"}),
    Rung("foreach", "AdamW, foreach", {"adamw": "foreach"}, keep_if_faster=False),
    Rung("fused", "AdamW, fused", {"adamw": "fused"}),
    Rung("padded", "vocabulary padded to a multiple of 64", {"vocab_multiple": 64}, nothing_to_pad),
    Rung("groundup", "loss by chunks, groundup's attention", {"loss": "chunks", "attention": "groundup"}),
)


class UnfusedAttention(Causal):
    """softmax(QKᵀ/√D)V as separate operations; all scores are kept for the backward pass."""

    def __init__(self, block_size: int, device: torch.device) -> None:
        self.future = torch.ones(block_size, block_size, dtype=torch.bool, device=device).triu(1)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Causal attention: three (B, H, T, D) to one."""
        T, D = q.shape[-2:]
        scores = (q @ k.mT) * D**-0.5  # (B, H, T, T)
        scores = scores.masked_fill(self.future[:T, :T], -torch.inf)
        return F.dropout(scores.softmax(-1), dropout) @ v


class FusedAttention(Causal):
    """torch's own kernel on every device and dtype."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Causal attention: three (B, H, T, D) to one."""
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


class FullLogitsLoss(nn.Module):
    """Summed cross-entropy from all logits at once."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """(B, T) and (B, T) -> scalar."""
        x = self.gpt.features(ids).flatten(0, 1)  # (B·T, C)
        return full_logits(x, self.gpt.head_weight, targets.flatten(), self.gpt.config.vocab)


ATTENTION: dict[str, Callable[[int, torch.device], Context]] = {
    "written out": UnfusedAttention,
    "sdpa": lambda block_size, device: FusedAttention(),
    "groundup": lambda block_size, device: Causal(),  # matrix products on a CPU if they are faster, else torch's kernel
}
LOSSES: dict[str, Callable[[GPT], nn.Module]] = {"whole": FullLogitsLoss, "chunks": NextTokenLoss}
ADAMW = {
    "for-loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True, "fused": False},
    "fused": {"foreach": False, "fused": True},
}


def weights(config: ModelConfig, vocab_multiple: int) -> GPT:
    """Model with the same weights for every multiple; padding rows are zero."""
    plain = init_model(config.model_copy(update={"vocab_multiple": 1}))
    padded = GPT(config.model_copy(update={"vocab_multiple": vocab_multiple}))
    pads = padded.config.padded_vocab - config.vocab
    state = plain.state_dict()
    for name in ("wte.weight", "lm_head.weight"):
        state[name] = F.pad(state[name], (0, 0, 0, pads))
    padded.load_state_dict(state)
    return padded


def adamw(built: OptimizerContainer, config: OptimizerConfig, way: str) -> OptimizerContainer:
    """AdamW over groundup's parameter groups, in one of torch's implementations."""
    names = ("params", "lr", "scale", "weight_decay")
    groups = [{name: group[name] for name in names} for group in built.param_groups]
    return OptimizerContainer(
        [torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps, **ADAMW[way])],
    )


@contextmanager
def trainee(switches: Switches, task: Task, device: torch.device) -> Iterator[Trainee]:
    """Set up a training run with these switches."""
    with open_setup(task) as setup:
        set_matmul_precision(switches.rounding, device)
        gpt = weights(task.config, switches.vocab_multiple).to(device)
        gpt.causal = ATTENTION[switches.attention](task.config.block_size, device)
        ours = Ours(gpt, task, setup.batches, setup.log, switches.precision)
        ours.loss_sum = LOSSES[switches.loss](gpt)
        ours.state.optimizer = adamw(ours.state.optimizer, task.adamw, switches.adamw)
        if switches.backend:
            ours.compile(switches.backend)
        yield ours
