"""Checkpoints that torch pickled: read without running anything that they name.

`torch.load(weights_only=True)` builds tensors and plain containers and refuses all else. One exception is made: what
calls itself a class `GPTConfig`, in which karpathy/build-nanogpt keeps a model's sizes, becomes an object of ours that
holds the numbers and does nothing.

nanoGPT's model (karpathy/nanoGPT, model.py) computes GELU exactly since June 2023; build-nanogpt's has the tanh form.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from groundup.errors import CheckpointError
from groundup.interop.hf_mapping import BUFFERS, equal, printable
from groundup.interop.imported import ImportedModel, check_tensors, shape

SETTINGS = ".GPTConfig"
ARCHIVE = b"PK\x03\x04"  # how an archive begins, as torch writes them since 1.6
# What nanoGPT's and its descendants' settings are called, by ours.
SPELLINGS = {
    "n_layer": ("n_layer", "num_layers"),
    "n_head": ("n_head", "num_heads"),
    "n_embd": ("n_embd", "dim_embedding"),
    "block_size": ("block_size", "seq_length"),
    "vocab_size": ("vocab_size",),
    "dropout": ("dropout", "dropout_rate"),
}
PREFIXES = ("_orig_mod.", "module.", "transformer.")  # of a compiled model, of DDP, of the model itself
ENDS = {".gamma": ".weight", ".beta": ".bias"}
NO_CODE = "groundup runs nothing that a file brings along, so save its weights alone (a dict of tensors), and try again"


class _Settings:
    """Stands in for a pickled class: keeps what it is given, and does nothing."""

    values: Mapping[str, Any] = MappingProxyType({})  # of a class, as unpickling may leave `__init__` out

    def __init__(self, *ignored: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.values = dict(state) if isinstance(state, Mapping) else {}


def unpickled(path: Path) -> object:
    """What a file of torch holds, tensors mapped from it where it allows that.

    CheckpointError where it is no such file, is damaged, or asks for anything but tensors and plain values.
    """
    try:
        with path.open("rb") as file:
            whole = file.read(len(ARCHIVE)) == ARCHIVE  # which is how torch tells the two apart
        if whole:
            _check_stored(path)
        asked = get_unsafe_globals_in_checkpoint(path) if whole else []  # an older file is refused while it is read
        if code := sorted(name for name in asked if not name.endswith(SETTINGS)):
            raise CheckpointError(f"{path.name}: asks for {printable(', '.join(code), 200)}, which is code; {NO_CODE}")
        with safe_globals([(_Settings, name) for name in asked]):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=whole)
        _check_tensors(path, found)
        return found
    except CheckpointError:
        raise
    except Exception as error:  # the opcodes are an outsider's, and so are the ways in which they go wrong
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise CheckpointError(f"{path.name}: asks for more than tensors and plain values; {NO_CODE}") from None
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"{path.name}: cannot be read as a file of torch, or is cut short ({printable(line, 120)}); get it again"
        ) from None


def _check_stored(path: Path) -> None:
    """CheckpointError where something in the archive is compressed: a few bytes could become very many."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise CheckpointError(
                    f"{path.name}: {printable(member.filename)} in it is compressed, unlike torch files; save it again"
                )


def _check_tensors(path: Path, found: object) -> None:
    """CheckpointError where a tensor anywhere in `found` is not all there: sparse, without data, or one number
    repeated, by which a file of some bytes could ask for any amount of memory.
    """
    left, seen = [found], set()
    while left:  # containers may hold one another, and go as deep as they please
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            whole = value.layout == torch.strided and value.device.type == "cpu"
            if not whole or math.prod(value.shape) * value.element_size() > value.untyped_storage().nbytes():
                raise CheckpointError(
                    f"{path.name}: holds a tensor whose numbers are not all in the file (sparse, expanded or meta); "
                    "save plain ones"
                )
        elif isinstance(value, Mapping):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            left += value
        elif isinstance(value, _Settings):
            left.append(value.values)


def read_pickle(path: Path) -> ImportedModel:
    """A checkpoint of nanoGPT, or of build-nanogpt. CheckpointError where it is neither, or damaged."""
    found = unpickled(path)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds a {type(found).__name__}, not the dict of a checkpoint; {KNOWN}")
    weights, settings = found.get("model"), found.get("model_args")
    nano = isinstance(settings, dict)
    if isinstance(found.get("config"), _Settings):
        settings = found["config"].values
    if not (isinstance(settings, Mapping) and isinstance(weights, dict) and _all_tensors(weights)):
        has = ", ".join(sorted(map(printable, found))[:6]) or "nothing"
        raise CheckpointError(f"{path}: no checkpoint of nanoGPT, nor of build-nanogpt (it holds {has}); {KNOWN}")
    tensors = {_renamed(name): tensor for name, tensor in weights.items() if not name.endswith(BUFFERS)}
    values = _values(path, settings) | {"bias": "ln_f.bias" in tensors, "activation": "gelu" if nano else "gelu_tanh"}
    tied = "lm_head.weight" not in tensors or equal(tensors["lm_head.weight"], tensors.get("wte.weight", ABSENT))
    if tied:
        tensors.pop("lm_head.weight", None)
    config = shape(path, values | {"tie_embeddings": tied})
    notes = (EXACT,) if nano else ()
    kind = "nanoGPT checkpoint" if nano else "build-nanogpt checkpoint"
    return ImportedModel(kind, config, check_tensors(path, config, tensors), notes=notes)


ABSENT = torch.empty(0)
KNOWN = "nanoGPT's holds model and model_args, build-nanogpt's model and config"
EXACT = "GELU is exact, as nanoGPT computes it since June 2023; a checkpoint from before loses a little by that"


def _values(path: Path, settings: Mapping[Any, Any]) -> dict[str, Any]:
    found = {}
    for name, spellings in SPELLINGS.items():
        key = next((key for key in spellings if key in settings), None)
        if key is not None:
            found[name] = settings[key]
        elif name != "dropout":
            raise CheckpointError(f"{path}: its settings name no {name}; {KNOWN}")
    return found


def _all_tensors(weights: Mapping[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items())


def _renamed(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    for theirs, ours in ENDS.items():
        name = name.removesuffix(theirs) + ours if name.endswith(theirs) else name
    return name
