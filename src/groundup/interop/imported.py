"""What a reader of another program's file hands over, and what every one of them checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from groundup.config.model import ModelConfig
from groundup.errors import CheckpointError
from groundup.interop.hf_mapping import padded, printable
from groundup.model.size import shapes


@dataclass(frozen=True)
class ImportedModel:
    """A model of another program."""

    kind: str  # such as "nanoGPT checkpoint"
    config: ModelConfig
    tensors: dict[str, Tensor]  # as `GPT(config).named_parameters()`, fp32; may be mapped from the file
    folder: Path | None = None  # where its tokenizer's files may lie
    notes: tuple[str, ...] = ()


def shape(place: Path, values: Mapping[str, Any]) -> ModelConfig:
    """The model that a file's settings describe; CheckpointError where there is none like it."""
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        what = first.get("ctx", {}).get("error") or f"{first['loc'][-1]} {first['input']!r:.80}: {first['msg']}"
        raise CheckpointError(
            f"{place}: its settings describe no model ({printable(what, 200)}); get the file again"
        ) from None


def check_tensors(place: Path, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors`, under our names, in fp32 and with a padded vocabulary.

    CheckpointError when one is missing, foreign, misshapen, or holds anything but finite floating-point numbers.
    """
    layers = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
    if layers != config.n_layer:  # before anything is built by a number that a file names
        raise CheckpointError(f"{place}: holds {layers} blocks, and its settings say {config.n_layer}; {REMEDY}")
    expected = shapes(config)
    for name in sorted(expected.keys() ^ tensors.keys()):
        what = "is missing" if name in expected else "has no place in the model that its settings describe"
        raise CheckpointError(f"{place}: {printable(name)} {what}; {REMEDY}")
    found = {}
    for name, wanted in expected.items():
        tensor = tensors[name]
        if not tensor.is_floating_point():
            raise CheckpointError(f"{place}: {name} holds {tensor.dtype}, not floating-point numbers; {REMEDY}")
        if name in ("wte.weight", "lm_head.weight") and tensor.shape != wanted:
            tensor = padded(config, f"{place}: {name}", tensor)
        if tensor.shape != wanted:
            said = [" x ".join(map(str, size)) for size in (tensor.shape, wanted)]
            raise CheckpointError(f"{place}: {name} is {said[0]}, and by its settings {said[1]}; {REMEDY}")
        found[name] = tensor.to(torch.float32).contiguous()
        if not found[name].isfinite().all():
            raise CheckpointError(f"{place}: {name} holds nan or infinite numbers; get an earlier state of the model")
    return found


REMEDY = "the weights and the settings do not belong together, so get both again"
