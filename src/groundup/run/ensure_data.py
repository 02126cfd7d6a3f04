"""Preparation of a run's data before training, where its config says how: a recipe is one command.

A download may take hours, so every mistake that can be known earlier is found first. Torch is loaded only where data is
missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.errors import ConfigError, DataError, UsageError
from groundup.preprocess.pipeline import prepare
from groundup.preprocess.records import Request
from groundup.run.dataset import needs_preparation, prepare_command
from groundup.sources.cleaning import parse_cleaning_steps
from groundup.sources.encodings import parse_encoding
from groundup.sources.hub import BY_PATH
from groundup.tokenizers.auto import AUTO
from groundup.tokenizers.base import TokenizerTrainer
from groundup.tokenizers.registry import choose_tokenizer

if TYPE_CHECKING:
    from groundup.planning.plan import Plan

KNOWN_VOCAB_SIZES = {"byte": 257, "gpt1": 40_478, "gpt2": 50_257}  # before there is a text
ASSUMED_VOCAB_SIZE = 256  # of any other tokenizer: characters, say

# What errors of `prepare` advise, and the same for a command that prepares the data of its run.
REMEDIES = {
    BY_PATH: "with --prepare.sources FILE",
    "--column": "--prepare.column",
    "--encoding": "--prepare.encoding",
    "--separator": "--prepare.separator",
    "--as": "--prepare.read_as",
    "--errors replace": "groundup prepare --errors replace",
}
_REMEDY = re.compile(rf"({'|'.join(map(re.escape, REMEDIES))})(?![\w-])")


def ensure_prepared(
    config: Config,
    out: Path,
    progress: Callable[[int], None],
    *,
    checkpoints: Path | None = None,
    processes: int = 1,
    may_resume: bool = False,
) -> None:
    """Prepare `config.data` as `config.prepare` says, for a run in `out`, unless it is there already.

    One of several `processes` cannot: the others would wait for hours. `may_resume`: there may be a run in `out`;
    `checkpoints`: a folder outside of it for them. Raises ConfigError for what such a run would be refused for, and
    where `data` was prepared in another way than is asked for; UsageError; and what `prepare` raises.
    """
    if not needs_preparation(config):
        _check_same_request(config)
        return
    if not may_resume:
        RunFolder(out).refuse_existing(checkpoints)
    if processes > 1:
        raise UsageError(f"data: {config.data} is not prepared; do it once, before torchrun: {prepare_command(config)}")
    precheck(config)
    settings = config.prepare.model_dump(exclude={"sources"})
    try:
        prepare(config.prepare.sources, Path(config.data or ""), **settings, progress=progress)
    except DataError as error:  # the remedy must be one for this command
        raise DataError(_REMEDY.sub(lambda found: REMEDIES[found[1]], str(error))) from error


def precheck(config: Config) -> None:
    """Find the mistakes that can be known before there is any data. ConfigError, TokenizerError."""
    from groundup.planning.warnings import too_much_memory
    from groundup.run.resolve import plan_here, validate_config

    validate_config(config)
    if config.prepare.tokenizer != AUTO:
        choose_tokenizer(config.prepare.tokenizer)
    plan = plan_here(config, assumed_vocab_size(config)[0], None)
    _ = plan.run_length  # ConfigError where none is given
    if plan.hopeless:
        raise ConfigError(f"model: {too_much_memory(plan)}")


def plan_without_data(config: Config) -> tuple[Plan, str]:
    """The plan of a run whose data is still to be prepared, and a line that says so."""
    from groundup.run.resolve import plan_with_measured_speed

    precheck(config)
    vocab_size, origin = assumed_vocab_size(config)
    line = f"data     not prepared yet, vocabulary {origin}; training would start with: {prepare_command(config)}"
    return plan_with_measured_speed(config, vocab_size, None), line


def assumed_vocab_size(config: Config) -> tuple[int, str]:
    """A vocabulary size while there is no data, and how it is known."""
    tokenizer = config.prepare.tokenizer
    size = tokenizer.split(":")[1] if tokenizer.startswith("bpe:") else ""
    trained = int(size) if size.isdecimal() else None
    known = config.model.vocab_size or KNOWN_VOCAB_SIZES.get(tokenizer) or trained
    return known or ASSUMED_VOCAB_SIZE, f"of {tokenizer}" if known else "assumed"


def _check_same_request(config: Config) -> None:
    """ConfigError where existing data was prepared with other settings than are asked for."""
    if not config.prepare.sources or not config.data:
        return
    if (made := Request.load(Path(config.data))) is None:
        return  # another program's folder
    asked = config.prepare.model_dump(exclude={"sources"})
    asked["clean"] = ",".join(parse_cleaning_steps(asked["clean"]))
    asked["encoding"] = parse_encoding(asked["encoding"])
    if asked["tokenizer"] == AUTO:  # any
        del asked["tokenizer"]
    elif Path(asked["tokenizer"]).exists():
        chosen = choose_tokenizer(asked["tokenizer"])
        asked["tokenizer"] = asked["tokenizer"] if isinstance(chosen, TokenizerTrainer) else chosen.name
    for key, wanted in asked.items():
        if (found := made.settings.get(key)) != (None if wanted == "" else wanted):
            raise ConfigError(
                f"data: {config.data} was prepared with {key} {found!r}, and prepare.{key} is {wanted!r}; "
                "give another --data, or --prepare.sources none to take it as it is"
            )
