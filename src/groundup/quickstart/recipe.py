"""Every decision of a quickstart, from what there is to learn from and what there is to learn with, and why.

The rules were found by measurement on two CPU cores (docs/lab-notes.md); for GPUs they are extrapolated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.config.presets import MODERN_PARTS, MODERN_SMALL_OPTIMIZER, MODERN_SMALL_SCHEDULE
from groundup.config.schema import Config
from groundup.model.size import flops_per_token, parameters
from groundup.quickstart.survey import Survey

BPE_FROM = 400_000  # bytes of text from which learning a vocabulary pays
BPE_FROM_WIDE = 30_000  # the same for scripts whose characters take several bytes, which bytes alone would tear apart
BPE_SIZES = (512, 4096)
FEW = 8  # different characters, as in a genome
BYTES_AN_ID = 1_000  # bytes of text for each id of a vocabulary: enough to see most pieces often

# Tokens in a window, and seconds from which there is time to learn from windows twice as long.
SHORT_TOKENS = (128, 120)  # where a token is about a byte
LONG_TOKENS = (64, 600)  # where it is a piece of a word
STEP_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 32_768}
LITTLE_WORK = 6e11  # FLOPs of the whole training; with less, steps and windows half as long leave time for more steps

# (layers, heads, width), from small to large: wide and shallow, which learns fastest in minutes
LADDER = (
    (2, 2, 64), (2, 3, 96), (2, 4, 128), (2, 4, 160), (2, 4, 192), (3, 4, 192), (3, 4, 256), (4, 4, 256), (6, 4, 256),
    (6, 6, 384), (8, 8, 512), (12, 6, 768),
)  # fmt: skip
SUSTAINED = 0.15  # of the speed of bare matrix products that training reaches, small as these models are
WORK_A_SQUARE = 10.0  # FLOPs of the whole training for each parameter of the blocks, squared
PARAMETERS_A_TOKEN = 4.0  # more can only learn the text by heart
MOST_EPOCHS = 8  # after that, a model of this size gets worse on text that it has not seen …
LEAST_STEPS = 300  # … but it takes some steps to learn anything at all
STEPS_AN_EPOCH = 32  # at least: of a small text the steps are small, or there would be few of them
EVALUATED = 10_240  # tokens of each split, each time; half where little can be done
EVALUATIONS = 10  # during the run, to find the best checkpoint; every 250 steps where it is long


class Machine(NamedTuple):
    """What there is to learn with."""

    device: str
    threads: int
    precision: str
    reason: str  # for the precision
    flops: float  # a second, of matrix products in that precision


@dataclass(frozen=True)
class Choice:
    """One decision."""

    what: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what:<10} {self.value}\n{'':<10} {self.reason}"


def choose_tokenizer(text: Survey) -> Choice:
    """A tokenizer for this text."""
    wide = text.bytes_a_character > 1.5
    if text.distinct <= FEW:
        return Choice("tokenizer", "byte", "so few different characters are a vocabulary already")
    if text.bytes < (BPE_FROM_WIDE if wide else BPE_FROM):
        return Choice("tokenizer", "byte", "too little text to learn a vocabulary from; every byte is a token")
    size = 2 ** round(math.log2(text.bytes / BYTES_AN_ID))
    size = min(max(size, BPE_SIZES[0]), BPE_SIZES[1])
    why = "its characters take several bytes, which a vocabulary joins again" if wide else "each token then says more"
    return Choice("tokenizer", f"bpe:{size}", f"{size:,} pieces of words learnt from the text; {why}")


def choose_context(tokens: int, text_bytes: int, seconds: float, *, little: bool = False) -> tuple[int, Choice]:
    """Tokens in a window, a power of two, of which the training split holds several; half as many for `little` work."""
    bytes_a_token = text_bytes / max(1, tokens)
    block_size, long_run = SHORT_TOKENS if bytes_a_token < 1.5 else LONG_TOKENS
    block_size = block_size // 2 if little else block_size * 2 if seconds >= long_run else block_size
    why = "short windows learn fastest in little time"
    while block_size > 8 and tokens < 4 * block_size:
        block_size //= 2
        why = "the text holds only a few windows"
    return block_size, Choice("context", f"{block_size} tokens = about {block_size * bytes_a_token:,.0f} bytes", why)


def choose_shape(machine: Machine, seconds: float, tokens: int) -> tuple[tuple[int, int, int], str]:
    """The largest shape, (layers, heads, width), that the time can fill and the text can feed, and what limits it."""
    work = work_of(machine, seconds)
    best = LADDER[0]
    for shape in LADDER[1:]:
        layers, _, width = shape
        in_blocks = 12 * layers * width**2
        if in_blocks > PARAMETERS_A_TOKEN * tokens:
            return best, f"a larger one would learn {tokens:,} tokens by heart"
        if WORK_A_SQUARE * in_blocks**2 > work:
            return best, f"the largest that this machine can teach something in {minutes(seconds)}"
        best = shape
    return best, "the largest that needs no decision of yours"


def work_of(machine: Machine, seconds: float) -> float:
    """FLOPs that training gets done in the time."""
    return SUSTAINED * machine.flops * seconds


def step_size(machine: Machine, tokens: int, block_size: int, *, little: bool = False) -> int:
    """Tokens a step, a power of two: what the machine likes, or less of a small text; half for `little` work."""
    most = STEP_TOKENS[machine.device.partition(":")[0]] // (2 if little else 1)
    return max(block_size, min(most, 2 ** int(math.log2(max(1, tokens // STEPS_AN_EPOCH)))))


def recipe(
    machine: Machine, seconds: float, data: str, tokens: int, text_bytes: int, vocab: int
) -> tuple[Config, list[Choice]]:
    """The whole config of a quickstart, and how it came about."""
    little = work_of(machine, seconds) < LITTLE_WORK
    block_size, context = choose_context(tokens, text_bytes, seconds, little=little)
    (layers, heads, width), why = choose_shape(machine, seconds, tokens)
    step_tokens = step_size(machine, tokens, block_size, little=little)
    model = {"n_layer": layers, "n_head": heads, "n_embd": width, "block_size": block_size, **MODERN_PARTS}
    values: dict[str, Any] = {
        "data": data,
        "model": {**model, "vocab_multiple": 8},
        "optimizer": MODERN_SMALL_OPTIMIZER,
        "schedule": MODERN_SMALL_SCHEDULE,
        "train": {"max_time": seconds, "batch_tokens": step_tokens, "log_every": 100},
        "evaluate": {"tokens": EVALUATED // (2 if little else 1), "sample_tokens": 80},
        "checkpoint": {"every_steps": 1000, "keep_last": 1},
    }
    config = merge_and_validate([ConfigSource("quickstart", values)])
    sized = config.model.model_copy(update={"vocab_size": vocab})
    each = f"{parameters(sized):,} parameters, {flops_per_token(sized) / 1e6:,.1f} MFLOP a token"
    shape = f"modern, {layers} layers x {width}, {heads} heads = {each}"
    windows = f"{config.batch_size} windows" if config.batch_size > 1 else "1 window"
    batch = f"{windows} = {step_tokens:,} tokens"
    return config, [
        context,
        Choice("model", shape, f"{why}; rotary positions, ReLU² and Muon learn fastest"),
        Choice("batch", batch, "small steps, and so many of them, learn most in little time"),
    ]


def horizon(config: Config, epochs: float | None, tokens: int) -> tuple[Config, Choice]:
    """All of the time, of which `epochs` is what it would hold; or fewer passes over a small text of `tokens`."""
    seconds = config.train.max_time or 0.0
    a_pass = max(1.0, tokens / config.train.batch_tokens)  # steps
    most = max(MOST_EPOCHS, math.ceil(LEAST_STEPS / a_pass))
    if epochs is None or epochs <= most:
        passes = "" if epochs is None else f" = about {epochs:.2g} passes over the text"
        choice = Choice("horizon", f"{minutes(seconds)}{passes}", "as asked; the learning rate ends with the time")
    else:
        train = {"max_time": None, "epochs": float(most), "time_limit": seconds}
        config = config.model_copy(update={"train": config.train.model_copy(update=train)})
        why = f"the time would hold {epochs:,.0f}; after {most} a model mostly learns by heart"
        choice = Choice("horizon", f"{most} passes over the text", why)
    steps = a_pass * min(most, MOST_EPOCHS if epochs is None else epochs)
    every = min(250, max(1, int(steps / EVALUATIONS)))
    evaluate = config.evaluate.model_copy(update={"every_steps": every, "sample_every_steps": 2 * every})
    return config.model_copy(update={"evaluate": evaluate}), choice


def minutes(seconds: float) -> str:
    """`1 minute`, `2.5 minutes`."""
    return "1 minute" if seconds == 60 else f"{seconds / 60:g} minutes"
