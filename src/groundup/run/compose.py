"""Composition of a new run's config from its sources, in one merge. No torch here.

    preset  <  model section of the checkpoint that `init_from` names  <  files  <  options

A file may be a recipe: it names its `preset`, and under `laptop` what to change for a small machine. A run that starts
with the weights of a checkpoint has that checkpoint's dimensions instead of the preset's; the checksum of the weights
is noted, so that a run started again starts with the same weights or not at all.
"""

from collections.abc import Sequence
from pathlib import Path

from groundup.checkpoint.files import AVERAGE, CONFIG, MODEL, TOKENIZER, load_config, unreadable
from groundup.checkpoint.run_folder import find_checkpoint
from groundup.config.merge import ConfigSource, diff, merge_and_validate, rename_source
from groundup.config.model import ModelConfig
from groundup.config.presets import DEFAULT, preset
from groundup.config.schema import Config
from groundup.config.yaml_loader import read_yaml
from groundup.data.shards import Manifest
from groundup.errors import CheckpointError, ConfigError, DataError
from groundup.tokenizers.base import TOKENIZER_FILE
from groundup.utils.files import SUMS, checksums
from groundup.utils.ranks import is_rank_0
from groundup.utils.reading import read_json

NOT_IN_WEIGHTS = ("dropout", "init")  # model keys that a checkpoint's weights do not decide
PRESET, LAPTOP = "preset", "laptop"  # keys that only files have


def compose_config(
    name: str | None, files: Sequence[str | Path], *options: ConfigSource, laptop: bool = False
) -> tuple[str, Config]:
    """The preset and the config of a new run. ConfigError; CheckpointError where `init_from` names no checkpoint.

    Without a `name`, the preset is the one named by the last of `files` that names one. With `laptop`, each file is
    followed by its section `laptop`. Of several processes only rank 0 needs the checkpoint: where another lacks it, its
    config holds `init_from` alone, and is to be replaced by rank 0's.
    """
    sources, named = _read_files(files, laptop=laptop)
    name = named if name is None else name
    return name, _merge(name, [*sources, *options])


def weights_file(folder: Path) -> Path:
    """The weights that a checkpoint is used with: their EMA, where one is kept."""
    return folder / (AVERAGE if (folder / AVERAGE).exists() else MODEL)


def weights_sha256(folder: Path) -> str:
    """Checksum of the weights as the checkpoint lists it; CheckpointError where it does not."""
    name = weights_file(folder).name
    try:
        found = (checksums(folder) or {}).get(name)
    except OSError as error:
        raise unreadable(error, folder / SUMS) from error
    if found is None:
        raise CheckpointError(f"{folder / SUMS}: does not list {name}, so this checkpoint is not complete; use another")
    return found


def _read_files(files: Sequence[str | Path], *, laptop: bool) -> tuple[list[ConfigSource], str]:
    """The sources in `files`, and the preset they name."""
    sources: list[ConfigSource] = []
    names, has_laptop = [DEFAULT], False
    for path in files:
        values = read_yaml(Path(path), pipe=True)
        small = values.pop(LAPTOP, None)
        by_a_run = Path(path).name == "config.yaml" and Path(path).with_name("log.jsonl").exists()
        if small is not None and not isinstance(small, dict):
            raise ConfigError(f"{path}: {LAPTOP}: {small!r} is not a mapping of sections; write `{LAPTOP}:` and indent")
        found = [ConfigSource(str(path), values, typed=not by_a_run)]
        if small is not None and laptop:
            found.append(ConfigSource(f"{path}, {LAPTOP}", small, typed=True))
            has_laptop = True
        names += [name for source in found if (name := _pop_preset(source))]
        sources += found
    if laptop and not has_laptop:
        raise ConfigError(f"--{LAPTOP}: no --config file has a section `{LAPTOP}:`; give a recipe that has one")
    return sources, names[-1]


def _pop_preset(source: ConfigSource) -> str | None:
    """The preset that a file names, taken out of its values."""
    name = source.values.pop(PRESET, None)
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"{source.origin}: {PRESET}: {name!r} is not text; name one, such as {DEFAULT}")
    return name


def _merge(name: str, sources: Sequence[ConfigSource]) -> Config:
    named = [values["init_from"] for source in sources if "init_from" in (values := rename_source(source)[0])]
    if not named or named[-1] is None:
        return merge_and_validate([preset(name), *sources])
    if named[-1] == "":
        raise ConfigError("init_from: is empty; name a run, or a checkpoint, or leave it out")
    if not isinstance(named[-1], str):
        return merge_and_validate(sources)  # raises: it is not text
    if _is_on_rank_0_only(Path(named[-1])):
        return Config(init_from=named[-1])
    try:
        folder = find_checkpoint(Path(named[-1]))
    except CheckpointError as error:
        raise CheckpointError(f"{error}, or import another program's model with `groundup import`") from None
    model = load_config(folder).model
    config = merge_and_validate(
        [preset(name), ConfigSource(str(folder / CONFIG), {"model": model.model_dump()}), *sources]
    )
    _check_model(config, model, folder)
    _check_tokenizer(config, folder)
    # A checksum that was noted together with another folder says nothing about this one.
    last = max(n for n, source in enumerate(sources) if "init_from" in rename_source(source)[0])
    noted = config.init_sha256 if any("init_sha256" in source.values for source in sources[last:]) else None
    return config.model_copy(update={"init_from": str(folder), "init_sha256": noted or weights_sha256(folder)})


def _is_on_rank_0_only(path: Path) -> bool:
    """Whether a folder is missing here, and this rank does not need it."""
    return not path.exists() and not is_rank_0()


def _check_model(config: Config, model: ModelConfig, folder: Path) -> None:
    """ConfigError where the run's model could not hold the checkpoint's weights."""
    new = config.model
    for key in diff(model, new):
        if key in NOT_IN_WEIGHTS or (key == "n_inner" and new.inner == model.inner):
            continue
        before, after = getattr(model, key), getattr(new, key)
        remedy = "begin without --init-from"
        if key == "block_size":
            if after < before:  # positions past the new context are left out
                continue
            remedy = "take a smaller one"
        raise ConfigError(
            f"model.{key}: {after}, but {folder}, with whose weights the run is to start, has {before}; leave it out, "
            f"or {remedy}"
        )


def _check_tokenizer(config: Config, folder: Path) -> None:
    """ConfigError where the data was prepared with another tokenizer than the checkpoint's."""
    if config.data is None:
        return
    try:
        theirs = Manifest.load(Path(config.data)).tokenizer.fingerprint
    except DataError:  # reported when the data is opened
        return
    path = folder / TOKENIZER / TOKENIZER_FILE
    try:
        ours = read_json(path)["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: missing or damaged ({error}); use another checkpoint") from None
    if ours != theirs:
        raise ConfigError(
            f"data: {config.data} was prepared with another tokenizer than {folder}, with whose weights the run is to "
            f"start; prepare it with --tokenizer {folder / TOKENIZER}"
        )
