"""Import from `transformers`: a folder, or a model of the hub, with config.json and weights.

Weights are safetensors, or pickles of tensors alone. Of a model of the hub only the needed files are downloaded.
"""

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
from groundup.interop.hf_mapping import BUFFERS, model_config, to_groundup, untied
from groundup.interop.imported import ImportedModel, check_tensors, printable
from groundup.interop.torch_pickle import is_state_dict, unpickle
from groundup.sources.hub_client import PREFIX
from groundup.utils.hub_errors import HubRepo, explain_hub_error

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files of weights, the preferred first; an index lists the files of a model in parts."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json")


def download(source: str, revision: str | None = None) -> Path:
    """The cached folder of `hf:OWNER/NAME`, named after its commit; all files are of that commit.

    UsageError with the reason where it cannot be downloaded. `HF_ENDPOINT`, `HF_HUB_OFFLINE` and `HF_TOKEN` are obeyed.
    """
    repo = source.removeprefix(PREFIX)
    config = _download_file(repo, CONFIG, revision)
    if config is None:
        raise UsageError(f"{source}: holds no {CONFIG}, so it is no model of transformers; choose another")
    commit = config.parent.name
    for name in WEIGHTS:
        if (path := _download_file(repo, name, commit)) is not None:
            try:
                parts = _weight_files(path)
            except CheckpointError as error:
                raise CheckpointError(f"{source}: {error}") from None
            for part in parts:
                _download_file(repo, part.name, commit)  # a missing one is reported when the folder is read
            break
    for name in TOKENIZER_FILES:
        _download_file(repo, name, commit)
    return config.parent


def _download_file(repo: str, name: str, revision: str | None) -> Path | None:
    """A file's path in the cache; None where the repository has no such file."""
    try:
        from huggingface_hub import constants, errors, hf_hub_download
    except ImportError:
        raise UsageError(
            f"{PREFIX}{repo}: the hub needs huggingface_hub; install it with pip install 'groundup[data]'"
        ) from None
    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except Exception as error:  # of the hub, its transport, or the disk: a dozen unrelated classes
        if isinstance(error, errors.EntryNotFoundError):
            not_cached = isinstance(error, errors.LocalEntryNotFoundError)
            if not not_cached or (constants.HF_HUB_OFFLINE and name != CONFIG):
                return None
        hub_repo = HubRepo(f"{PREFIX}{repo}", repo, revision, alternative="download it and give its folder")
        raise UsageError(f"{hub_repo.source}: {explain_hub_error(error, hub_repo)}") from None


def read_folder(folder: Path) -> ImportedModel:
    """The model of a folder. CheckpointError where it is damaged, UsageError where groundup cannot compute it."""
    try:
        values = _read_json(folder / CONFIG)
        config = model_config(values)
        weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if weights is None:
            raise CheckpointError(f"there are no weights with its {CONFIG} (such as {WEIGHTS[0]}); get them as well")
        tensors: dict[str, Tensor] = {}
        for file in _weight_files(weights):
            read: Callable[[Path], dict[str, Tensor]] = _safetensors if file.suffix == ".safetensors" else _pickled
            tensors |= read(file)
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


def _weight_files(path: Path) -> list[Path]:
    """`path`, or the files that it lists where it is an index; CheckpointError unless each has a plain file name."""
    if path.suffix != ".json":
        return [path]
    names = _read_json(path).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{path.name}: lists no weights (it has no weight_map); get it again")
    for name in names.values():
        # A name in a foreign file must not become a path out of the folder.
        plain = isinstance(name, str) and Path(name).name == name and name.isprintable() and len(name) < 200
        if not plain or not name.endswith((".safetensors", ".bin")):
            raise CheckpointError(f"{path.name}: {str(name)[:80]!r} is no name of a file of weights; get it again")
    return [path.with_name(name) for name in sorted(set(names.values()))]


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path.name}: missing; get it as well") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path.name}: cut short or damaged ({printable(error, 200)}); get it again") from None


def _pickled(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path.name}: missing; get it as well")
    found = unpickle(path)
    if not is_state_dict(found):
        raise CheckpointError(f"{path.name}: holds no tensors by name; get it again")
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path.name} here; give the folder of a model of transformers") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: damaged ({error}); get it again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path.name}: damaged (no JSON object); get it again")
    return values
