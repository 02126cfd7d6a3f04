"""Preparing what a run is to learn from, where its config says how and nobody has done it yet: a recipe is one command.

A download may take hours, so what this machine cannot hold is refused before it begins.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from groundup.config import Config
from groundup.data.shards import MANIFEST
from groundup.errors import ConfigError, UsageError
from groundup.planning.here import measured, unmeasured
from groundup.planning.plan import Plan
from groundup.planning.words import too_much_memory
from groundup.preparation.prepare import prepare_tokens
from groundup.sections import PrepareConfig

IDS = {"byte": 257, "gpt1": 40_478, "gpt2": 50_257}  # of tokenizers whose size is known before there is a text
USUAL = 256  # ids of any other: characters, say


def missing(config: Config) -> bool:
    """Whether the tokens are still to be prepared, and the config says from what."""
    return bool(config.data and config.prepare.sources) and not (Path(config.data or "") / MANIFEST).exists()


def obtain(config: Config, progress: Callable[[int], None], *, processes: int = 1) -> None:
    """Prepare `config.data` as `config.prepare` says; nothing where it is there, whatever it was prepared from.

    One of several `processes` cannot: the others would wait for hours. Raises ConfigError where this machine can never
    hold the model, UsageError, and what `prepare_tokens` raises.
    """
    if not missing(config):
        return
    if processes > 1:
        raise UsageError(f"data: {config.data} is not prepared; do it once, before torchrun: {command(config)}")
    if (plan := unmeasured(_with_ids(config), None)).hopeless:
        raise ConfigError(f"model: {too_much_memory(plan)}")
    settings = config.prepare.model_dump(exclude={"sources"})
    prepare_tokens(config.prepare.sources, Path(config.data or ""), **settings, progress=progress)


def outlook(config: Config) -> tuple[Plan, str]:
    """The plan of a run whose data is still to come, and a line that says so."""
    plan = measured(_with_ids(config), None)
    return plan, f"data     not prepared yet; training would begin with: {command(config)}"


def command(config: Config) -> str:
    """The `groundup prepare` that does the same."""
    words = ["groundup", "prepare", *config.prepare.sources, "--out", str(config.data)]
    for name, field in PrepareConfig.model_fields.items():
        value = getattr(config.prepare, name)
        if name != "sources" and value != field.default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _with_ids(config: Config) -> Config:
    """With a vocabulary: where nobody knows it before the text is read, as small as can be."""
    vocab = config.model.vocab_size or _ids(config.prepare.tokenizer)
    return config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": vocab})})


def _ids(tokenizer: str) -> int:
    size = tokenizer.split(":")[1] if tokenizer.startswith("bpe:") else ""
    return int(size) if size.isdecimal() and len(size) < 10 else IDS.get(tokenizer, USUAL)
