"""One typed definition of a run: frozen, strict, read from presets, YAML files and the command line.

    preset (a row)  <  run.yaml  <  --section.key value  ──▶  Config  ──▶  run's config.yaml, checkpoint's config.json

`decode.py` merges these from left to right and validates once, so every mistake is reported in the same words
wherever it was made. No torch here: `groundup --help` and validation stay fast.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from groundup.errors import ConfigError
from groundup.fields import DEVICE_PATTERN, LARGEST, Count, Decay, Duration, Fraction, Positive, Rate, Section, Size


class ModelConfig(Section):
    """The shape of a GPT and the parts it is made of."""

    n_layer: Size = 4
    """blocks"""
    n_head: Size = 4
    """attention heads a block; must divide n_embd"""
    n_embd: Size = 128
    """width of the residual stream"""
    n_inner: Size | None = None
    """width of the feed-forward layer; none means 4 x n_embd"""
    block_size: Annotated[int, Field(ge=2, le=LARGEST)] = 256
    """context length in tokens"""
    vocab_size: Size | None = None
    """token ids; none means as many as the data's tokenizer has"""
    vocab_multiple: Size = 64
    """embedding rows are padded to a multiple of this, for speed; padded ids are masked"""
    bias: bool = True
    """biases in linear layers and layer norms, as GPT-2 has them"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """dropout after the embedding, in attention and on both residual branches"""
    block: Literal["pre_norm", "post_norm"] = "pre_norm"
    """where norms stand: before each branch and at the end (GPT-2), or after each sum (GPT-1)"""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """rmsnorm: only scaled to unit mean square, without weights"""
    norm_eps: Annotated[float, Field(ge=1e-12, le=1)] = 1e-5
    """added to the variance or mean square in every norm"""
    positions: Literal["learned", "rotary"] = "learned"
    """a vector for each place, added once, or queries and keys rotated by their place (arXiv:2104.09864)"""
    rotary_base: Annotated[float, Field(gt=1, le=1e12)] = 10_000.0
    """the slowest rotation turns once in about 6.3 times this many tokens"""
    qk_norm: bool = False
    """normalise queries and keys, head by head (arXiv:2302.05442)"""
    embedding_norm: bool = False
    """normalise the embedding before the first block"""
    activation: Literal["gelu_tanh", "gelu", "relu", "relu2"] = "gelu_tanh"
    """nonlinearity of the feed-forward layer; GPT-1 and GPT-2 use the tanh form of GELU, modern models ReLU squared"""
    tied: bool = True
    """output head shares the token embedding"""
    softcap: Annotated[float, Field(ge=1e-3, le=1e6)] | None = None
    """logits are squashed into ± this by a tanh; none means they are not"""
    init: Literal["gpt2", "gpt2-released", "gpt1", "modern"] = "gpt2"
    """weights at the start; gpt2 scales residual projections by depth, modern begins them and the head at zero"""

    @property
    def inner(self) -> int:
        """Width of the feed-forward layer."""
        return self.n_inner or 4 * self.n_embd

    @property
    def vocab(self) -> int:
        """Number of token ids; the data must have set it."""
        if self.vocab_size is None:
            raise ConfigError("model.vocab_size: not set; give the number of ids of the tokenizer")
        return self.vocab_size

    @property
    def padded_vocab(self) -> int:
        """Rows of the token embedding: `vocab` rounded up to a multiple of `vocab_multiple`."""
        return -(-self.vocab // self.vocab_multiple) * self.vocab_multiple

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.n_embd % self.n_head:
            near = min(_divisors(self.n_embd), key=lambda h: abs(h - self.n_head))
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}; n_head {near} would fit")
        if self.positions == "rotary" and self.n_embd // self.n_head % 2:
            raise ValueError(
                f"rotary positions turn pairs, but a head is {self.n_embd // self.n_head} wide (n_embd / n_head); "
                "make that even, or take learned positions"
            )
        return self


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return [*small, *(n // d for d in reversed(small))]


class BatchesConfig(Section):
    """How training windows are drawn."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1337
    """order of the windows, initial weights and dropout all follow from it"""
    micro_batch: Size | None = None
    """windows a forward pass; none means 16,384 tokens, fewer with a large vocabulary; changes rounding only"""


MUON_ONLY = ("matrix_learning_rate", "embedding_learning_rate", "head_learning_rate", "momentum")


