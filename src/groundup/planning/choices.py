"""Every decision of a quickstart, from what there is to learn from and what there is to learn with, and why.

The rules were found by measurement on two CPU cores (docs/lab-notes.md); for GPUs they are extrapolated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from groundup.config import Config, ModelConfig
from groundup.data.survey import Survey
from groundup.decode import Overrides, decode
from groundup.model.count import flops_per_token, parameters
from groundup.presets import MODERN_PARTS

BPE_FROM = 400_000  # bytes of text from which learning a vocabulary pays
BPE_FROM_WIDE = 30_000  # the same for scripts whose characters take several bytes, which bytes alone would tear apart
BPE_SIZES = (512, 8192)
BYTES_AN_ID = 1_000  # bytes of text for each id of a vocabulary: enough to see most pieces often

CONTEXT_BYTES = 200  # of text that a window holds, about

# (layers, heads, width), from small to large
LADDER = (
    (2, 2, 64), (3, 3, 96), (4, 4, 128), (4, 5, 160), (4, 6, 192), (6, 4, 256), (6, 6, 384), (8, 8, 512), (12, 6, 768),
)  # fmt: skip
SUSTAINED = 0.15  # of the speed of bare matrix products that training reaches, small as these models are
WORK_A_SQUARE = 14.0  # FLOPs of the whole training for each parameter squared: at 6 FLOPs, 2.3 tokens a parameter …
# … a small part of Chinchilla's 20: in minutes on small text, steps count for more than the last bit of efficiency.
PARAMETERS_A_TOKEN = 4.0  # more can only learn the text by heart
MOST_EPOCHS = 8  # after that, a model of this size gets worse on text that it has not seen


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
        return f"{self.what:<10} {self.value}: {self.reason}"


def choose_tokenizer(text: Survey) -> Choice:
    """A tokenizer for this text."""
    wide = text.bytes_a_character > 1.5
    if text.bytes < (BPE_FROM_WIDE if wide else BPE_FROM):
        return Choice("tokenizer", "byte", "too little text to learn a vocabulary from; every byte is a token")
    size = 2 ** round(math.log2(text.bytes / BYTES_AN_ID))
    size = min(max(size, BPE_SIZES[0]), BPE_SIZES[1])
    why = "its characters take several bytes, which a vocabulary joins again" if wide else "each token then says more"
    return Choice("tokenizer", f"bpe:{size}", f"{size:,} pieces of words learnt from the text; {why}")


def choose_context(tokens: int, text_bytes: int) -> tuple[int, Choice]:
    """A context of about `CONTEXT_BYTES`, in tokens a power of two, of which the training split holds several."""
    bytes_a_token = max(1.0, text_bytes / max(1, tokens))
    block_size = 2 ** round(math.log2(CONTEXT_BYTES / bytes_a_token))
    why = f"about {block_size * bytes_a_token:,.0f} bytes; short windows learn fastest in little time"
    while block_size > 8 and tokens < 4 * block_size:
        block_size //= 2
        why = "the text holds only a few windows"
    return block_size, Choice("context", f"{block_size} tokens", why)


def choose_shape(machine: Machine, seconds: float, tokens: int, vocab: int, block_size: int) -> tuple[Any, Choice]:
    """The largest model that the time can fill and the text can feed: (layers, heads, width)."""
    work = SUSTAINED * machine.flops * seconds
    best, why = LADDER[0], "the smallest"
    for shape in LADDER:
        n = parameters(_model(shape, vocab, block_size))
        if n > PARAMETERS_A_TOKEN * tokens:
            why = f"a larger one would learn {tokens:,} tokens by heart"
            break
        if WORK_A_SQUARE * n * n > work:
            why = f"the largest that this machine can teach something in {seconds / 60:g} minutes"
            break
        best = shape
    layers, heads, width = best
    model = _model(best, vocab, block_size)
    each = f"{parameters(model):,} parameters, {flops_per_token(model) / 1e6:,.0f} MFLOP a token"
    value = f"modern, {layers} layers x {width}, {heads} heads = {each}"
    return best, Choice("model", value, f"{why}; rotary positions, ReLU² and Muon learn fastest")


def recipe(
    machine: Machine, seconds: float, data: str, tokens: int, text_bytes: int, vocab: int
) -> tuple[Config, list[Choice]]:
    """The whole config of a quickstart, and how it came about."""
    block_size, context = choose_context(tokens, text_bytes)
    (layers, heads, width), shape = choose_shape(machine, seconds, tokens, vocab, block_size)
    rows = 16 if machine.device == "cpu" else 128
    batch = Choice(
        "batch", f"{rows} windows = {rows * block_size:,} tokens", "many small steps learn most in little time"
    )
    values: dict[str, Any] = {
        "data": data,
        "model": {"n_layer": layers, "n_head": heads, "n_embd": width, "block_size": block_size, **MODERN_PARTS},
        "optimizer": OPTIMIZER,
        "schedule": {"name": "wsd", "warmup_fraction": 0.01, "cooldown_fraction": 0.6, "floor": 0.0},
        "train": {"budget": seconds, "batch_tokens": rows * block_size, "log_every": 100},
        "evaluate": {"every_steps": 500, "tokens": 20_000, "sample_every_steps": 500, "sample_tokens": 80},
        "checkpoint": {"every_steps": 1000, "keep_last": 1},
    }
    values["model"]["vocab_multiple"] = 8
    return decode([Overrides("quickstart", values)]), [context, shape, batch]


OPTIMIZER: dict[str, Any] = {
    "name": "muon", "matrix_learning_rate": 0.03, "learning_rate": 0.006, "embedding_learning_rate": 0.1,
    "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95,
}  # fmt: skip


def _model(shape: tuple[int, int, int], vocab: int, block_size: int) -> ModelConfig:
    layers, heads, width = shape
    return ModelConfig(
        n_layer=layers, n_head=heads, n_embd=width, block_size=block_size, vocab_size=vocab, **MODERN_PARTS
    )


def horizon(config: Config, epochs: float | None) -> tuple[Config, Choice]:
    """All of the time; or fewer steps, where the time would hold too many passes over a small text."""
    seconds = config.train.budget or 0.0
    if epochs is None or epochs <= MOST_EPOCHS:
        passes = "" if epochs is None else f" = about {epochs:.2g} passes over the text"
        return config, Choice("horizon", f"{seconds / 60:g} minutes{passes}", "as asked")
    train = config.train.model_copy(update={"budget": None, "epochs": float(MOST_EPOCHS)})
    why = f"the time would hold {epochs:,.0f}, and after {MOST_EPOCHS} a model only learns the text by heart"
    return config.model_copy(update={"train": train}), Choice("horizon", f"{MOST_EPOCHS} passes over the text", why)
