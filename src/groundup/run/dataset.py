"""A run's prepared data, opened; and whether it is still to be prepared."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from groundup.checkpoint.data_match import match_data
from groundup.config.schema import Config
from groundup.config.sections import PrepareConfig
from groundup.data.openings import begins_documents, openings
from groundup.data.shards import MANIFEST, Manifest, Tokens, check_files
from groundup.data.windows import scored_windows
from groundup.errors import ConfigError, DataError, GroundupError
from groundup.tokenizers.base import Tokenizer
from groundup.tokenizers.registry import load_tokenizer

if TYPE_CHECKING:
    from groundup.checkpoint.state import LoadedModel

N_PLACES = 8  # at which samples begin
MAX_CHECKSUM_BYTES = 2**28  # read in less than a second; `groundup doctor` reads any amount


@dataclass(frozen=True)
class PreparedData:
    """A prepared folder, opened."""

    manifest: Manifest
    tokenizer: Tokenizer
    train: Tokens
    val: Tokens | None  # None: nothing was held out

    @classmethod
    def open(cls, folder: Path) -> PreparedData:
        """DataError when the folder is not complete, or its tokenizer is not the one its tokens were made with."""
        manifest = Manifest.load(folder)
        tokenizer = load_tokenizer(folder / "tokenizer")
        if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
            raise DataError(
                f"{folder / 'tokenizer'}: not the tokenizer that these tokens were made with; "
                "prepare the data again with --overwrite"
            )
        size = sum(split.tokens for split in manifest.splits.values()) * np.dtype(manifest.dtype).itemsize
        check_files(folder, manifest, checksums=size <= MAX_CHECKSUM_BYTES)
        val = Tokens.open(folder, "val") if manifest.splits["val"].tokens > 1 else None
        return cls(manifest, tokenizer, Tokens.open(folder, "train"), val)


def open_data(config: Config) -> PreparedData:
    """The run's prepared folder. ConfigError where none is named; DataError where it is not complete, or missing."""
    if config.data is None:
        raise ConfigError("data: no prepared folder is named; give one with --data")
    if needs_preparation(config):
        raise DataError(f"{config.data}: missing or not complete; prepare it by: {prepare_command(config)}")
    return PreparedData.open(Path(config.data))


def validation_text(config: Config, manifest: Manifest) -> str | None:
    """Name of the text that validation losses of a run are of; None if nothing was held out.

    Losses of different texts cannot be compared, so the best of them starts over where this changes.
    """
    tokens, block_size = manifest.splits["val"].tokens, config.model.block_size
    if tokens < 2:
        return None
    windows = len(scored_windows(tokens, block_size, block_size, config.evaluate.tokens))
    return f"{windows} windows of {block_size} tokens of {manifest.fingerprint[:16]}"


def held_out_prompt(data: PreparedData, seed: int = 0) -> str:
    """A line of held-out text to begin samples with, by `seed`; empty if the model can begin documents by itself."""
    if data.val is None or begins_documents(data.manifest):
        return ""
    found = openings(data.manifest, data.val, data.tokenizer, N_PLACES)
    return found[(seed + N_PLACES // 2) % len(found)].prompt if found else ""


def prompt_for(loaded: LoadedModel, seed: int = 0) -> str:
    """`held_out_prompt` of the data that a checkpoint was trained on; empty where that is gone or has changed."""
    folder = Path(loaded.config.data or "")
    try:
        if loaded.begins_documents or match_data(folder, loaded.metadata).answer != "same":
            return ""
        return held_out_prompt(PreparedData.open(folder), seed)
    except GroundupError:
        return ""


def needs_preparation(config: Config) -> bool:
    """Whether the data is still to be prepared, and the config says from what."""
    return bool(config.data and config.prepare.sources) and not (Path(config.data or "") / MANIFEST).exists()


def prepare_command(config: Config) -> str:
    """The `groundup prepare` command that prepares the data as the config says."""
    words = ["groundup", "prepare", *config.prepare.sources, "--out", str(config.data)]
    for name, field in PrepareConfig.model_fields.items():
        value = getattr(config.prepare, name)
        if name == "tokenizer" or (name != "sources" and value != field.default):  # the command's default is another
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)
