"""What is known of a trained model: what its card tells, from the checkpoint, its run and its data. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from groundup.checkpoint.data_match import manifest_of_run
from groundup.checkpoint.files import AVERAGE, PROGRESS, read_config, read_json
from groundup.checkpoint.log import EVAL_CHECKPOINT_EVENTS, iter_log
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.errors import GroundupError
from groundup.interop.model_card import ModelCardInfo
from groundup.sources.hub_client import PREFIX

if TYPE_CHECKING:
    from groundup.checkpoint.load import LoadedModel

GENERATIONS = 100  # of runs that began with another's weights; folders could name each other


def collect_card_info(loaded: LoadedModel, name: str, licence: str, run: Path | None) -> ModelCardInfo:
    """What is known of a model: from its checkpoint, and from its `run` and data where they are at hand."""
    config = loaded.config
    progress = read_json(loaded.folder / PROGRESS)
    manifest = manifest_of_run(config.data, progress.get("data"))
    splits = manifest.splits if manifest else {}
    sizes = {f"{name}_{what}": getattr(split, what) for name, split in splits.items() for what in ("tokens", "bytes")}
    return ModelCardInfo(
        name=name,
        licence=licence,
        config=config,
        parameters=sum(p.numel() for p in loaded.model.parameters()) - _padding(loaded),
        tokenizer=loaded.tokenizer.name,
        tokenizer_loses=loaded.tokenizer.lossy,
        step=progress["step"],
        tokens=progress["tokens"],
        averaged=(loaded.folder / AVERAGE).exists(),
        losses=_losses(run, progress["step"]),
        tasks=_tasks(run, progress["step"]),
        origin=_origin(config, progress),
        trained=bool(progress["step"]) or not progress.get("origin"),
        sources=manifest.sources if manifest else (),
        sizes=sizes,
        versions=_versions(run),
    )


def _padding(loaded: LoadedModel) -> int:
    """Numbers in the rows that only pad the vocabulary."""
    model = loaded.config.model
    return (model.padded_vocab - model.vocab) * model.n_embd * (1 if model.tie_embeddings else 2)


def _noted(run: Path | None, step: int, *events: str) -> list[dict[str, Any]]:
    """What the run noted of an event at this very step."""
    records = iter_log(RunFolder(run).log) if run else ()
    return [record for record in records if record["event"] in events and record.get("step") == step]


def _losses(run: Path | None, step: int) -> dict[str, float]:
    found = _noted(run, step, "eval")
    keys = ("train_loss", "val_loss", "bits_per_byte")
    return {key: found[-1][key] for key in keys if isinstance(found[-1].get(key), float)} if found else {}


def _tasks(run: Path | None, step: int) -> dict[str, dict[str, float]]:
    """The newest result of each task; that of `groundup evaluate` asks in more ways than that of training."""
    tasks: dict[str, dict[str, float]] = {}
    for record in _noted(run, step, "eval"):
        tasks |= record.get("tasks", {})
    for record in _noted(run, step, *EVAL_CHECKPOINT_EVENTS):
        tasks |= {name: found for name, found in record.get("results", {}).items() if name != "loss"}
    return tasks


def _origin(config: Config, progress: dict[str, Any]) -> str:
    """Whose weights these were at first. Folders stay unnamed but for their last part: a card is for the world.

    What a run began with may have begun with something else: that is followed as far as the folders are still there.
    """
    name = ""
    for _ in range(GENERATIONS):
        imported = progress.get("origin")
        if isinstance(imported, dict) and imported:
            source = str(imported.get("source", ""))
            return source.removeprefix(PREFIX) if source.startswith(PREFIX) else f"a {imported.get('kind', 'model')}"
        if not config.init_from:
            break
        folder = Path(config.init_from)
        name = folder.parent.parent.name if folder.parent.name == "checkpoints" else folder.name
        try:
            config, progress = Config.model_validate(read_config(folder)), read_json(folder / PROGRESS)
        except (GroundupError, ValidationError):
            break
    return name


def _versions(run: Path | None) -> dict[str, str]:
    """Of the libraries that it was trained with."""
    path = run / "environment.json" if run else None
    said = read_json(path) if path and path.is_file() else {}
    libraries = said.get("versions")
    versions = {"python": said.get("python"), **(libraries if isinstance(libraries, dict) else {})}
    return {name: str(version) for name, version in versions.items() if version}
