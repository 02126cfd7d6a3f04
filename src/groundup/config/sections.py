"""Sections of a run's config besides the model: preparation, optimizer, schedule, training, evaluation. No torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from groundup.config.types import (
    FREE,
    ROUNDING,
    CheckpointingMode,
    Count,
    Decay,
    Duration,
    Epochs,
    Fraction,
    OnResume,
    Positive,
    Rate,
    Section,
    Size,
    Whole,
    split_commas,
)
from groundup.utils.system import DEVICE_PATTERN


class PrepareConfig(Section):
    """Preparation of `data` if it does not exist yet; same options as `groundup prepare`."""

    sources: tuple[str, ...] = ()
    """files, folders, patterns or corpus names, separated by commas; empty: prepare nothing"""
    tokenizer: str = "gpt2"
    """auto (by the text), byte, char, gpt1, gpt2, bpe:SIZE[:pad] to train one, a tokenizer.json or a folder with one"""
    column: str = "text"
    """field of rows and tables that holds the text"""
    encoding: str | None = None
    """encoding of text files, such as cp1252; default: UTF-8"""
    read_as: Literal["text"] | None = None
    """text: read every file as it is, markup included; default: by its format"""
    separator: Annotated[str, Field(min_length=1)] | None = None
    """text between documents in a plain text file, such as <|endoftext|>; default: each file is one document"""
    clean: str = ""
    """any of lowercase,digits,punctuation: lower the case, drop digits, drop punctuation"""
    val_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """fraction of the text held out for validation"""
    max_tokens: Positive | None = None
    """maximum number of tokens to write, both splits together; default: no limit"""
    max_documents: Positive | None = None
    """maximum number of documents to read; default: no limit"""

    _split = field_validator("sources", mode="before")(split_commas)


MUON_ONLY = ("matrix_learning_rate", "embedding_learning_rate", "head_learning_rate", "momentum")


class OptimizerConfig(Section):
    """AdamW (arXiv:1711.05101), alone or with Muon for the matrices inside the blocks; or plain SGD."""

    name: Literal["adamw", "muon", "sgd"] = "adamw"
    """muon: orthogonalised momentum for matrices in blocks, AdamW for the rest; sgd: SGD with Nesterov momentum"""
    learning_rate: Rate = 1e-3
    """peak learning rate; with Muon, that of the parameters AdamW updates"""
    matrix_learning_rate: Rate = 0.02
    """peak learning rate of the matrices Muon updates"""
    embedding_learning_rate: Rate | None = None
    """with Muon, peak learning rate of the embeddings; default: learning_rate"""
    head_learning_rate: Rate | None = None
    """with Muon, peak learning rate of an untied output head; default: learning_rate"""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.1
    """weight decay of matrices, and without Muon of embeddings; never of biases and norms; decoupled except in SGD"""
    beta1: Decay = 0.9
    """AdamW: decay of the first moment"""
    beta2: Decay = 0.95
    """AdamW: decay of the second moment; 0.99 for small batches"""
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """AdamW: added to the root of the second moment"""
    momentum: Decay = 0.95
    """decay of Muon's and SGD's momentum"""
    orthogonalize: Literal["newton_schulz", "polar_express"] = "newton_schulz"
    """Muon's orthogonalisation; polar_express takes three iterations instead of five (arXiv:2505.16932)"""
    grad_clip: Annotated[float, Field(ge=0, le=1e9)] = 1.0
    """clip the global gradient norm to this; 0: no clipping"""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """decay per step of a running average of the weights (such as 0.999), used for evaluation; default: off"""


WARMUPS = ("warmup_steps", "warmup_tokens", "warmup_fraction")
COOLDOWNS = ("cooldown_steps", "cooldown_tokens", "cooldown_fraction")


