"""A run's config after its one resolution: frozen, without `auto`, and without values still to be computed."""

from typing import Literal

from groundup.config.model import ModelConfig
from groundup.config.schema import Config
from groundup.config.sections import OptimizerConfig, TrainConfig
from groundup.config.types import CheckpointingMode, Rate, Size

OPEN = (None, "auto")  # values that leave a key open


class ResolvedModel(ModelConfig):
    """Model section with its vocabulary and the width of the feed-forward layer."""

    n_inner: Size
    vocab_size: Size


class ResolvedOptimizer(OptimizerConfig):
    """Optimizer section with a peak learning rate for every role."""

    embedding_learning_rate: Rate
    head_learning_rate: Rate


class ResolvedTrain(TrainConfig):
    """Training section with the device, its arithmetic, and how work is divided."""

    micro_batch_size: Size
    device: str
    precision: Literal["fp32", "bf16", "fp16"]
    parallel: Literal["none", "ddp", "fsdp"]
    activation_checkpointing: CheckpointingMode
    threads: Size
    microbatch_threads: Size


class ResolvedConfig(Config):
    """Everything that defines a run, and nothing left to decide; made by `run.resolve.resolve_config`."""

    model: ResolvedModel
    optimizer: ResolvedOptimizer
    train: ResolvedTrain


RESOLVED_KEYS = {
    f"{section}.{key}"
    for section, narrowed in {"model": ResolvedModel, "optimizer": ResolvedOptimizer, "train": ResolvedTrain}.items()
    for key in narrowed.__annotations__
}
"""Dotted keys that a user may leave open and that the resolution fills in."""
