"""Tensors of a checkpoint: names, types and shapes by the headers of their files, before any is loaded; finite numbers.

All of them are float32. Resuming, loading and the search for damage ask the same functions.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from groundup.checkpoint.files import AVERAGE, CONFIG, MODEL, OPTIMIZER
from groundup.checkpoint.metadata import has_stepped
from groundup.config.schema import Config
from groundup.distributed.dtensor import local_tensor
from groundup.errors import CheckpointError
from groundup.model.size import MAX_READ_CONTEXT, is_learned, shapes
from groundup.optim.optimizer import state_shapes
from groundup.utils.reading import TensorInfo, read_safetensors_header

MIN_TENSORS_PER_BLOCK = 4  # the weights of its linear layers
MAX_NAMES = 3  # in a message
NEVER_NEGATIVE = ("|step", "|exp_avg_sq")  # of AdamW: the root of a number below 0 would make the weights NaN
MAX_NAME_CHARACTERS = 80

Shapes = Mapping[str, tuple[int, ...]]


def expected_tensors(folder: Path, config: Config) -> dict[str, Shapes]:
    """Names and shapes of the tensors in each file of a checkpoint, as its config has them.

    CheckpointError where the weights are too few for the blocks that the config asks for, so that these are not
    listed, or where its context is longer than any model's.
    """
    blocks, found = config.model.n_layer, len(_header(folder / MODEL))
    damage = ""
    if MIN_TENSORS_PER_BLOCK * blocks > found:
        damage = f"model.n_layer is {blocks}, but {MODEL} has {found} tensors"
    elif config.model.block_size > MAX_READ_CONTEXT:
        damage = f"model.block_size is {config.model.block_size:,}, of at most {MAX_READ_CONTEXT:,}"
    if damage:
        raise CheckpointError(f"{folder / CONFIG}: damaged ({damage}); use another checkpoint")
    weights = shapes(config.model)
    learned = {name: shape for name, shape in weights.items() if is_learned(name)}
    return {MODEL: weights, AVERAGE: weights, OPTIMIZER: state_shapes(config.optimizer, learned)}


def check_headers(folder: Path, config: Config, metadata: Mapping[str, Any] | None = None) -> None:
    """CheckpointError unless the files hold the tensors of `config`; nothing is loaded, and no model is built.

    With `metadata`, the optimizer's state too.
    """
    stepped = metadata is not None and has_stepped(metadata)
    wanted = {MODEL: True, AVERAGE: (folder / AVERAGE).exists(), OPTIMIZER: metadata is not None}
    for name, expected in expected_tensors(folder, config).items():
        if wanted[name]:
            for problem in _header_problems(folder / name, _header(folder / name), expected, stepped=stepped):
                raise CheckpointError(f"{folder / name}: {problem}; use another checkpoint")


def read_tensors(path: Path, expected: Shapes) -> dict[str, Tensor]:
    """The tensors of a file, memory-mapped; CheckpointError unless they are those `expected`, all numbers finite."""
    for problem in tensor_problems(path, expected):
        raise CheckpointError(f"{path}: {problem}; use another checkpoint")
    return load_file(path)


def tensor_problems(path: Path, expected: Shapes, *, stepped: bool = False) -> Iterator[str]:
    """Problems with the tensors of a file: unexpected names, types or shapes; if none, numbers that are not finite.

    An optimizer has no state before its first step: its file may be empty unless it has `stepped`. CheckpointError
    where the file cannot be read.
    """
    header = _header(path)
    problems = list(_header_problems(path, header, expected, stepped=stepped))
    yield from problems
    if problems or not header:
        return
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            yield f"{name} has {int((~torch.isfinite(tensor)).sum())} numbers that are not finite"
        elif name.endswith(NEVER_NEGATIVE) and bool((tensor < 0).any()):
            yield f"{name} has numbers below 0"


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite; of a sharded tensor, those of this rank."""
    tensor = local_tensor(tensor)
    # The sum takes no memory; a finite one has finite terms, while finite terms may have a sum that is not.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _header(path: Path) -> dict[str, TensorInfo]:
    try:
        return read_safetensors_header(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; give the folder of a run or of a complete checkpoint") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _header_problems(path: Path, found: Mapping[str, TensorInfo], expected: Shapes, *, stepped: bool) -> Iterator[str]:
    if not found and path.name not in (MODEL, AVERAGE) and not stepped:
        return
    if missing := expected.keys() - found.keys():
        yield f"{_listed(missing)} of the model missing"
    if foreign := found.keys() - expected.keys():
        yield f"{_listed(foreign)} belongs to no parameter of the model in {CONFIG}"
    for name, shape in expected.items():
        tensor = found.get(name)
        if tensor is None:
            continue
        if tensor.shape != shape:
            yield f"{name} is {list(tensor.shape)}, but the model's is {list(shape)}"
        elif tensor.dtype != "F32":
            yield f"{name} is of type {tensor.dtype:.20}, not F32"
    if 4 * sum(tensor.numel for tensor in found.values()) > path.stat().st_size:
        yield "truncated (its tensors are larger than the file)"


def _listed(names: Collection[str]) -> str:
    shown = [f"{name:.{MAX_NAME_CHARACTERS}}" for name in sorted(names)[:MAX_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return CheckpointError(f"{path}: cannot be read as tensors ({reason}); use another checkpoint")