class ScheduleConfig(Section):
    """Learning rate over the run."""

    name: Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt", "onecycle"] = "cosine"
    """shape after the warm-up; wsd holds the peak, then decays linearly; onecycle is torch's OneCycleLR"""
    warmup_steps: Count | None = None
    """steps of linear warm-up; onecycle rises along a cosine, over 0.3 of the run by default"""
    warmup_tokens: Count | None = None
    """warm-up in tokens"""
    warmup_fraction: Fraction | None = None
    """warm-up as a fraction of the run; give one of the three"""
    cooldown_steps: Positive | None = None
    """wsd: steps of decay at the end"""
    cooldown_tokens: Positive | None = None
    """wsd: decay in tokens"""
    cooldown_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """wsd: decay as a fraction of the run; default if none of the three is given: 0.4"""
    min_lr_ratio: Fraction = 0.1
    """final learning rate divided by the peak; not for onecycle"""
    div_factor: Annotated[float, Field(ge=1, le=1e12)] = 25.0
    """onecycle: initial learning rate is the peak divided by this"""
    final_div_factor: Annotated[float, Field(ge=1, le=1e12)] = 1e4
    """onecycle: final learning rate is the initial one divided by this"""

    @model_validator(mode="after")
    def _one_of_each(self) -> ScheduleConfig:
        for names in (WARMUPS, COOLDOWNS):
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) > 1:
                raise ValueError(f"give {given[0]} or {given[1]}, not both")
        return self


RUN_LENGTHS = ("max_steps", "max_tokens", "epochs", "max_time")


def _none_as_text(value: Any) -> Any:
    """`none` on the command line means no value; here it is the name of a mode."""
    return "none" if value is None else value


