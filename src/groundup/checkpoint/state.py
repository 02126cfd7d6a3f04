"""Files of one checkpoint: saving and loading of its parts, and loading of the trained model as a unit.

step-00001000/
  config.json           format number and the run's complete config
  tokenizer/            text <-> ids
  progress.json         metadata: step, tokens, cursor, seconds, fingerprint of the data, previous checkpoint
  model.safetensors     weights, a tied head once
  average.safetensors   their EMA, if one is kept
  optimizer/state.safetensors   optimizer state, one tensor `parameter|key` each
  SHA256SUMS
"""

import json
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import override

from groundup.checkpoint import files
from groundup.checkpoint.files import AVERAGE, CONFIG, MODEL, OPTIMIZER, PROGRESS, TOKENIZER, load_config
from groundup.checkpoint.metadata import load_metadata, load_training_metadata
from groundup.checkpoint.run_folder import read_checkpoint
from groundup.checkpoint.tensors import Shapes, check_headers, read_tensors
from groundup.config.schema import Config
from groundup.config.sections import OptimizerConfig
from groundup.distributed.dtensor import distribute_like
from groundup.distributed.gather import Stateful, StateTensors
from groundup.distributed.process_group import SINGLE_PROCESS, ProcessGroup, own_device
from groundup.errors import CheckpointError, UsageError
from groundup.model import build_model, quantized
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import GPT
from groundup.model.init import skip_init
from groundup.model.quantized import Quantization
from groundup.model.size import parameters
from groundup.optim.optimizer import state_shapes
from groundup.tokenizers import registry
from groundup.tokenizers.base import Tokenizer
from groundup.utils.device import choose_device, is_bf16_gpu
from groundup.utils.files import atomic_output, write_checksums

Reader = Callable[[Path, Shapes], Mapping[str, Tensor]]
"""(file, shapes by name) -> exactly these tensors"""


@dataclass(frozen=True)
class Snapshot:
    """Contents of a checkpoint."""

    config: Config
    tokenizer: Tokenizer
    metadata: Mapping[str, Any]  # of the training state: step, tokens, data order, and so on
    tensors: StateTensors


@dataclass(frozen=True, repr=False)
class LoadedModel:
    """A trained model with its tokenizer and config."""

    folder: Path
    config: Config
    model: GPT
    tokenizer: Tokenizer
    device: torch.device
    metadata: Mapping[str, Any]  # of the training state, as in its progress.json
    quantize: Quantization = "none"  # how its weights are packed

    @override
    def __repr__(self) -> str:
        model = self.config.model
        shape = f"{parameters(model):,} parameters, {model.n_layer} x {model.n_embd}, context {model.block_size}"
        tokenizer = f"{self.tokenizer.name} with {self.tokenizer.n_vocab:,} ids"
        return f"LoadedModel({self.folder}: {shape}, {tokenizer}, {self.device})"

    @property
    def begins_documents(self) -> bool:
        """Whether the model has seen many documents begin; assumed of checkpoints that do not say so."""
        return bool(self.metadata.get("begins_documents", True))


