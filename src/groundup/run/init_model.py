"""The weights that a run begins with: drawn from its seed, or those of a checkpoint that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from groundup.checkpoint import state
from groundup.config.schema import Config
from groundup.distributed.process_group import BroadcastTensors, ProcessGroup
from groundup.errors import CheckpointError
from groundup.model.gpt import GPT
from groundup.model.ngram import Text
from groundup.model.undrawn import skip_init
from groundup.run.compose import weights_file
from groundup.utils.files import sha256

MANY = 2_000_000  # tokens; fewer are counted in a few seconds


def build_initial_model(
    config: Config,
    process_group: ProcessGroup,
    *,
    text: Text | None = None,
    restored: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> GPT:
    """A model on the CPU with a run's first weights, the same on every process however often it is asked for.

    `text` is what it will be trained on, for models that count n-grams; where that takes a while, it is said.

    Only the first process reads the checkpoint. CheckpointError, on all of them, where it is gone, or not the one that
    the run was begun with. A model that is to be `restored` needs none of that, and gets none.
    """
    with skip_init():
        gpt = GPT(config.model)
    if restored:
        return gpt
    if config.init_from is None:
        gpt.init_weights(torch.Generator().manual_seed(config.train.seed))
    else:
        _load(gpt, config, process_group)
    if text is not None:
        if config.model.ngram > 1 and len(text) > MANY:
            say(f"n-grams  counting runs of up to {config.model.ngram} tokens in {len(text):,}, once")
        gpt.ngrams.count(text)
    return gpt


def _load(gpt: GPT, config: Config, process_group: ProcessGroup) -> None:
    """The weights of the checkpoint that the run begins with."""
    assert config.init_from is not None, "there is one"
    folder = Path(config.init_from)
    if (
        complaint := process_group.broadcast_object(
            None if process_group.rank else _complaint(folder, config.init_sha256)
        )
    ) is not None:
        raise CheckpointError(complaint)

    def read(path: Path) -> Mapping[str, torch.Tensor]:
        tensors = state.read_tensors(path) if process_group.rank == 0 else {}
        if "wpe.weight" in tensors:  # a shorter context needs the first positions only
            tensors["wpe.weight"] = tensors["wpe.weight"][: config.model.block_size]
        return BroadcastTensors(process_group, tensors)

    state.load_model(folder, gpt, averaged=True, read=read)


def broadcast_config(config: Config, process_group: ProcessGroup) -> Config:
    """The first process's config, for one that lacks the checkpoint which it was made from."""
    first = process_group.broadcast_object(config)
    return first if first.init_from is not None and config.init_sha256 is None else config


def _complaint(folder: Path, expected: str | None) -> str | None:
    """What keeps a checkpoint from being begun with, in a sentence."""
    path = weights_file(folder)
    where = (
        "so this run cannot begin with its weights; put the folder back, or start a new run with another --init-from"
    )
    try:
        found = sha256(path)
    except OSError as error:
        return f"init_from: {path} cannot be read ({error.strerror}), {where}"
    if expected is not None and found != expected:
        return f"init_from: {path} is not what it was when the run was configured (its checksum differs), {where}"
    return None
