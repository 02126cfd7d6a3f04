"""Initial weights of a run: drawn from its seed, or read from the checkpoint that `init_from` names."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from groundup.checkpoint import state
from groundup.checkpoint.files import load_config
from groundup.checkpoint.tensors import Shapes, check_headers, read_tensors
from groundup.config.schema import Config
from groundup.distributed.process_group import BroadcastTensors, ProcessGroup
from groundup.errors import CheckpointError
from groundup.model import build_model
from groundup.model.gpt import GPT
from groundup.model.init import skip_init
from groundup.model.ngram import NGramGPT, Text
from groundup.model.size import shapes
from groundup.run.compose import weights_file
from groundup.utils.files import sha256

SLOW_COUNT_TOKENS = 2_000_000  # fewer are counted in a few seconds


def build_initial_model(
    config: Config,
    process_group: ProcessGroup,
    *,
    text: Text | None = None,
    restored: bool = False,
    message: Callable[[str], None] = lambda _: None,
) -> GPT:
    """A model on the CPU with a run's initial weights, the same on every process and in every call.

    `text` is the training split, for models with n-gram tables. Only rank 0 reads the checkpoint: CheckpointError, on
    all ranks, where it is missing, or not the one that the run was started with. A model to be `restored` gets no
    weights.
    """
    if config.init_from is not None and not restored:
        _check_checkpoint(config, process_group)
    with skip_init():
        model = build_model(config.model)
    if restored:
        return model
    if config.init_from is None:
        model.init_weights(torch.Generator().manual_seed(config.train.seed))
    else:
        _load_weights(model, config, process_group)
    if text is not None and isinstance(model, NGramGPT):
        if len(text) > SLOW_COUNT_TOKENS:
            message(f"n-grams  counting n-grams of up to {config.model.ngram} tokens in {len(text):,}, once")
        model.ngrams.count(text)
    return model


def rank_0_config(config: Config | None, process_group: ProcessGroup) -> Config:
    """Rank 0's config; other ranks may give None."""
    values = process_group.broadcast_object(config.model_dump(mode="json") if config else None)
    return Config.model_validate(values)


def broadcast_config(config: Config, process_group: ProcessGroup) -> Config:
    """Rank 0's config, for ranks that lack the checkpoint it was made from."""
    first = rank_0_config(config, process_group)
    return first if first.init_from is not None and config.init_sha256 is None else config


def _check_checkpoint(config: Config, process_group: ProcessGroup) -> None:
    """CheckpointError, on all ranks, where the weights to start with are not those of the config."""
    folder = Path(config.init_from or "")
    problem = process_group.broadcast_object(None if process_group.rank else _problem(folder, config.init_sha256))
    if problem is not None:
        raise CheckpointError(problem)


def _load_weights(model: GPT, config: Config, process_group: ProcessGroup) -> None:
    folder = Path(config.init_from or "")

    def read(path: Path, expected: Shapes) -> Mapping[str, torch.Tensor]:
        tensors = read_tensors(path, shapes(load_config(folder).model)) if process_group.rank == 0 else {}
        if "wpe.weight" in tensors:  # a shorter context needs the first positions only
            tensors["wpe.weight"] = tensors["wpe.weight"][: config.model.block_size]
        return BroadcastTensors(process_group, tensors)

    state.load_model(folder, model, averaged=True, read=read)


def _problem(folder: Path, expected_sha256: str | None) -> str | None:
    """A sentence on why a run cannot start with a checkpoint; None where it can."""
    path = weights_file(folder)
    remedy = "so this run cannot start; put the folder back, or start a new run with another --init-from"
    try:
        found = sha256(path)
    except (OSError, ValueError) as error:
        return f"init_from: {path} cannot be read ({getattr(error, 'strerror', None) or error}), {remedy}"
    if expected_sha256 is not None and found != expected_sha256:
        return f"init_from: {path} is not what it was when the run was configured (its checksum differs), {remedy}"
    try:
        check_headers(folder, load_config(folder))
    except CheckpointError as error:
        return f"init_from: {error}"
    return None
