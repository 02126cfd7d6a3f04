"""Preparing what a run is to learn from, where its config says how and nobody has done it yet: a recipe is one command.

A download may take hours, so every mistake that can be known before it is found before it. Torch is loaded only where
something is missing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.config.sections import PrepareConfig
from groundup.data.shards import MANIFEST
from groundup.errors import ConfigError, UsageError
from groundup.preprocess.pipeline import prepare_tokens
from groundup.preprocess.request import Request
from groundup.sources.cleaning import choose_cleaning
from groundup.tokenizers.registry import TokenizerTrainer, choose_tokenizer

if TYPE_CHECKING:
    from groundup.planning.plan import Plan

GPT1_VOCAB, GPT2_VOCAB = 40_478, 50_257  # ids of their own tokenizers
IDS = {"byte": 257, "gpt1": GPT1_VOCAB, "gpt2": GPT2_VOCAB}  # known before there is a text
USUAL = 256  # ids of any other: characters, say


def needs_preparation(config: Config) -> bool:
    """Whether the tokens are still to be prepared, and the config says from what."""
    return bool(config.data and config.prepare.sources) and not (Path(config.data or "") / MANIFEST).exists()


def ensure_prepared(
    config: Config, out: Path, progress: Callable[[int], None], *, processes: int = 1, goes_on: bool = False
) -> None:
    """Prepare `config.data` as `config.prepare` says, for a run in `out`; nothing where it is there.

    One of several `processes` cannot: the others would wait for hours. `goes_on`: there may be a run in `out` already.
    Raises ConfigError for what such a run would be refused for, and where `data` was prepared in another way than is
    asked for; UsageError; and what `prepare_tokens` raises.
    """
    if not needs_preparation(config):
        _compare(config)
        return
    if not goes_on:
        RunFolder(out).refuse_existing()
    if processes > 1:
        raise UsageError(f"data: {config.data} is not prepared; do it once, before torchrun: {prepare_command(config)}")
    precheck(config)
    settings = config.prepare.model_dump(exclude={"sources"})
    prepare_tokens(config.prepare.sources, Path(config.data or ""), **settings, progress=progress)


def precheck(config: Config) -> None:
    """What is known to be a mistake before there is any data. ConfigError, TokenizerError."""
    from groundup.planning.report import too_much_memory
    from groundup.run.here import unmeasured
    from groundup.run.resolve import validate_config

    validate_config(config)
    choose_tokenizer(config.prepare.tokenizer)
    plan = unmeasured(with_ids(config)[0], None)
    _ = plan.horizon  # there must be one
    if plan.hopeless:
        raise ConfigError(f"model: {too_much_memory(plan)}")


def plan_without_data(config: Config) -> tuple[Plan, str]:
    """The plan of a run whose data is still to come, and a line that says so."""
    from groundup.run.here import measured

    precheck(config)
    known, origin = with_ids(config)
    line = f"data     not prepared yet, vocabulary {origin}; training would begin with: {prepare_command(config)}"
    return measured(known, None), line


def prepare_command(config: Config) -> str:
    """The `groundup prepare` that does the same."""
    words = ["groundup", "prepare", *config.prepare.sources, "--out", str(config.data)]
    for name, field in PrepareConfig.model_fields.items():
        value = getattr(config.prepare, name)
        if name != "sources" and value != field.default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def with_ids(config: Config) -> tuple[Config, str]:
    """With a vocabulary, though there is no data yet, and how it is known."""
    tokenizer = config.prepare.tokenizer
    size = tokenizer.split(":")[1] if tokenizer.startswith("bpe:") else ""
    known = config.model.vocab_size or IDS.get(tokenizer) or (int(size) if size.isdecimal() else None)
    model = config.model.model_copy(update={"vocab_size": known or USUAL})
    return config.model_copy(update={"model": model}), f"of {tokenizer}" if known else "assumed"


def _compare(config: Config) -> None:
    """ConfigError where what is there was prepared with other settings than are asked for."""
    if not config.prepare.sources or not config.data:
        return
    if (made := Request.load(Path(config.data))) is None:
        return  # another program's folder
    asked = config.prepare.model_dump(exclude={"sources"})
    asked["clean"] = ",".join(choose_cleaning(asked["clean"]))
    if Path(asked["tokenizer"]).exists() and not isinstance(
        chosen := choose_tokenizer(asked["tokenizer"]), TokenizerTrainer
    ):
        asked["tokenizer"] = chosen.name
    for key, wanted in asked.items():
        if (found := made.settings.get(key)) != (None if wanted == "" else wanted):
            raise ConfigError(
                f"data: {config.data} was prepared with {key} {found!r}, and prepare.{key} is {wanted!r}; "
                "give another --data, or --prepare.sources '' to take it as it is"
            )
