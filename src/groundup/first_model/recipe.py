"""Recipe of a quickstart: every decision, made from a survey of the text, the machine and the time, with its reason.

The rules come from measurements on two CPU cores (docs/lab-notes.md); for GPUs they are extrapolated.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.config.presets import MODERN_PARTS, MODERN_SMALL_OPTIMIZER, MODERN_SMALL_SCHEDULE
from groundup.config.schema import Config
from groundup.model.size import flops_per_token, parameters
from groundup.planning.warnings import MAX_EPOCHS, MIN_STEPS
from groundup.utils.plural import human_plural

# (tokens per sequence, seconds of training from which sequences are twice as long)
BYTE_CONTEXT = (128, 120)  # for tokens of about one byte
SUBWORD_CONTEXT = (64, 600)  # for tokens that are pieces of words
BATCH_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 32_768}
SMALL_BUDGET_FLOPS = 6e11  # of the complete training; with less, batch and sequences are halved, for more steps

# (layers, heads, width), from small to large: wide and shallow models learn fastest in minutes
SHAPES = (
    (2, 2, 64), (2, 3, 96), (2, 4, 128), (2, 4, 160), (2, 4, 192), (3, 4, 192), (3, 4, 256), (4, 4, 256), (6, 4, 256),
    (6, 6, 384), (8, 8, 512), (12, 6, 768),
)  # fmt: skip
MATMUL_UTILIZATION = 0.15  # training speed of such small models, divided by that of bare matrix products
FLOPS_PER_SQUARED_PARAMETER = 10.0  # of the complete training / (parameters of the blocks)²
MAX_PARAMETERS_PER_TOKEN = 4.0  # more can only memorize the text
MIN_STEPS_PER_EPOCH = 32  # for a small text the batch is made smaller
EVAL_TOKENS = 10_240  # of each split, per evaluation; half with a small budget
N_EVALUATIONS = 10  # during the run, to find the best checkpoint; at least every 250 steps


class Device(NamedTuple):
    """The device to train on."""

    name: str  # as torch has it
    flops: float  # per second, of matrix products


@dataclass(frozen=True)
class Choice:
    """A decision, its reason, and whether it is shown where details are not."""

    what: str
    value: str
    reason: str
    is_main: bool = True

    @property
    def line(self) -> str:
        return f"{self.what:<10} {self.value}"


def choose_context(tokens: int, text_bytes: int, seconds: float, *, small_budget: bool = False) -> tuple[int, Choice]:
    """Choose the context in tokens: a power of two, several times in the training split; half for a `small_budget`."""
    bytes_per_token = text_bytes / max(1, tokens)
    block_size, long_run = BYTE_CONTEXT if bytes_per_token < 1.5 else SUBWORD_CONTEXT
    block_size = block_size // 2 if small_budget else block_size * 2 if seconds >= long_run else block_size
    why = "short sequences learn fastest in little time"
    while block_size > 8 and tokens < 4 * block_size:
        block_size //= 2
        why = "the text holds only a few sequences"
    value = f"{block_size} tokens = about {block_size * bytes_per_token:,.0f} bytes"
    return block_size, Choice("context", value, why, is_main=False)


def choose_shape(device: Device, seconds: float, tokens: int) -> tuple[tuple[int, int, int], str]:
    """Choose the largest (layers, heads, width) for the time and the text; returns it and its limit, as text."""
    budget = training_flops(device, seconds)
    best = SHAPES[0]
    for shape in SHAPES[1:]:
        in_blocks = 12 * shape[0] * shape[2] ** 2
        if in_blocks > MAX_PARAMETERS_PER_TOKEN * tokens:
            return best, f"a larger one would memorize {tokens:,} tokens"
        if FLOPS_PER_SQUARED_PARAMETER * in_blocks**2 > budget:
            return best, f"the largest that this machine can train usefully in {minutes(seconds)}"
        best = shape
    return best, "the largest of a quickstart"


def training_flops(device: Device, seconds: float) -> float:
    """FLOPs of training in the given time."""
    return MATMUL_UTILIZATION * device.flops * seconds


def build_recipe(
    device: Device, seconds: float, data: str, tokens: int, text_bytes: int, vocab: int
) -> tuple[Config, list[Choice]]:
    """Build the complete config of a quickstart; returns it with the choices made."""
    small_budget = training_flops(device, seconds) < SMALL_BUDGET_FLOPS
    block_size, context = choose_context(tokens, text_bytes, seconds, small_budget=small_budget)
    (layers, heads, width), why = choose_shape(device, seconds, tokens)
    most = BATCH_TOKENS[device.name.partition(":")[0]] // (2 if small_budget else 1)
    batch_tokens = max(block_size, min(most, 2 ** int(math.log2(max(1, tokens // MIN_STEPS_PER_EPOCH)))))
    model = {"n_layer": layers, "n_head": heads, "n_embd": width, "block_size": block_size, **MODERN_PARTS}
    values: dict[str, Any] = {
        "data": data,
        "model": {**model, "vocab_multiple": 8},
        "optimizer": MODERN_SMALL_OPTIMIZER,
        "schedule": MODERN_SMALL_SCHEDULE,
        "train": {"max_time": seconds, "batch_tokens": batch_tokens, "log_every": 100},
        "evaluate": {"tokens": EVAL_TOKENS // (2 if small_budget else 1), "sample_tokens": 80},
        "checkpoint": {"every_steps": 1000, "keep_last": 1},
    }
    config = merge_and_validate([ConfigSource("quickstart", values)])
    sized = config.model.model_copy(update={"vocab_size": vocab})
    sequences = human_plural(config.batch_size, "sequence")
    shape = f"modern, {layers} layers x {width}, {heads} heads, context {block_size}: {parameters(sized):,} parameters"
    work = f"{sequences} = {batch_tokens:,} tokens, {flops_per_token(sized) / 1e6:,.2g} MFLOP per token"
    return config, [
        context,
        Choice("model", shape, f"{why}; rotary positions, SwiGLU and Muon learn fastest"),
        Choice("batch", work, "small batches give more updates in a short run", is_main=False),
    ]


def choose_run_length(config: Config, epochs: float | None, tokens: int) -> tuple[Config, Choice]:
    """Choose the complete time, or fewer epochs of a small text; `epochs`: how many would fit into the time."""
    seconds = config.train.max_time or 0.0
    steps_per_epoch = max(1.0, tokens / config.train.batch_tokens)
    max_epochs = max(MAX_EPOCHS, math.ceil(MIN_STEPS / steps_per_epoch))
    if epochs is None or epochs <= max_epochs:
        passes = "" if epochs is None else f" = about {epochs:.2g} passes over the text"
        choice = Choice("training", f"{minutes(seconds)}{passes}", "as asked; the learning rate ends with the time")
    else:
        train = {"max_time": None, "epochs": float(max_epochs), "time_limit": seconds}
        config = config.model_copy(update={"train": config.train.model_copy(update=train)})
        why = f"the time would allow {epochs:,.0f}; after {max_epochs} a model mostly memorizes"
        choice = Choice("training", f"{max_epochs} passes over the text", why)
    steps = steps_per_epoch * min(max_epochs, MAX_EPOCHS if epochs is None else epochs)
    every = min(250, max(1, int(steps / N_EVALUATIONS)))
    evaluate = config.evaluate.model_copy(update={"every_steps": every, "sample_every_steps": 2 * every})
    return config.model_copy(update={"evaluate": evaluate}), choice


def minutes(seconds: float) -> str:
    """`1 minute`, `2.5 minutes`."""
    return "1 minute" if seconds == 60 else f"{seconds / 60:g} minutes"
