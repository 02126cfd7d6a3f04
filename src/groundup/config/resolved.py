"""A run's config after its one resolution: frozen, without `auto`, and without values still to be computed."""

from typing import Literal

from pydantic import Field

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
    """Everything that defines a run, and nothing left to decide; made by `run.resolve.resolve_config`.

    `recorded` is what config.yaml and checkpoints hold: the config as the user gave it, and what was chosen for this
    machine. Values that follow from other keys stay open there, so that they follow when such a file is edited.
    """

    model: ResolvedModel
    optimizer: ResolvedOptimizer
    train: ResolvedTrain
    recorded: Config = Field(exclude=True, repr=False)


MACHINE_KEYS = {
    "model.vocab_size", "train.device", "train.precision", "train.threads", "train.microbatch_threads",
    "train.micro_batch_size", "train.parallel", "train.activation_checkpointing",
}  # fmt: skip
"""Keys that a run may record though its user left them open, in this version or an earlier one."""
