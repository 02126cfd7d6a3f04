"""nanoGPT's `ckpt.pt`, which its `sample.py` opens and its `train.py` goes on from (`init_from=resume`).

Source: github.com/karpathy/nanoGPT, `model.py`, `train.py` and `sample.py`. No pickle is written but what `torch.save`
makes of tensors, numbers and names, which `torch.load(weights_only=True)` reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.serialization import get_crc32_options, set_crc32_options

from groundup.config.model import ModelConfig
from groundup.config.sections import OptimizerConfig
from groundup.errors import UsageError
from groundup.interop.hf_mapping import other_format
from groundup.interop.output import MARK
from groundup.interop.parity import batch, identical, relative
from groundup.model.gpt import GPT
from groundup.tokenizers.registry import Tokenizer

CHECKPOINT, META = "ckpt.pt", "meta.json"
FILES = frozenset({CHECKPOINT, META})

# What nanoGPT's model.py computes, whatever a checkpoint says.
DEMANDS: Mapping[str, Any] = {
    "norm_position": "pre_norm", "norm": "layernorm", "norm_eps": 1e-5, "position_embedding": "learned",
    "qk_norm": False, "embedding_norm": False, "logit_softcap": None, "tie_embeddings": True, "ngram": 1,
}  # fmt: skip
GELUS = ("gelu", "gelu_tanh")  # its own is the first

ARGUMENTS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")
MOMENTS = ("exp_avg", "exp_avg_sq")


def refuse(config: ModelConfig) -> None:
    """UsageError naming what nanoGPT's model.py could not compute."""
    for key, value in DEMANDS.items():
        if (found := getattr(config, key)) != value:
            raise UsageError(f"model.{key} {found}: nanoGPT's model.py has {value} there; {other_format(config)}")
    if config.activation not in GELUS:
        raise UsageError(f"model.activation {config.activation}: nanoGPT's model.py has gelu; {other_format(config)}")
    if config.inner != 4 * config.n_embd:
        raise UsageError(
            f"model.n_inner {config.inner}: nanoGPT's model.py has 4 x n_embd, {4 * config.n_embd}; "
            f"{other_format(config)}"
        )


def write(
    folder: Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    *,
    step: int,
    loss: float | None,
    name: str,
) -> None:
    """Write `ckpt.pt` to `folder`; OSError where the disk refuses. `optimizer` is what `optimizer_state` makes."""
    checkpoint = {
        "model": _named(config, tensors),
        "optimizer": dict(optimizer),
        "model_args": {key: getattr(config, key) for key in ARGUMENTS} | {"vocab_size": config.vocab},
        "iter_num": step,
        "best_val_loss": 1e9 if loss is None else loss,  # what nanoGPT starts with
        "config": {"dataset": name, MARK: True},
    }
    sums = get_crc32_options()
    set_crc32_options(False)  # torch.load looks at none of these sums, and they take longer than all the rest
    try:
        torch.save(checkpoint, folder / CHECKPOINT)
    except RuntimeError as error:  # a full disk comes as one of these
        raise OSError(str(error).splitlines()[0]) from error
    finally:
        set_crc32_options(sums)


def check(folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    """Reopen the file; ExportError where a tensor is not, bit for bit, what was written."""
    found = torch.load(folder / CHECKPOINT, weights_only=True, mmap=True)["model"]
    identical(CHECKPOINT, _named(config, tensors), found)


@torch.no_grad()
def difference(model: GPT) -> float:
    """How much nanoGPT's exact GELU changes the logits, as a part of the largest; 0 where the model has that itself."""
    if model.config.activation == GELUS[0]:
        return 0.0
    with torch.device("meta"):
        exact = GPT(model.config.model_copy(update={"activation": GELUS[0]}))
    exact.load_state_dict(model.state_dict(), assign=True)
    ids = batch(model.config).to(next(model.parameters()).device)
    return relative(model(ids), exact.eval()(ids))


def optimizer_state(
    config: ModelConfig, settings: OptimizerConfig, tensors: Mapping[str, Tensor], moments: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The state of nanoGPT's AdamW: first all that decays, then the rest, each in the order of the model.

    `moments` are a checkpoint's, `parameter|moment`; none at all stand for an optimizer at its beginning.
    """
    named = {name: nn.Parameter(_unpadded(config, name, tensor)) for name, tensor in tensors.items()}
    decaying = [p for p in named.values() if p.dim() >= 2]
    others = [p for p in named.values() if p.dim() < 2]
    groups = [
        {"params": decaying, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.eps)
    for name, parameter in named.items() if moments else ():
        adamw.state[parameter] = {"step": moments[f"{name}|step"].float()}
        adamw.state[parameter] |= {key: _unpadded(config, name, moments[f"{name}|{key}"]) for key in MOMENTS}
    return adamw.state_dict()


def write_meta(folder: Path, tokenizer: Tokenizer, name: str) -> str | None:
    """What nanoGPT must know to read and write this tokenizer's text: a sentence, and for characters `meta.json`.

    None for GPT-2's tokenizer, which nanoGPT takes where it finds nothing else.
    """
    if tokenizer.name == "gpt2":
        return None
    if tokenizer.name != "char":
        return (
            f"nanoGPT's sample.py knows GPT-2's tokenizer and single characters, not {tokenizer.name}: "
            "give it ids, and decode what it makes with groundup"
        )
    characters = [tokenizer.decode([id_]) for id_ in range(tokenizer.n_vocab)]
    meta = {"vocab_size": len(characters), "itos": characters, "stoi": {c: i for i, c in enumerate(characters)}}
    (folder / META).write_text(json.dumps(meta, indent=1) + "\n", encoding="ascii")
    return (
        f"nanoGPT's sample.py needs its own data/{name}/meta.pkl for characters, which groundup does not write, as it "
        f"is a pickle; make it in nanoGPT's folder, with OUT for this export's: python -c \"import json, pickle; "
        f"pickle.dump(json.load(open('OUT/{META}')), open('data/{name}/meta.pkl', 'wb'))\""
    )


def _named(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under its names, the vocabulary unpadded, a tied head beside the embedding."""
    named = {f"transformer.{name}": _unpadded(config, name, tensor) for name, tensor in tensors.items()}
    return named | {"lm_head.weight": named["transformer.wte.weight"]}


def _unpadded(config: ModelConfig, name: str, tensor: Tensor) -> Tensor:
    tensor = tensor[: config.vocab].detach() if name == "wte.weight" else tensor.detach()
    # torch.save writes all the memory that a tensor is a part of.
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
