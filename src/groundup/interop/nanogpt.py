"""Import checkpoints of karpathy/nanoGPT and karpathy/build-nanogpt.

nanoGPT's `model.py` computes GELU exactly since June 2023; build-nanogpt's has the tanh form.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from groundup.errors import CheckpointError
from groundup.interop.hf_mapping import BUFFERS
from groundup.interop.imported import ImportedModel, check_tensors, equal, parse_model_config, printable
from groundup.interop.torch_pickle import PickledSettings, is_state_dict, unpickle

# Our setting, which is nanoGPT's -> its name in descendants.
SETTING_NAMES = {
    "n_layer": "num_layers", "n_head": "num_heads", "n_embd": "dim_embedding", "block_size": "seq_length",
    "vocab_size": "vocab_size", "dropout": "dropout_rate",
}  # fmt: skip
PREFIXES = ("_orig_mod.", "module.", "transformer.")  # of a compiled model, of DDP, of the model itself
SUFFIXES = {".gamma": ".weight", ".beta": ".bias"}
FORMATS = "nanoGPT's holds model and model_args, build-nanogpt's model and config"
EXACT_GELU = "GELU is exact, as nanoGPT computes it since June 2023; a checkpoint from before loses a little by that"


def read_nanogpt(path: Path) -> ImportedModel:
    """The model of a checkpoint of nanoGPT or build-nanogpt. CheckpointError where it is neither, or damaged."""
    found = unpickle(path)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds a {type(found).__name__}, not the dict of a checkpoint; {FORMATS}")
    if found and is_state_dict(found):
        raise CheckpointError(
            f"{path}: holds weights without the settings of a model; give their folder with config.json"
        )
    weights, settings = found.get("model"), found.get("model_args")
    is_nanogpt = isinstance(settings, dict)
    if isinstance(found.get("config"), PickledSettings):
        settings = found["config"].values
    if not (isinstance(settings, Mapping) and is_state_dict(weights)):
        keys = ", ".join(sorted(map(printable, found))[:6]) or "nothing"
        raise CheckpointError(f"{path}: no checkpoint of nanoGPT, nor of build-nanogpt (it holds {keys}); {FORMATS}")
    tensors = {_rename(name): tensor for name, tensor in weights.items() if not name.endswith(BUFFERS)}
    head, embedding = tensors.get("lm_head.weight"), tensors.get("wte.weight", torch.empty(0))
    tied = head is None or equal(head, embedding)
    if tied:
        tensors.pop("lm_head.weight", None)
    values = {"bias": "ln_f.bias" in tensors, "activation": "gelu" if is_nanogpt else "gelu_tanh"}
    config = parse_model_config(path, _sizes(path, settings) | values | {"tie_embeddings": tied})
    kind, notes = ("nanoGPT checkpoint", (EXACT_GELU,)) if is_nanogpt else ("build-nanogpt checkpoint", ())
    return ImportedModel(kind, config, check_tensors(path, config, tensors), notes=notes)


def _sizes(path: Path, settings: Mapping[Any, Any]) -> dict[str, Any]:
    found = {}
    for name, other in SETTING_NAMES.items():
        key = next((key for key in (name, other) if key in settings), None)
        if key is not None:
            found[name] = settings[key]
        elif name != "dropout":
            raise CheckpointError(f"{path}: its settings name no {name}; {FORMATS}")
    return found


def _rename(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    for old, new in SUFFIXES.items():
        name = name.removesuffix(old) + new if name.endswith(old) else name
    return name
