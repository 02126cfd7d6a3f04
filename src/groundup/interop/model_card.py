"""The model card: what a reader must know of a model, collected from its checkpoint, run and data. No torch.

A card is public. It names sources as the prepared data does, without their folders, and no command or path of the
machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from groundup.checkpoint.data_match import manifest_of_run
from groundup.checkpoint.files import AVERAGE, load_config, read_json
from groundup.checkpoint.log import EVAL_CHECKPOINT_EVENTS, iter_log, task_metrics
from groundup.checkpoint.metadata import load_metadata
from groundup.checkpoint.run_folder import RunFolder, run_of
from groundup.config.schema import Config
from groundup.errors import CheckpointError, GroundupError
from groundup.model.size import parameters
from groundup.sources.catalog import CORPORA
from groundup.sources.hub import PREFIX, parse_spec
from groundup.utils.plural import human_plural

if TYPE_CHECKING:
    from groundup.checkpoint.state import LoadedModel

MAX_TEXT_CHARS = 200  # of a name or value from a file
MAX_SOURCES = 20  # listed; the others are counted
MAX_ANCESTORS = 100  # runs that each started from the previous one's weights; folders could name each other
# Metadata that the hub needs of a model
HEADER: Mapping[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["groundup"]}
LOSS_NAMES = {
    "val_loss": "validation, nats per token",
    "bits_per_byte": "validation, bits per byte",
    "train_loss": "training text, nats per token",
}  # by the keys of log.jsonl
LIMITS = (
    "It continues text in the style of its training data, whether true or not. It was not trained to follow "
    "instructions, and nothing prevents it from repeating its training text."
)
ONLY_KNOWN_CHARACTERS = (
    " A text with a character that its training text lacks is an error, as the model has no id for it."
)
NO_RECIPE = "It was imported and not trained further, so its training recipe is not known here."
NO_LICENCE = "No licence was given for this model; ask its publisher before using it."


@dataclass(frozen=True)
class ModelCardInfo:
    """Facts about a trained model. An empty value is unknown, and the card leaves it out."""

    name: str
    licence: str
    config: Config
    tokenizer: str
    tokenizer_loses: str | None
    step: int
    tokens: int
    averaged: bool
    losses: Mapping[str, float]  # train_loss, val_loss, bits_per_byte
    tasks: Mapping[str, Mapping[str, float]]  # as in log.jsonl
    origin: str  # the model whose weights it started with, if any
    trained: bool  # by groundup; otherwise imported, with an unknown recipe
    sources: tuple[str, ...]
    sizes: Mapping[str, int]  # train_tokens, val_tokens, train_bytes
    versions: Mapping[str, str]


def collect_card_info(loaded: LoadedModel, name: str, licence: str, run: Path | None) -> ModelCardInfo:
    """Read the facts from a checkpoint, and from its `run` and data where these are still there."""
    config = loaded.config
    progress = dict(loaded.metadata)
    manifest = manifest_of_run(config.data, progress.get("data"))
    splits = manifest.splits if manifest else {}
    newest: dict[str, Any] = next(reversed(_logged(run, progress["step"], "eval")), {})
    return ModelCardInfo(
        name=name,
        licence=licence,
        config=config,
        tokenizer=loaded.tokenizer.name,
        tokenizer_loses=loaded.tokenizer.lossy,
        step=progress["step"],
        tokens=progress["tokens"],
        averaged=(loaded.folder / AVERAGE).exists(),
        losses={key: newest[key] for key in LOSS_NAMES if isinstance(newest.get(key), float)},
        tasks=_read_tasks(run, progress["step"]),
        origin=_find_origin(config, progress),
        trained=bool(progress["step"]) or not progress.get("origin"),
        sources=manifest.sources if manifest else (),
        sizes={f"{key}_{unit}": getattr(split, unit) for key, split in splits.items() for unit in ("tokens", "bytes")},
        versions=_read_versions(run),
    )


def _logged(run: Path | None, step: int, *events: str) -> list[dict[str, Any]]:
    """The run's log records of these events at exactly this step."""
    records = iter_log(RunFolder(run).log) if run else ()
    return [record for record in records if record["event"] in events and record.get("step") == step]


def _read_tasks(run: Path | None, step: int) -> dict[str, dict[str, float]]:
    """The newest result of each task. `groundup evaluate` measures more than an evaluation during training does."""
    tasks: dict[str, dict[str, float]] = {}
    for record in _logged(run, step, "eval"):
        tasks |= task_metrics(record.get("tasks"))
    for record in _logged(run, step, *EVAL_CHECKPOINT_EVENTS):
        tasks |= task_metrics(record.get("results"))
    return tasks


def _find_origin(config: Config, progress: dict[str, Any]) -> str:
    """The model whose weights the first of these runs started with; of a folder only its name, as a card is public.

    A run may have started from a run that started from another: these are followed as far as their folders exist.
    """
    name = ""
    for _ in range(MAX_ANCESTORS):
        imported = progress.get("origin")
        if isinstance(imported, dict) and imported:
            source = str(imported.get("source", ""))
            return source.removeprefix(PREFIX) if source.startswith(PREFIX) else f"a {imported.get('kind', 'model')}"
        if not config.init_from:
            break
        folder = Path(config.init_from)
        run = run_of(folder) or (folder.parent.parent if folder.parent.name == "checkpoints" else folder)
        name = run.name
        try:
            config, progress = load_config(folder), load_metadata(folder)
        except GroundupError:
            break
    return name