def save(folder: Path, snapshot: Snapshot, replaceable: Callable[[Path], None] | None = None) -> None:
    """Write a checkpoint atomically; on OSError nothing is left of it. `replaceable`: `check` of `atomic_output`."""
    tensors = snapshot.tensors
    with atomic_output(folder, replaceable) as partial:
        config = {"format": files.FORMAT, **snapshot.config.model_dump()}
        for name, values in ((CONFIG, config), (PROGRESS, dict(snapshot.metadata))):
            (partial / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        snapshot.tokenizer.save(partial / TOKENIZER)
        _write(tensors.model, partial / MODEL)
        if tensors.ema:
            _write(tensors.ema, partial / AVERAGE)
        (partial / OPTIMIZER).parent.mkdir()
        _write(tensors.optimizer, partial / OPTIMIZER)
        for path in partial.rglob("*.safetensors"):
            path.chmod(stat.S_IMODE((partial / CONFIG).stat().st_mode))  # 0600 by safetensors, whatever the umask
        write_checksums(partial)


def load(
    path: str | Path | LoadedModel,
    *,
    checkpoint: str = "latest",
    device: str = "auto",
    quantize: Quantization = "none",
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> LoadedModel:
    """Load model and tokenizer from a run or a checkpoint folder, the model in evaluation mode.

    The weights are their running average if the run kept one (`optimizer.ema_decay`).

    `checkpoint` chooses among a run's: `latest`, `best` by validation loss, or a name such as `step-00001000`.
    `quantize` packs the weights of linear layers on a CPU: `bf16` takes half of the memory, `int8` 27 %. On a GPU with
    bf16 units, `bf16` makes weights, activations and caches bf16. Each process of a `process_group` reads the folder,
    and uses a GPU of its own. A loaded model is returned as it is.
    Raises CheckpointError when something is missing, damaged or does not fit; UsageError.
    """
    if quantize not in get_args(Quantization):
        raise UsageError(f"quantize {quantize}: must be none, bf16 or int8")
    if isinstance(path, LoadedModel):
        if quantize not in ("none", path.quantize):
            raise UsageError(f"quantize {quantize}: this model is in memory already; give quantize to groundup.load")
        return path
    where = own_device(str(choose_device(device)), process_group)
    if quantize != "none" and where.type != "cpu" and not (quantize == "bf16" and is_bf16_gpu(where)):
        raise UsageError(
            f"quantize {quantize}: packed weights are for CPUs, and the device is {where}; choose device cpu, or leave "
            "quantize out"
        )
    return read_checkpoint(Path(path), checkpoint, lambda folder: _load(folder, where, quantize))


def _load(folder: Path, where: torch.device, quantize: Quantization) -> LoadedModel:
    files.verify(folder, presence_only=(OPTIMIZER,))
    config = load_config(folder)
    check_headers(folder, config)
    with skip_init():
        model = build_model(config.model)
    load_model(folder, model, averaged=True)
    model = quantized.quantize(use_fused_cpu_kernels(model.to(where)), quantize).eval()
    return LoadedModel(folder, config, model, load_tokenizer(folder), where, load_metadata(folder), quantize)


def load_resumable(folder: Path) -> dict[str, Any]:
    """The metadata of a run's checkpoint, once its tensors are known to be those of its config, by name and shape.

    CheckpointError where they are not, or where metadata or config are missing or damaged.
    """
    config, metadata = load_config(folder), load_training_metadata(folder)
    check_headers(folder, config, metadata)
    return metadata


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a checkpoint; CheckpointError if it does not fit the model."""
    tokenizer = registry.load_tokenizer(folder / TOKENIZER)
    vocab = load_config(folder).model.vocab_size
    if tokenizer.n_vocab != vocab:
        raise CheckpointError(
            f"{folder / TOKENIZER}: this tokenizer has {tokenizer.n_vocab} ids, the model {vocab}; "
            "put back the tokenizer that the model was trained with"
        )
    return tokenizer


@torch.no_grad()
def load_model(folder: Path, model: nn.Module, *, averaged: bool = False, read: Reader = read_tensors) -> None:
    """Copy a checkpoint's weights into `model`; with `averaged` their EMA, if the checkpoint has one.

    CheckpointError if a tensor is missing, foreign or misshapen, or not finite.
    """
    path = folder / AVERAGE if averaged and (folder / AVERAGE).exists() else folder / MODEL
    tensors = read(path, _shapes(model))
    for name, parameter in model.named_parameters():
        parameter.copy_(distribute_like(tensors[name], parameter))


def load_ema(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """The EMA of the weights by name of parameter; empty if none was kept. CheckpointError as of `load_model`."""
    return read_tensors(folder / AVERAGE, _shapes(model)) if (folder / AVERAGE).exists() else {}


@torch.no_grad()
def load_optimizer(
    folder: Path, model: nn.Module, optimizer: Stateful, config: OptimizerConfig, *, read: Reader = read_tensors
) -> None:
    """Load a checkpoint's state of an `optimizer` built from `config`; CheckpointError as of `load_model`."""
    parameters = dict(model.named_parameters())
    learned = {name: tuple(parameter.shape) for name, parameter in parameters.items() if parameter.requires_grad}
    for values in optimizer.state.values():
        values.clear()
    for key, value in read(folder / OPTIMIZER, state_shapes(config, learned)).items():
        name, _, state_key = key.partition("|")
        parameter = parameters[name]
        # Step counts are scalars; a fused AdamW keeps them on the device.
        placed = distribute_like(value, parameter) if state_key != "step" else value.to(parameter.device)
        optimizer.state[parameter][state_key] = placed.clone()  # `value` is mapped from a file that may be deleted


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # raised when the disk is full
        raise OSError(str(error)) from error
