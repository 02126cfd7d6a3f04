"""The typed definition of a run: frozen, strict, read from presets, YAML files and the command line.

    preset (a row)  <  run.yaml  <  --section.key value  -->  Config  -->  run's config.yaml, checkpoint's config.json

`merge.py` merges these from left to right and validates once, so every mistake is reported in the same words wherever
it was made. No torch here: `groundup --help` and validation stay fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import yaml
from pydantic import model_validator

from groundup.config.model import ModelConfig
from groundup.config.renamed import rename_keys
from groundup.config.sections import (
    CheckpointConfig,
    EvaluateConfig,
    GuardConfig,
    OptimizerConfig,
    PrepareConfig,
    ScheduleConfig,
    TrackingConfig,
    TrainConfig,
)
from groundup.config.types import FREE, OnResume, Section


class Config(Section):
    """Everything that defines a run."""

    data: Annotated[str | None, FREE] = None
    """folder of prepared tokens"""
    init_from: str | None = None
    """checkpoint folder or run whose weights a new run starts with"""
    init_sha256: str | None = None
    """checksum of those weights, noted when the run is configured"""
    prepare: PrepareConfig = PrepareConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    guard: GuardConfig = GuardConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _previous_names(cls, values: Any) -> Any:
        return rename_keys(values)[0] if isinstance(values, Mapping) else values

    @property
    def batch_size(self) -> int:
        """Sequences per optimizer step: `batch_tokens` / `block_size`."""
        return self.train.batch_tokens // self.model.block_size

    @model_validator(mode="after")
    def _patience_needs_evaluations(self) -> Config:
        evaluate = self.evaluate
        if self.train.early_stopping_patience and not (evaluate.every_steps or evaluate.every_epochs):
            raise ValueError(
                "train.early_stopping_patience counts evaluations, and evaluate.every_steps is 0; give it a number"
            )
        return self

    @model_validator(mode="after")
    def _lengths_double_up_to_block_size(self) -> Config:
        first, block = self.train.seq_len_warmup_from, self.model.block_size
        if first and (block % first or (block // first).bit_count() != 1):
            fits = [block >> n for n in range(block.bit_length()) if block % (1 << n) == 0 and block >> n >= 2]
            near = min(fits, key=lambda length: abs(length - first))
            raise ValueError(
                f"train.seq_len_warmup_from {first} does not become model.block_size {block} by doubling; "
                f"{near} does; none turns the warm-up off"
            )
        return self

    @model_validator(mode="after")
    def _batch_of_complete_sequences(self) -> Config:
        tokens, block = self.train.batch_tokens, self.model.block_size
        if tokens % block:
            near = max(1, round(tokens / block)) * block
            raise ValueError(
                f"train.batch_tokens {tokens} is not a multiple of model.block_size {block}; {near} would fit"
            )
        return self


SECTIONS = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}


def resume_rule(dotted: str) -> OnResume:
    """Whether the config key `dotted`, such as `train.seed`, may change on resume, as noted at its field.

    KeyError for a key that does not exist.
    """
    *path, name = dotted.split(".")
    section = section_at(path)
    noted = (item for item in section.model_fields[name].metadata if isinstance(item, OnResume))
    return next(noted, section.on_resume)


def section_at(path: Iterable[str]) -> type[Section]:
    """The section of the config that a path of keys leads to; KeyError where there is none."""
    section: type[Section] = Config
    for name in path:
        section = section.model_fields[name].annotation  # type: ignore[assignment]
    return section


def to_yaml(config: Config) -> str:
    """The config as YAML, complete and readable by `merge_and_validate`."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)