class OptimizerConfig(Section):
    """AdamW (arXiv:1711.05101), alone or with Muon for the matrices inside the blocks."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon: matrices move by orthogonalised momentum, all else by AdamW"""
    learning_rate: Rate = 1e-3
    """peak learning rate of AdamW"""
    matrix_learning_rate: Rate = 0.02
    """peak learning rate of Muon's matrices"""
    embedding_learning_rate: Rate | None = None
    """beside Muon, peak for the embeddings; none means learning_rate"""
    head_learning_rate: Rate | None = None
    """beside Muon, peak for an untied output head; none means learning_rate"""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.1
    """decoupled decay of matrices, and with AdamW alone of embeddings; never of biases and norms"""
    beta1: Decay = 0.9
    """decay of the first moment"""
    beta2: Decay = 0.95
    """decay of the second moment; 0.99 for small batches"""
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """added to the root of the second moment"""
    momentum: Decay = 0.95
    """decay of Muon's momentum"""
    grad_clip: Annotated[float, Field(ge=0, le=1e9)] = 1.0
    """largest global gradient norm; 0 means no clipping"""


class ScheduleConfig(Section):
    """Learning rate over the run."""

    name: Literal["cosine", "constant", "wsd"] = "cosine"
    """shape after the warm-up; wsd stays at the peak, then falls in a straight line"""
    cooldown_fraction: Annotated[float, Field(gt=0, le=1)] = 0.4
    """the part of the horizon over which wsd falls"""
    warmup_steps: Count | None = None
    """steps of linear warm-up"""
    warmup_fraction: Fraction | None = None
    """the same as a part of the horizon; give one of the two"""
    floor: Fraction = 0.1
    """final learning rate as a part of the peak"""

    @model_validator(mode="after")
    def _one_warmup(self) -> ScheduleConfig:
        if self.warmup_steps is not None and self.warmup_fraction is not None:
            raise ValueError("give warmup_steps or warmup_fraction, not both")
        return self


HORIZONS = ("max_steps", "max_tokens", "epochs", "budget")


class TrainConfig(Section):
    """How long, how much at a time, and on what."""

    max_steps: Positive | None = None
    """horizon in steps"""
    max_tokens: Positive | None = None
    """horizon in tokens"""
    epochs: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """horizon in passes over the training split"""
    budget: Duration | None = None
    """horizon in wall-clock time, such as 30m; the learning rate ends when the time does"""
    stop_after: Duration | None = None
    """stop in a checkpoint after this much training time, wherever the learning rate stands"""
    patience: Positive | None = None
    """stop early after this many evaluations without a lower validation loss; none never does"""
    batch_tokens: Positive = 8192
    """tokens a step, over all accumulation and all processes"""
    device: Annotated[str, Field(pattern=f"^({DEVICE_PATTERN})$")] = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """arithmetic of matrix products; auto: bf16 where the hardware has it and it is faster"""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads; none means one for each core this process may use"""
    log_every: Positive = 10
    """steps between printed lines; log.jsonl has every step"""

    @model_validator(mode="after")
    def _one_horizon(self) -> TrainConfig:
        given = [name for name in HORIZONS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one horizon, not both {given[0]} and {given[1]}")
        return self


class EvaluateConfig(Section):
    """Losses and samples during training; none of it touches the training itself."""

    every_steps: Count = 250
    """steps between evaluations; 0 means only at the end"""
    tokens: Positive | None = 100_000
    """tokens scored of each split, spread evenly; none means the whole validation split, and as much of the other"""
    sample_every_steps: Count = 500
    """steps between samples; 0 means only at the end"""
    sample_tokens: Count = 100
    """length of a sample in tokens; 0 means no samples"""
    prompt: str = ""
    """what samples start with; empty means the start of a document"""


LOGITS = 2**28  # numbers; 1 GiB in fp32, and the loss needs it about three times


class CheckpointConfig(Section):
    """When checkpoints are written, and how many stay."""

    every_steps: Count = 1000
    """steps between checkpoints; 0 means only at the end and on Ctrl-C"""
    keep_last: Positive = 2
    """how many checkpoints stay on disk"""
    best: bool = True
    """save at every evaluation that finds the lowest validation loss so far, and keep that checkpoint as well"""


class Config(Section):
    """Everything that defines a run."""

    data: str | None = None
    """folder of prepared tokens"""
    model: ModelConfig = ModelConfig()
    batches: BatchesConfig = BatchesConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @property
    def rows(self) -> int:
        """Windows a step: `batch_tokens` over `block_size`."""
        return self.train.batch_tokens // self.model.block_size

    @property
    def micro_rows(self) -> int:
        """Windows a forward pass."""
        if self.batches.micro_batch:
            return min(self.rows, self.batches.micro_batch)
        tokens = min(16_384, LOGITS // self.model.padded_vocab)
        return min(self.rows, max(1, tokens // self.model.block_size))

    @model_validator(mode="after")
    def _patience_needs_evaluations(self) -> Config:
        if self.train.patience and not self.evaluate.every_steps:
            raise ValueError("train.patience counts evaluations, and evaluate.every_steps is 0; give it a number")
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