def _read_versions(run: Path | None) -> dict[str, str]:
    """Versions of Python and of the libraries that the run was trained with."""
    path = run / "environment.json" if run else None
    try:
        environment = read_json(path) if path else {}
    except CheckpointError:  # a model needs no record of the machine that trained it
        environment = {}
    libraries = environment.get("versions")
    versions = {"python": environment.get("python"), **(libraries if isinstance(libraries, dict) else {})}
    return {str(name): str(version) for name, version in versions.items() if version}


def card(info: ModelCardInfo, usage: str, *, header: Mapping[str, Any] = HEADER, lead: str = "") -> str:
    """The card in Markdown, after the YAML metadata that the hub reads.

    `usage` is Python code, `header` the metadata besides licence and data sets, `lead` the first paragraph.
    """
    parts = [_header(info, header), f"# {plain(info.name)}", *([lead] if lead else []), _summary(info)]
    parts += ["## Use", f"```python\n{usage.strip()}\n```"]
    parts += ["## Data", *_data(info)]
    parts += ["## Training", _table(_training(info)) if info.trained else NO_RECIPE]
    parts += ["## Losses", *_losses(info)]
    parts += ["## Tasks", _table(_tasks(info))] if info.tasks else []
    lost = f" Of a text, {info.tokenizer_loses}." if info.tokenizer_loses else ""
    lost = ONLY_KNOWN_CHARACTERS if info.tokenizer == "char" else lost
    parts += ["## Limits", LIMITS + lost]
    parts += ["## Licence", f"`{info.licence}`, as given by the exporter." if info.licence else NO_LICENCE]
    parts += ["## How it was made", *_made(info)]
    return "\n\n".join(parts) + "\n"


def _header(info: ModelCardInfo, header: Mapping[str, Any]) -> str:
    values = dict(header)
    if info.licence:
        values["license"] = info.licence
    known = [parse_spec(name).repo for name, row in CORPORA.items() if row.source is not None]
    if datasets := sorted({repo for repo in known for source in info.sources if source.startswith(f"{repo}/")}):
        values["datasets"] = datasets
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip()}\n---"


def _summary(info: ModelCardInfo) -> str:
    model = info.config.model
    start = f"initialized with the weights of {plain(info.origin)}" if info.origin else "trained from scratch"
    return (
        f"A language model of {parameters(model):,} parameters, {start}: "
        f"{human_plural(model.n_layer, 'layer')}, {human_plural(model.n_head, 'head')}, width {model.n_embd}, "
        f"a context of {model.block_size:,} tokens, "
        f"a vocabulary of {model.vocab:,} ids of the tokenizer `{info.tokenizer}`."
    )


def _data(info: ModelCardInfo) -> Iterator[str]:
    if not info.sources:
        yield "The training data was not available when this card was written."
        return
    listed = [f"- `{plain(source)}`" for source in info.sources[:MAX_SOURCES]]
    if len(info.sources) > MAX_SOURCES:
        listed.append(f"- and {len(info.sources) - MAX_SOURCES:,} more")
    yield "\n".join(listed)
    sizes = info.sizes
    yield (
        f"{sizes['train_tokens']:,} tokens for training ({sizes['train_bytes']:,} bytes of text), "
        f"{sizes['val_tokens']:,} held out."
    )


def _training(info: ModelCardInfo) -> Iterator[tuple[str, str]]:
    config, optimizer = info.config, info.config.optimizer
    yield "steps", f"{info.step:,}"
    yield "tokens", f"{info.tokens:,}"
    yield "tokens per step", f"{config.train.batch_tokens:,}"
    if train_tokens := info.sizes.get("train_tokens"):
        yield "epochs", f"{info.tokens / train_tokens:.2f}"
    yield "optimizer", f"{optimizer.name}, peak learning rate {optimizer.learning_rate:g}, {config.schedule.name}"
    yield "weight decay", f"{optimizer.weight_decay:g}"
    yield "dropout", f"{config.model.dropout:g}"
    yield "precision", config.train.precision
    yield "seed", str(config.train.seed)
    if info.averaged:
        yield "weights", f"exponential moving average, decay {optimizer.ema_decay:g} per step"


def _losses(info: ModelCardInfo) -> Iterator[str]:
    rows = [(name, f"{info.losses[key]:.4f}") for key, name in LOSS_NAMES.items() if key in info.losses]
    rows.append(("random guessing, nats per token", f"{math.log(info.config.model.vocab):.4f}"))
    yield _table(rows)
    held_out = "Over sequences of the full context that do not overlap, of text held out from training."
    yield held_out if "val_loss" in info.losses else "No validation loss of these weights is known."


def _tasks(info: ModelCardInfo) -> Iterator[tuple[str, str]]:
    """A row for each metric, with its standard error and the number of questions."""
    for task, result in info.tasks.items():
        for name, value in result.items():
            if name == "n" or name.endswith(("_stderr", "_ties")):
                continue
            error = f" ± {result[f'{name}_stderr']:.4f}" if f"{name}_stderr" in result else ""
            yield f"{task}, {name}", f"{value:.4f}{error}, {result.get('n', 0):,.0f} questions"


def _made(info: ModelCardInfo) -> Iterator[str]:
    yield "With `groundup`, which trains, checks and exports models from scratch."
    if info.versions:
        yield "It was trained with these versions:"
        yield _table(sorted(info.versions.items()))
    model = yaml.safe_dump(info.config.model.model_dump(exclude_none=True), sort_keys=False).strip()
    yield f"The model's configuration:\n\n```yaml\n{model}\n```"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {plain(name)} | {plain(value)} |" for name, value in rows)])


def plain(text: str) -> str:
    """The beginning of a text, with spaces for what Markdown or a terminal interprets."""
    shown = re.sub(r"[`<>|\[\]]", " ", text[:MAX_TEXT_CHARS])
    return "".join(char if char.isprintable() else " " for char in shown)
