"""The model card: what a stranger must know of a model, from what its run wrote down. No torch.

Sources stand under the names that prepared data has for them, which leave out where they lay, and commands not at all:
a card is for the world, and the paths of a machine are not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from groundup.config.schema import Config
from groundup.sources.catalog import CORPORA
from groundup.sources.hub_client import parse_spec

MANY = 20  # sources; the rest is counted
MODEL: Mapping[str, Any] = {
    "library_name": "transformers",
    "pipeline_tag": "text-generation",
    "tags": ["groundup"],
}  # what the hub must know of a model
UNTOLD = "How it was trained is not told here: it was imported as it is, and not trained further."


@dataclass(frozen=True)
class ModelCardInfo:
    """What is known of a trained model. Empty values are not known, and the card says nothing of them."""

    name: str
    licence: str
    config: Config
    parameters: int
    tokenizer: str
    tokenizer_loses: str | None
    step: int
    tokens: int
    averaged: bool
    losses: Mapping[str, float] = field(default_factory=dict)  # train_loss, val_loss, bits_per_byte
    tasks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # as log.jsonl has them
    origin: str = ""  # whose weights it began with, where they were not its own
    trained: bool = True  # here; else imported, and nothing is known of how it was trained
    sources: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)  # train_tokens, val_tokens, train_bytes
    versions: Mapping[str, str] = field(default_factory=dict)


def card(facts: ModelCardInfo, usage: str, *, header: Mapping[str, Any] = MODEL, lead: str = "") -> str:
    """The card in Markdown, with the YAML that the hub reads before it; `usage` is a piece of Python.

    `header` is what that YAML says besides licence and data sets, `lead` what the card says first.
    """
    parts = [_header(facts, header), f"# {plain(facts.name)}", *([lead] if lead else []), _summary(facts)]
    parts += ["## Use", f"```python\n{usage.strip()}\n```"]
    parts += ["## Data", *_data(facts)]
    parts += ["## Training", _table(_training(facts)) if facts.trained else UNTOLD]
    parts += ["## Losses", *_losses(facts)]
    parts += ["## Tasks", _table(_tasks(facts))] if facts.tasks else []
    parts += ["## Limits", _limits(facts)]
    parts += ["## Licence", _licence(facts)]
    parts += ["## How it was made", *_made(facts)]
    return "\n\n".join(parts) + "\n"


def _header(facts: ModelCardInfo, header: Mapping[str, Any]) -> str:
    values = dict(header)
    if facts.licence:
        values["license"] = facts.licence
    if datasets := sorted({repo for source in facts.sources if (repo := _repository(source))}):
        values["datasets"] = datasets
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip()}\n---"


def _summary(facts: ModelCardInfo) -> str:
    model = facts.config.model
    how = f"with the weights of {plain(facts.origin)} to begin with" if facts.origin else "trained from scratch"
    return (
        f"A language model of {facts.parameters:,} parameters, {how}: {model.n_layer} layers, "
        f"{model.n_head} heads, {model.n_embd} wide, a context of {model.block_size:,} tokens, "
        f"{model.vocab:,} ids of the tokenizer `{facts.tokenizer}`."
    )


def _data(facts: ModelCardInfo) -> Iterator[str]:
    if not facts.sources:
        yield "What it was trained on was not at hand when this card was written."
        return
    shown = [f"- `{plain(source)}`" for source in facts.sources[:MANY]]
    if len(facts.sources) > MANY:
        shown.append(f"- and {len(facts.sources) - MANY:,} more")
    yield "\n".join(shown)
    sizes = facts.sizes
    yield (
        f"{sizes['train_tokens']:,} tokens to train on ({sizes['train_bytes']:,} bytes of text), "
        f"{sizes['val_tokens']:,} held out."
    )


def _training(facts: ModelCardInfo) -> Iterator[tuple[str, str]]:
    config, optimizer = facts.config, facts.config.optimizer
    yield "steps", f"{facts.step:,}"
    yield "tokens", f"{facts.tokens:,}"
    yield "tokens per step", f"{config.train.batch_tokens:,}"
    if passes := facts.sizes.get("train_tokens"):
        yield "passes over the data", f"{facts.tokens / passes:.2f}"
    yield "optimizer", f"{optimizer.name}, peak learning rate {optimizer.learning_rate:g}, {config.schedule.name}"
    yield "weight decay", f"{optimizer.weight_decay:g}"
    yield "dropout", f"{config.model.dropout:g}"
    yield "precision", config.train.precision
    yield "seed", str(config.train.seed)
    if facts.averaged:
        yield "weights", f"running average, {optimizer.ema_decay:g} kept a step"


def _losses(facts: ModelCardInfo) -> Iterator[str]:
    names = {
        "val_loss": "validation, nats a token",
        "bits_per_byte": "validation, bits a byte",
        "train_loss": "training text, nats a token",
    }
    rows = [(name, f"{facts.losses[key]:.4f}") for key, name in names.items() if key in facts.losses]
    rows.append(("guessing all ids alike, nats a token", f"{math.log(facts.config.model.vocab):.4f}"))
    yield _table(iter(rows))
    if "val_loss" not in facts.losses:
        yield "No validation loss of these weights is known."
    else:
        yield "Over windows of the whole context that do not overlap, of text that was held out from training."


def _tasks(facts: ModelCardInfo) -> Iterator[tuple[str, str]]:
    """A row for each metric, with its standard error and how many questions were asked."""
    for task, found in facts.tasks.items():
        for name, value in found.items():
            if name == "n" or name.endswith("_stderr"):
                continue
            error = f" ± {found[f'{name}_stderr']:.4f}" if f"{name}_stderr" in found else ""
            yield f"{plain(task)}, {name}", f"{value:.4f}{error}, {found.get('n', 0):,.0f} questions"


def _limits(facts: ModelCardInfo) -> str:
    lost = f" Of a text, {facts.tokenizer_loses}." if facts.tokenizer_loses else ""
    return (
        "It continues text in the manner of what it was trained on, true or not, and knows nothing else. It was not "
        "taught to follow instructions, and nothing was done to keep it from repeating its training text." + lost
    )


def _licence(facts: ModelCardInfo) -> str:
    if facts.licence:
        return f"`{facts.licence}`, as given by whoever exported it."
    return "No licence was given for this model; ask whoever published it before using it."


def _made(facts: ModelCardInfo) -> Iterator[str]:
    yield "With `groundup`, which trains, checks and exports models from scratch."
    if facts.versions:
        yield "It was trained with these versions:"
        yield _table(iter(sorted(facts.versions.items())))
    model = {key: value for key, value in facts.config.model.model_dump().items() if value is not None}
    yield f"The model's configuration:\n\n```yaml\n{yaml.safe_dump(model, sort_keys=False).strip()}\n```"


def _table(rows: Iterator[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _repository(source: str) -> str | None:
    """The data set of the hub that a source is of, where that is one of those known by name."""
    return next((repo for repo in _known() if source.startswith(f"{repo}/")), None)


def _known() -> list[str]:
    return [parse_spec(name).repo for name, row in CORPORA.items() if row.source is not None]


def plain(text: str) -> str:
    """A text without what Markdown would obey."""
    return re.sub(r"[`\n\r<>|\[\]]", " ", text)
