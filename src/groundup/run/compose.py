"""The one place where a run's config is put together; no torch here.

    preset  <  model section of the checkpoint that `init_from` names  <  files  <  options

A file may be a recipe: it names its `preset`, and under `laptop` what to change for a small machine.

A run that begins with the weights of a checkpoint has its shape, so the preset's gives way. Which weights they were is
noted beside the folder's name, so that a run begun anew begins with the same or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from groundup.checkpoint.files import AVERAGE, CONFIG, MODEL, TOKENIZER, read_config
from groundup.checkpoint.run_folder import resolve
from groundup.config.merge import ConfigSource, diff, merge_and_validate
from groundup.config.model import ModelConfig
from groundup.config.presets import DEFAULT, preset
from groundup.config.schema import Config, read_yaml
from groundup.data.shards import Manifest
from groundup.errors import CheckpointError, ConfigError, DataError
from groundup.tokenizers.base import TOKENIZER_FILE
from groundup.utils.files import SUMS, checksums

FREE = ("dropout", "init")  # fields of a model that its weights do not decide
PRESET, LAPTOP = "preset", "laptop"  # keys of a file alone


def compose_config(
    name: str | None, files: Sequence[str | Path], options: ConfigSource, *, laptop: bool = False
) -> tuple[str, Config]:
    """The preset and the config of a new run. ConfigError; CheckpointError where `init_from` names no whole checkpoint.

    Without a `name` the preset is the one that the last of `files` names which names one. With `laptop`, what a file
    says under that key comes right after it.

    Of several processes only the first need have that checkpoint. Where another lacks it, its config says nothing but
    `init_from`, and is to be replaced by the first one's.
    """
    parts, theirs = _files(files, laptop=laptop)
    name, given = name or theirs, [*parts, options]
    return name, _layered(name, given)


def _files(files: Sequence[str | Path], *, laptop: bool) -> tuple[list[ConfigSource], str]:
    """What they say, each file's laptop size after it where that is wanted, and the preset that they name."""
    parts, names, sized = [], [DEFAULT], False
    for path in files:
        values = read_yaml(Path(path))
        here = values.pop(LAPTOP, None)
        if here is not None and not isinstance(here, dict):
            raise ConfigError(f"{path}: {LAPTOP}: {here!r} is not a mapping of sections; write `{LAPTOP}:` and indent")
        small = [ConfigSource(f"{path}, {LAPTOP}", here, typed=True)] if here is not None and laptop else []
        sized = sized or bool(small)
        found = [ConfigSource(str(path), values, typed=not _written_by_a_run(Path(path))), *small]
        names += [name for part in found if (name := _preset_of(part))]
        parts += found
    if laptop and not sized:
        raise ConfigError(f"--{LAPTOP}: no --config file has a section `{LAPTOP}:`; give a recipe that has one")
    return parts, names[-1]


def _written_by_a_run(path: Path) -> bool:
    """Whether a YAML file is the config that a training run wrote into its folder."""
    return path.name == "config.yaml" and path.with_name("log.jsonl").exists()


def _preset_of(part: ConfigSource) -> str | None:
    """The preset that a file names, taken out of its values."""
    name = part.values.pop(PRESET, None)
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"{part.origin}: {PRESET}: {name!r} is not text; name one, such as {DEFAULT}")
    return name


def _layered(name: str, given: Sequence[ConfigSource]) -> Config:
    named = [part.values["init_from"] for part in given if "init_from" in part.values]
    if not named or named[-1] is None:
        return merge_and_validate([preset(name), *given])
    if named[-1] == "":
        raise ConfigError("init_from: is empty; name a run, or a checkpoint, or leave it out")
    if not isinstance(named[-1], str):
        return merge_and_validate(given)  # which says that it is not text
    if _elsewhere(Path(named[-1])):
        return Config(init_from=named[-1])
    try:
        folder = resolve(Path(named[-1]))
    except CheckpointError as error:
        raise CheckpointError(f"{error}, or make one of another program's model by `groundup import`") from None
    model = _model(folder)
    start = ConfigSource(str(folder / CONFIG), {"model": model.model_dump()})
    config = merge_and_validate([preset(name), start, *given])
    _check_model(config, model, folder)
    _check_tokenizer(config, folder)
    # A checksum that was noted together with another folder says nothing of this one.
    last = max(number for number, part in enumerate(given) if "init_from" in part.values)
    noted = config.init_sha256 if any("init_sha256" in part.values for part in given[last:]) else None
    return config.model_copy(update={"init_from": str(folder), "init_sha256": noted or weights_sha256(folder)})


def weights_file(folder: Path) -> Path:
    """The weights that a checkpoint is used with: their running average, where one is kept."""
    return folder / (AVERAGE if (folder / AVERAGE).exists() else MODEL)


def weights_sha256(folder: Path) -> str:
    """Their checksum as the folder lists it; CheckpointError where it does not."""
    name = weights_file(folder).name
    found = (checksums(folder) or {}).get(name)
    if found is None:
        raise CheckpointError(f"{folder / SUMS}: does not list {name}, so this is no whole checkpoint; use another")
    return found


def _elsewhere(path: Path) -> bool:
    """Whether a folder is missing here, and this is not the process that needs it."""
    return not path.exists() and os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0"


def _model(folder: Path) -> ModelConfig:
    values: dict[str, Any] = read_config(folder)
    try:
        return Config.model_validate(values).model
    except ValidationError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error.errors()[0]['msg']}; use another checkpoint") from None


def _check_model(config: Config, model: ModelConfig, folder: Path) -> None:
    """ConfigError where the run's model could not hold the checkpoint's weights."""
    new = config.model
    for key in diff(model, new):
        if key in FREE or (key == "n_inner" and new.inner == model.inner):
            continue
        before, after = getattr(model, key), getattr(new, key)
        if key == "block_size":
            if after < before:  # positions past the new context are left out
                continue
            raise ConfigError(
                f"model.block_size: {after}, but {folder}, with whose weights the run is to begin, has {before}; "
                "leave it out, or take a smaller one"
            )
        raise ConfigError(
            f"model.{key}: {after}, but {folder}, with whose weights the run is to begin, has {before}; "
            "leave it out, or begin without --init-from"
        )


def _check_tokenizer(config: Config, folder: Path) -> None:
    """ConfigError where the data was prepared with another tokenizer than the checkpoint's."""
    if config.data is None:
        return
    try:
        theirs = Manifest.load(Path(config.data)).tokenizer.fingerprint
    except DataError:  # for whoever opens it to complain of
        return
    path = folder / TOKENIZER / TOKENIZER_FILE
    try:
        ours = json.loads(path.read_text(encoding="ascii"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: missing or damaged ({error}); use another checkpoint") from None
    if ours != theirs:
        raise ConfigError(
            f"data: {config.data} was prepared with another tokenizer than {folder}, with whose weights the run is to "
            f"begin; prepare it with --tokenizer {folder / TOKENIZER}"
        )
