"""What a config leaves open is decided by the data and the machine, once, before a run begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from groundup.config.schema import Config
from groundup.data.shards import Manifest, Tokens, check_files
from groundup.distributed.compile import check as check_compile
from groundup.distributed.process_group import ProcessGroup, SingleProcess, require_same
from groundup.errors import ConfigError, DataError, UsageError
from groundup.evaluation.task_set import TaskSpec
from groundup.run.ensure_data import needs_preparation, prepare_command
from groundup.tokenizers.registry import Tokenizer, load_tokenizer
from groundup.tracking.trackers import check as check_trackers
from groundup.utils.device import choose_device, choose_precision
from groundup.utils.system import usable_cores

MAX_CHECKSUM_BYTES = (
    2**28
)  # bytes; reading them all takes less than a second. `groundup doctor` reads whatever there is


@dataclass(frozen=True)
class PreparedData:
    """A prepared folder, opened."""

    manifest: Manifest
    tokenizer: Tokenizer
    train: Tokens
    val: Tokens | None  # None: nothing was held out

    @classmethod
    def open(cls, folder: Path) -> PreparedData:
        """DataError when the folder is not whole or its tokenizer is not the one its tokens were made with."""
        manifest = Manifest.load(folder)
        tokenizer = load_tokenizer(folder / "tokenizer")
        if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
            raise DataError(
                f"{folder / 'tokenizer'}: not the tokenizer that these tokens were made with; prepare the data anew"
            )
        size = sum(split.tokens for split in manifest.splits.values()) * np.dtype(manifest.dtype).itemsize
        check_files(folder, manifest, checksums=size <= MAX_CHECKSUM_BYTES)
        val = Tokens.open(folder, "val") if manifest.splits["val"].tokens > 1 else None
        return cls(manifest, tokenizer, Tokens.open(folder, "train"), val)


def validate_config(config: Config) -> None:
    """What is known to be a mistake without the data. ConfigError."""
    check_compile(config.train.compile)
    check_trackers(config.tracking)
    for task in config.evaluate.tasks:
        try:
            TaskSpec.parse(task)
        except UsageError as error:
            raise ConfigError(f"evaluate.tasks: {error}") from error


def open_data(config: Config) -> PreparedData:
    """The run's prepared folder. ConfigError where none is named; DataError where it is not whole, or not there."""
    if config.data is None:
        raise ConfigError("data: no prepared folder is named; give one with --data")
    if needs_preparation(config):
        raise DataError(f"{config.data}: is not there, or not whole; prepare it by: {prepare_command(config)}")
    return PreparedData.open(Path(config.data))


def resolve_config(
    config: Config, tokenizer: Tokenizer, process_group: ProcessGroup | None = None
) -> tuple[Config, str]:
    """Replace every `auto` and `none` that depends on data and machine; also a line on what was chosen and why.

    The settled config stands in the run's folder, so that a resumed run computes exactly as the first one did. Of
    several processes, the first one chooses for all.
    """
    process_group = process_group or SingleProcess()
    vocab = config.model.vocab_size or tokenizer.n_vocab
    if vocab != tokenizer.n_vocab:
        raise ConfigError(
            f"model.vocab_size: {vocab}, but the data's tokenizer has {tokenizer.n_vocab} ids; leave it out "
            "(--model.vocab_multiple pads the embedding)"
        )
    check_compile(config.train.compile)
    device = choose_device(config.train.device)
    require_same(process_group, "train.device is", device.type, "mend the GPU there, or give all --train.device cpu")
    threads = process_group.broadcast_object(config.train.threads or max(1, usable_cores() // process_group.local_size))
    torch.set_num_threads(threads)
    precision = process_group.broadcast_object(choose_precision(config.train.precision, device))
    model = config.model.model_copy(update={"vocab_size": vocab})
    train = config.train.model_copy(update={"device": str(device), "threads": threads, "precision": precision.name})
    each = f"{process_group.size} processes of {threads} threads" if process_group.size > 1 else f"{threads} threads"
    line = f"machine  {device}, {each}, {precision.name}: {precision.reason}"
    return config.model_copy(update={"model": model, "train": train}), line
