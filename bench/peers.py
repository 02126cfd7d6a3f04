"""Other projects' models with a groundup model's weights, made from installed packages and checkouts.

All compute exact GPT-2 as in nanoGPT's train.py, so that their losses can be compared: exact GELU, and if the task has
no biases, a peer's biases stay at zero and are not trained. Only litgpt differs: it has no learned positions and no
tied head. No peer's code is in this repository.
"""

from __future__ import annotations

import ast
import inspect
import math
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contenders import Peer
from bench.nanogpt import quiet, twin
from groundup.config.sections import OptimizerConfig
from groundup.errors import UsageError
from groundup.model.gpt import GPT

CLASSES = ("CausalSelfAttention", "MLP", "Block", "GPTConfig", "GPT")
CLONE_BUILD = "git clone https://github.com/karpathy/build-nanogpt"
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


@dataclass(frozen=True)
class Checkouts:
    """Checkouts of peers."""

    nanogpt: Path | None = None
    build_nanogpt: Path | None = None

    def check(self) -> None:
        """UsageError for a folder that is not such a checkout."""
        for option, folder, name in (
            ("--nanogpt", self.nanogpt, "model.py"),
            ("--build-nanogpt", self.build_nanogpt, "train_gpt2.py"),
        ):
            if folder and not (folder / name).is_file():
                raise UsageError(f"{option}: there is no {folder / name}; give the folder of a checkout")


def nanogpt(gpt: GPT, adamw: OptimizerConfig, checkouts: Checkouts) -> Peer:
    """nanoGPT's model.py with the optimizer of its own `configure_optimizers`."""
    assert checkouts.nanogpt is not None, "available only with a checkout"
    device = gpt.wte.weight.device
    model = twin(gpt, checkouts.nanogpt).to(device)
    with quiet():
        optimizer = model.configure_optimizers(
            adamw.weight_decay, adamw.learning_rate, (adamw.beta1, adamw.beta2), device.type
        )
    return Peer(model, _second, optimizer)


def build_nanogpt(gpt: GPT, adamw: OptimizerConfig, checkouts: Checkouts) -> Peer:
    """The classes of build-nanogpt's train_gpt2.py, which trains when imported."""
    assert checkouts.build_nanogpt is not None, "available only with a checkout"
    found = classes(checkouts.build_nanogpt / "train_gpt2.py", CLASSES)
    config, device = gpt.config, gpt.wte.weight.device
    shape = {name: getattr(config, name) for name in ("block_size", "n_layer", "n_head", "n_embd")}
    model: Any = found["GPT"](found["GPTConfig"](vocab_size=config.vocab, **shape)).to(device)
    for block in model.transformer.h:
        block.mlp.gelu.approximate = "none"
    fill(model, _named(gpt), config.bias)
    optimizer = model.configure_optimizers(adamw.weight_decay, adamw.learning_rate, device.type)
    for group in optimizer.param_groups:  # it has a single pair
        group["betas"] = (adamw.beta1, adamw.beta2)
    return Peer(model, _second, optimizer)


def transformers(gpt: GPT, adamw: OptimizerConfig, checkouts: Checkouts) -> Peer:
    """`GPT2LMHeadModel`, with the fused AdamW of its Trainer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = gpt.config
    shape = {"n_positions": config.block_size, "n_layer": config.n_layer, "n_head": config.n_head}
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    peer_config = GPT2Config(
        vocab_size=config.vocab, n_embd=config.n_embd, activation_function="gelu", use_cache=False,
        **shape, **dropouts, **ends,
    )  # fmt: skip
    model: Any = GPT2LMHeadModel(peer_config)
    fill(model, {name: t.T if name.endswith(TRANSPOSED) else t for name, t in _named(gpt).items()}, config.bias)
    return Peer(model, _shifted, _adamw(model, adamw, fused=True))


def litgpt(gpt: GPT, adamw: OptimizerConfig, checkouts: Checkouts) -> Peer:
    """litgpt's GPT of this shape, rotary and untied, with its own weights, and the loss and AdamW of its `pretrain`."""
    from litgpt.model import GPT as Model  # noqa: N811 - our class has this name
    from litgpt.model import Config
    from litgpt.utils import chunked_cross_entropy

    config = gpt.config
    shape = {name: getattr(config, name) for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd")}
    peer_config = Config(**shape, padded_vocab_size=config.padded_vocab, bias=config.bias, parallel_residual=False)
    model = Model(peer_config)
    return Peer(model, lambda m, ids, targets: chunked_cross_entropy(m(ids), targets), _adamw(model, adamw))


MAKERS = {"nanoGPT": nanogpt, "build-nanogpt": build_nanogpt, "transformers": transformers, "litgpt": litgpt}


def available(checkouts: Checkouts) -> list[str]:
    """Names of the peers that can be built here."""
    found = {
        "nanoGPT": checkouts.nanogpt,
        "build-nanogpt": checkouts.build_nanogpt,
        "transformers": find_spec("transformers"),
        "litgpt": find_spec("litgpt"),
    }
    return [name for name, there in found.items() if there]


def classes(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Top-level classes of a program whose other code is not run; UsageError if one is missing."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wanted = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in names]
    if missing := set(names) - {node.name for node in wanted}:
        raise UsageError(f"{path}: has no class {min(missing)}; give a newer or older checkout")
    module = ModuleType(f"peer_{path.stem}")
    sys.modules[module.__name__] = module  # where dataclasses look up names
    module.__dict__.update(torch=torch, nn=nn, F=F, math=math, inspect=inspect, dataclass=dataclass)
    module.__dict__["master_process"] = False  # their global: whether this process prints
    exec(compile(ast.Module(wanted, []), str(path), "exec"), module.__dict__)
    return {name: getattr(module, name) for name in names}


@torch.no_grad()
def fill(model: nn.Module, weights: dict[str, Tensor], bias: bool) -> None:
    """Copy weights by name; without `bias`, biases are zero and not trained. KeyError for a missing name."""
    for name, parameter in model.named_parameters():
        if name.endswith(".bias") and not bias:
            parameter.zero_()
            parameter.requires_grad_(False)
        else:
            parameter.copy_(weights[name])


def _named(gpt: GPT) -> dict[str, Tensor]:
    return {f"transformer.{name}": tensor[: _rows(gpt, name)] for name, tensor in gpt.named_parameters()}


def _rows(gpt: GPT, name: str) -> int | None:
    return gpt.config.vocab if name == "wte.weight" else None  # ours has padding rows


def _second(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    loss: Tensor = model(ids, targets)[1]
    return loss


def _shifted(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    loss: Tensor = model(ids, labels=targets, shift_labels=targets).loss
    return loss


def _adamw(model: nn.Module, adamw: OptimizerConfig, fused: bool = False) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only, like the other trainers."""
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.dim() >= 2], "weight_decay": adamw.weight_decay},
        {"params": [p for p in learning if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=adamw.learning_rate, betas=(adamw.beta1, adamw.beta2), fused=fused)
