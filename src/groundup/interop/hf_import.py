"""Models in the folders of `transformers`: config.json, and weights as safetensors or as a pickle of tensors alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from groundup.errors import CheckpointError, UsageError
from groundup.interop.hf_architectures import FAMILIES
from groundup.interop.hf_mapping import BUFFERS, model_config, printable, to_groundup, untied
from groundup.interop.imported import ImportedModel, check_tensors
from groundup.interop.torch_pickle import unpickled

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Where weights may be, the best first; an index lists the files of a model in parts."""


def read_folder(folder: Path) -> ImportedModel:
    """The model of a folder. CheckpointError where it is damaged, UsageError where ours cannot compute it."""
    try:
        values = _json(folder / CONFIG)
        config = model_config(values)
        weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if weights is None:
            raise CheckpointError(f"there are no weights beside its {CONFIG} (such as {WEIGHTS[0]}); get them as well")
        tensors = _tensors(weights)
        for name, tensor in tensors.items():
            if not tensor.is_floating_point() and not name.endswith(BUFFERS):
                raise CheckpointError(
                    f"{printable(name)} holds {tensor.dtype}: quantised weights cannot be read; get plain ones"
                )
        config = untied(config, tensors)
        found = to_groundup(config, tensors)
    except (CheckpointError, UsageError) as error:
        raise type(error)(f"{folder}: {error}") from None
    kind = f"{FAMILIES[values['model_type']].architecture} of transformers"
    return ImportedModel(kind, config, check_tensors(folder, config, found), folder)


def parts(index: Path) -> list[str]:
    """The files that an index lists; CheckpointError unless each is the plain name of a file of weights."""
    names = _json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index.name}: lists no weights (it has no weight_map); get it again")
    for name in names.values():
        # What stands in a file from elsewhere must not become a path to anywhere else.
        plain = isinstance(name, str) and Path(name).name == name and name.isprintable() and len(name) < 200
        if not plain or not name.endswith((".safetensors", ".bin")):
            raise CheckpointError(f"{index.name}: {str(name)[:80]!r} is no name of a file of weights; get it again")
    return sorted(set(names.values()))


def _tensors(path: Path) -> dict[str, Tensor]:
    files = [path.with_name(name) for name in parts(path)] if path.suffix == ".json" else [path]
    found: dict[str, Tensor] = {}
    for file in files:
        read: Callable[[Path], dict[str, Tensor]] = _mapped if file.suffix == ".safetensors" else _pickled
        found |= read(file)
    return found


def _mapped(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path.name}: missing; get it as well") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path.name}: cut short or damaged ({printable(error, 200)}); get it again") from None


def _pickled(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path.name}: missing; get it as well")
    found = unpickled(path)
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in found.items()):
        raise CheckpointError(f"{path.name}: holds no tensors by name; get it again")
    return dict(found)


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path.name} here; give the folder of a model of transformers") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: damaged ({error}); get it again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path.name}: damaged (no JSON object); get it again")
    return values
