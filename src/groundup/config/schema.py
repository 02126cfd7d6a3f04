"""One typed definition of a run: frozen, strict, read from presets, YAML files and the command line.

    preset (a row)  <  run.yaml  <  --section.key value  ──▶  Config  ──▶  run's config.yaml, checkpoint's config.json

`merge.py` merges these from left to right and validates once, so every mistake is reported in the same words
wherever it was made. No torch here: `groundup --help` and validation stay fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
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
from groundup.config.types import FREE, CheckpointingMode, OnResume, Section
from groundup.errors import ConfigError
from groundup.utils.system import splits_evenly

LARGE = 2**18  # numbers in the stream of a thread's pass: 1 MiB
SHARING = (4, 3, 2)  # threads that may share windows, where they divide all threads
RESIDUALS = 2**26  # numbers; of each, a block of GPT-2 keeps 64 bytes in fp32 (model/memory.py): 4 GiB


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
    def rows(self) -> int:
        """Windows a step: `batch_tokens` over `block_size`."""
        return self.train.batch_tokens // self.model.block_size

    @property
    def micro_rows(self) -> int:
        """Windows a forward pass."""
        if self.train.micro_batch_size:
            return min(self.rows, self.train.micro_batch_size)
        tokens = min(16_384, RESIDUALS // (self.model.n_layer * self.model.n_embd))
        rows = max(1, tokens // self.model.block_size)
        if rows >= self.rows:
            return self.rows
        return rows - rows % next((n for n in self._wanted if n <= rows), 1)  # as many for each thread

    @property
    def _wanted(self) -> tuple[int, ...]:
        """Numbers of threads that may share windows, the best first.

        That takes a CPU, nothing drawn at random in the passes, and no compiler, which would see one thread's alone.
        More than a few would wait for Python's lock, which one of them holds at a time.
        """
        train, threads = self.train, self.train.threads or 1
        if self.model.dropout or train.device != "cpu" or train.compile != "off":
            return ()
        return (
            (min(train.microbatch_threads, threads),)
            if train.microbatch_threads
            else tuple(n for n in SHARING if threads % n == 0)
        )

    def shares_of(self, rows: int, processes: int = 1) -> int:
        """Threads that share a pass over so many windows: what `train.microbatch_threads` resolves to."""
        return next((n for n in self._wanted if processes == 1 and splits_evenly(rows, n)), 1)

    @property
    def shares(self) -> int:
        """Threads that share the windows of a pass, of one process."""
        return self.shares_of(self.micro_rows)

    def recomputed_of(self, rows: int) -> CheckpointingMode:
        """What the backward pass computes again of so many windows: `train.activation_checkpointing`, decided.

        On a CPU what is cheap, where it is large: of small passes Python's part would be dearer than the memory is
        worth. Compilers decide it by themselves.
        """
        train = self.train
        if train.activation_checkpointing != "auto":
            return train.activation_checkpointing
        large = rows * self.model.block_size * self.model.n_embd >= LARGE * self.shares_of(rows)
        return "selective" if large and train.device == "cpu" and train.compile == "off" else "none"

    @model_validator(mode="after")
    def _patience_needs_evaluations(self) -> Config:
        if self.train.early_stopping_patience and not self.evaluate.every_steps:
            raise ValueError(
                "train.early_stopping_patience counts evaluations, and evaluate.every_steps is 0; give it a number"
            )
        return self

    @model_validator(mode="after")
    def _pieces_double(self) -> Config:
        first, block = self.train.seq_len_warmup_from, self.model.block_size
        if first and (block % first or (block // first).bit_count() != 1):
            fits = [block >> n for n in range(block.bit_length()) if block % (1 << n) == 0 and block >> n >= 2]
            near = min(fits, key=lambda length: abs(length - first))
            raise ValueError(
                f"train.seq_len_warmup_from {first} does not become model.block_size {block} by doubling; "
                f"{near} does, and none never cuts"
            )
        return self

    @model_validator(mode="after")
    def _whole_windows(self) -> Config:
        tokens, block = self.train.batch_tokens, self.model.block_size
        if tokens % block:
            near = max(1, round(tokens / block)) * block
            raise ValueError(
                f"train.batch_tokens {tokens} is not a multiple of model.block_size {block}; {near} would fit"
            )
        return self


def resume_rule(dotted: str) -> OnResume:
    """Whether the config key `dotted`, such as `train.seed`, may change on resume, as noted beside its field.

    KeyError for a key that does not exist.
    """
    owner: type[Section] = Config
    *sections, name = dotted.split(".")
    for section in sections:
        owner = owner.model_fields[section].annotation  # type: ignore[assignment]
    noted = (item for item in owner.model_fields[name].metadata if isinstance(item, OnResume))
    return next(noted, owner.on_resume)


def to_yaml(config: Config) -> str:
    """The config as YAML, complete and readable by `decode`."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError when it is missing or is no mapping of sections."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give an existing YAML file") from error
    except (yaml.YAMLError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(f"{path}{line}: not YAML; write `section:` and indented `key: value` lines") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections such as `model:` and `train:`, found {type(values).__name__}")
    return values