class TrainConfig(Section):
    """Run length, batch, and how to compute."""

    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 1337
    """random seed: data order, weights, dropout"""
    max_steps: Annotated[Positive | None, FREE] = None
    """run length in steps"""
    max_tokens: Annotated[Positive | None, FREE] = None
    """run length in tokens"""
    epochs: Annotated[Epochs | None, FREE] = None
    """run length in passes over the training split"""
    max_time: Annotated[Duration | None, FREE] = None
    """run length in wall-clock time, such as 30m; the learning-rate schedule ends with it"""
    time_limit: Annotated[Duration | None, FREE] = None
    """stop with a checkpoint after this much training time, wherever the schedule stands; default: off"""
    early_stopping_patience: Annotated[Positive | None, FREE] = None
    """stop after this many evaluations in a row without a lower validation loss; default: off"""
    batch_tokens: Positive = 8192
    """tokens per step, all processes together; gradients are accumulated as memory requires"""
    micro_batch_size: Annotated[Size | None, ROUNDING] = None
    """sequences per forward pass; default: 16,384 tokens' worth, fewer for large models, more on a GPU"""
    seq_len_warmup_from: Annotated[Whole, Field(ge=2)] | None = None
    """start with sequences of this length and double it up to block_size (sequence-length warm-up); default: off"""
    seq_len_warmup_until: Fraction = 0.5
    """fraction of the run after which sequences have their full length"""
    device: Annotated[str, Field(pattern=f"^({DEVICE_PATTERN})$"), ROUNDING] = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """arithmetic of matrix products; auto: bf16 where the hardware has it and it is faster, fp16 on older GPUs"""
    float32_matmul_precision: Annotated[Literal["highest", "high", "medium"], ROUNDING] = "high"
    """rounding of fp32 products on a GPU: none, TF32 or bf16; no effect on a CPU"""
    parallel: Annotated[Literal["auto", "none", "ddp", "fsdp"], BeforeValidator(_none_as_text), ROUNDING] = "auto"
    """several processes: ddp replicates the model, fsdp shards it; auto: ddp if the model fits; none: one process"""
    compile: Annotated[str, Field(pattern=r"^[a-z0-9_,-]+$"), ROUNDING] = "off"
    """on, or a mode or backend of torch.compile; several separated by commas are tried in turn: on,aot_eager"""
    activation_checkpointing: Annotated[Literal["auto", CheckpointingMode], BeforeValidator(_none_as_text), FREE] = (
        "auto"
    )
    """recompute in the backward pass instead of storing: selective: norms and activations; full: whole blocks, a
    third more work"""
    deterministic: Annotated[bool, ROUNDING] = False
    """use deterministic kernels only: bitwise repeatable on a GPU too, somewhat slower; a CPU always is"""
    threads: Annotated[Annotated[Whole, Field(ge=1, le=1024)] | None, ROUNDING] = None
    """CPU threads per process; default: one per core, shared by the processes of a machine"""
    microbatch_threads: Annotated[Annotated[Whole, Field(ge=1, le=64)] | None, ROUNDING] = None
    """CPU threads that each run part of the micro-batch; 1: let torch parallelise inside each operation; default:
    up to 4"""
    log_every: Annotated[Positive, FREE] = 10
    """steps between printed lines; log.jsonl has every step"""

    @model_validator(mode="after")
    def _one_run_length(self) -> TrainConfig:
        given = [name for name in RUN_LENGTHS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one run length, not both {given[0]} and {given[1]}")
        return self


class EvaluateConfig(Section):
    """Losses, tasks and samples during training; none of them affects training."""

    on_resume: ClassVar[OnResume] = FREE

    every_steps: Count = 250
    """steps between evaluations; 0: only at the end"""
    every_epochs: Epochs | None = None
    """epochs between evaluations, instead of every_steps; default: off"""
    tokens: Positive | None = 100_000
    """tokens scored per split, spread evenly; none: the complete validation split, and as much of the training split"""
    tasks: tuple[str, ...] = ()
    """tasks to run as well, by comma: hellaswag:500 (its first 500 questions), or a file such as mine.jsonl"""
    sample_every_steps: Count = 500
    """steps between samples; 0: only at the end"""
    sample_tokens: Count = 100
    """length of a sample in tokens; 0: no samples"""
    prompt: str = ""
    """prompt of samples; empty: start of a document"""

    _split = field_validator("tasks", mode="before")(split_commas)


class CheckpointConfig(Section):
    """When checkpoints are written, and how many are kept."""

    on_resume: ClassVar[OnResume] = FREE

    every_steps: Count = 1000
    """steps between checkpoints; 0: only at the end and when stopped"""
    every_epochs: Epochs | None = None
    """epochs between checkpoints, instead of every_steps; default: off"""
    every_minutes: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """minutes between checkpoints, in addition; default: off"""
    keep_last: Positive = 2
    """number of recent checkpoints to keep"""
    keep_every: Positive | None = None
    """keep checkpoints at multiples of this many steps for good; default: off"""
    save_best: bool = True
    """save at every evaluation with the lowest validation loss so far, and keep that checkpoint"""
    async_save: bool = True
    """write in the background, from a copy in memory"""


class GuardConfig(Section):
    """Reaction to loss spikes and non-finite steps."""

    on_resume: ClassVar[OnResume] = FREE

    spike_sigma: Annotated[float, Field(ge=2, le=1e6)] | None = 8.0
    """log a spike when loss or gradient norm exceeds its running mean by this many standard deviations; none: off"""
    max_bad_steps: Annotated[Whole, Field(ge=1, le=100_000)] = 10
    """after this many spikes or non-finite steps in a row, roll back to the last checkpoint and skip their data"""
    max_rollbacks: Count = 3
    """give up after this many rollbacks"""


class TrackingConfig(Section):
    """Experiment trackers besides the run's own log.jsonl."""

    on_resume: ClassVar[OnResume] = FREE

    backends: tuple[Literal["wandb", "trackio", "tensorboard"], ...] = ()
    """any of wandb, trackio, tensorboard, separated by commas; none of them can stop a run"""
    project: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,127}$")] = "groundup"
    """project name in the tracker: letters, digits, `_`, `.` and `-`"""
    offline: bool = False
    """make no network requests; upload wandb's files later with `wandb sync`"""

    _split = field_validator("backends", mode="before")(split_commas)
