"""The model read from another program's file, and the checks that every reader makes."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from groundup.config.model import ModelConfig
from groundup.errors import CheckpointError
from groundup.model.size import shapes

VOCAB_TENSORS = ("wte.weight", "lm_head.weight")  # one row for each id
REMEDY = "the weights and the settings do not belong together, so get both again"


@dataclass(frozen=True)
class ImportedModel:
    """A model of another program, under groundup's names."""

    kind: str  # such as "nanoGPT checkpoint"
    config: ModelConfig
    tensors: dict[str, Tensor]  # as `GPT(config).named_parameters()`, fp32; may be mapped from the file
    folder: Path | None = None  # where its tokenizer's files may be
    notes: tuple[str, ...] = ()


def parse_model_config(path: Path, values: Mapping[str, Any]) -> ModelConfig:
    """The model that a file's settings describe; CheckpointError where they describe none."""
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        # Not `repr`: a pickled list may hold another twice, which holds a third twice, and so on.
        reason = (
            first.get("ctx", {}).get("error") or f"{first['loc'][-1]} {reprlib.repr(first['input'])}: {first['msg']}"
        )
        raise CheckpointError(
            f"{path}: its settings describe no model ({printable(reason, 200)}); get the file again"
        ) from None


def check_tensors(path: Path, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors`, already under groundup's names, in fp32 and with a padded vocabulary.

    CheckpointError when one is missing, unknown, of another shape, or holds anything but finite floating-point numbers.
    """
    layers = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
    if layers != config.n_layer:  # before anything is built by a number from the file
        raise CheckpointError(f"{path}: holds {layers} blocks, and its settings say {config.n_layer}; {REMEDY}")
    expected = shapes(config)
    for name in sorted(expected.keys() ^ tensors.keys()):
        problem = "is missing" if name in expected else "has no place in the model that its settings describe"
        raise CheckpointError(f"{path}: {printable(name)} {problem}; {REMEDY}")
    checked = {}
    for name, shape in expected.items():
        tensor = tensors[name]
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: {name} holds {tensor.dtype}, not floating-point numbers; {REMEDY}")
        if name in VOCAB_TENSORS and tensor.shape != shape:
            tensor = padded(config, f"{path}: {name}", tensor)
        if tensor.shape != shape:
            raise CheckpointError(
                f"{path}: {name} is {size(tensor.shape)}, and by its settings {size(shape)}; {REMEDY}"
            )
        checked[name] = tensor.to(torch.float32).contiguous()
        if not checked[name].isfinite().all():
            raise CheckpointError(f"{path}: {name} holds nan or infinite numbers; get an earlier state of the model")
    return checked


def padded(config: ModelConfig, name: str, tensor: Tensor) -> Tensor:
    """(V, C) -> (P, C) in fp32, zeros below; CheckpointError, beginning with `name`, unless it has V rows."""
    if tensor.shape != (config.vocab, config.n_embd):
        raise CheckpointError(
            f"{name}: {size(tensor.shape)} in the weights, and {config.vocab} x {config.n_embd} by their "
            "configuration; the two do not belong together"
        )
    return tensor if config.padded_vocab == config.vocab else resized(config, tensor)


def resized(config: ModelConfig, tensor: Tensor) -> Tensor:
    """The rows of an embedding or head, cut to `config.vocab` or zero-padded: (rows, C) -> (P, C) in fp32."""
    result, kept = torch.zeros(config.padded_vocab, config.n_embd), tensor[: config.vocab]
    result[: len(kept)] = kept
    return result


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors, of whatever precision, hold the same numbers."""
    return a.shape == b.shape and torch.equal(a.float(), b.float())


def printable(name: object, max_length: int = 80) -> str:
    """A name from a foreign file, fit for a message: one line, no control characters, not long."""
    return repr(str(name))[1:-1][:max_length]


def size(shape: tuple[int, ...]) -> str:
    """A shape for a message, such as `50257 x 768`."""
    return " x ".join(map(str, shape)) or "a single number"
