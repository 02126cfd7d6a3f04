"""How a GPT is trained, section by section. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from groundup.config.types import (
    DEVICE_PATTERN,
    Count,
    Decay,
    Duration,
    Fraction,
    Positive,
    Rate,
    Recomputed,
    Section,
    Size,
    by_comma,
)


class PrepareConfig(Section):
    """What to prepare where `data` holds nothing yet: as the options of `groundup prepare`."""

    sources: tuple[str, ...] = ()
    """files, folders, patterns or names, by comma; none prepares nothing"""
    tokenizer: str = "gpt2"
    """byte, char, gpt1, gpt2, bpe:SIZE[:pad] to learn one, a tokenizer.json, or a folder that holds one"""
    column: str = "text"
    """field of .jsonl and .parquet that holds the text"""
    clean: str = ""
    """any of lowercase,digits,punctuation: lower the case, drop digits, drop punctuation"""
    val_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """part of the text to hold out"""
    max_tokens: Positive | None = None
    """tokens to write at most, both splits together"""
    max_documents: Positive | None = None
    """documents to read at most"""

    _by_comma = field_validator("sources", mode="before")(by_comma)


class BatchesConfig(Section):
    """How training windows are drawn."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1337
    """order of the windows, initial weights and dropout all follow from it"""
    micro_batch: Size | None = None
    """windows a forward pass; none means 16,384 tokens, fewer with a large model; changes rounding only"""
    first_context: Annotated[int, Field(ge=2)] | None = None
    """at first cut windows into pieces of this many tokens, which double until windows are whole; none never cuts"""
    whole_from: Fraction = 0.5
    """part of the horizon from which windows are whole"""


MUON_ONLY = ("matrix_learning_rate", "embedding_learning_rate", "head_learning_rate", "momentum")


class OptimizerConfig(Section):
    """AdamW (arXiv:1711.05101), alone or with Muon for the matrices inside the blocks; or plain SGD."""

    name: Literal["adamw", "muon", "sgd"] = "adamw"
    """muon: matrices move by orthogonalised momentum, all else by AdamW; sgd: momentum alone, after Nesterov"""
    learning_rate: Rate = 1e-3
    """peak learning rate, beside Muon that of AdamW"""
    matrix_learning_rate: Rate = 0.02
    """peak learning rate of Muon's matrices"""
    embedding_learning_rate: Rate | None = None
    """beside Muon, peak for the embeddings; none means learning_rate"""
    head_learning_rate: Rate | None = None
    """beside Muon, peak for an untied output head; none means learning_rate"""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.1
    """decay of matrices, and without Muon of embeddings; never of biases and norms; decoupled, but for SGD's"""
    beta1: Decay = 0.9
    """decay of the first moment"""
    beta2: Decay = 0.95
    """decay of the second moment; 0.99 for small batches"""
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """added to the root of the second moment"""
    momentum: Decay = 0.95
    """decay of the momentum of Muon and SGD"""
    orthogonalize: Literal["newton_schulz", "polar_express"] = "newton_schulz"
    """how Muon does it: polar_express takes three iterations in place of five (arXiv:2505.16932)"""
    grad_clip: Annotated[float, Field(ge=0, le=1e9)] = 1.0
    """largest global gradient norm; 0 means no clipping"""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """evaluate and generate with a running average of the weights, which keeps this part of itself a step (0.999)"""


WARMUPS = ("warmup_steps", "warmup_tokens", "warmup_fraction")
COOLDOWNS = ("cooldown_steps", "cooldown_tokens", "cooldown_fraction")


class ScheduleConfig(Section):
    """Learning rate over the run."""

    name: Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt", "onecycle"] = "cosine"
    """shape after the warm-up; wsd stays at the peak, then falls in a straight line; onecycle is torch's OneCycleLR"""
    warmup_steps: Count | None = None
    """steps of linear warm-up; onecycle's rise, 0.3 of the horizon unless given, follows a cosine"""
    warmup_tokens: Count | None = None
    """the same in tokens"""
    warmup_fraction: Fraction | None = None
    """the same as a part of the horizon; give one of the three"""
    cooldown_steps: Positive | None = None
    """steps over which wsd falls at the end"""
    cooldown_tokens: Positive | None = None
    """the same in tokens"""
    cooldown_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """the same as a part of the horizon; none of the three means 0.4"""
    floor: Fraction = 0.1
    """final learning rate as a part of the peak; onecycle has its own"""
    div_factor: Annotated[float, Field(ge=1, le=1e12)] = 25.0
    """onecycle begins at the peak divided by this"""
    final_div_factor: Annotated[float, Field(ge=1, le=1e12)] = 1e4
    """onecycle ends at its first learning rate divided by this"""

    @model_validator(mode="after")
    def _one_of_each(self) -> ScheduleConfig:
        for names in (WARMUPS, COOLDOWNS):
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) > 1:
                raise ValueError(f"give {given[0]} or {given[1]}, not both")
        return self


HORIZONS = ("max_steps", "max_tokens", "epochs", "budget")


def _switched(value: Any) -> Any:
    """true and false mean what they meant when there was nothing between; YAML reads `off` as false."""
    return {"true": "blocks", "false": "off"}.get(str(value).lower(), value)


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
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """arithmetic of matrix products; auto: bf16 where the hardware has it and it is faster, fp16 on older GPUs"""
    float32_matmul_precision: Literal["highest", "high", "medium"] = "high"
    """what fp32 products on a GPU may round to: nothing, TF32 or bf16; a CPU always computes as highest"""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """of several processes: ddp, each has the whole model; fsdp, each a part; auto: ddp where the model fits so"""
    compile: Annotated[str, Field(pattern=r"^[a-z0-9_,-]+$")] = "off"
    """on, a mode or a backend of torch.compile, or several by comma, tried in turn: on,aot_eager; last of all off"""
    activation_checkpointing: Annotated[Literal["auto", Recomputed], BeforeValidator(_switched)] = "auto"
    """what is computed twice and not kept between: cheap, norms and nonlinearities; blocks, for a third more work"""
    deterministic: bool = False
    """use deterministic kernels alone: bitwise repeatable on a GPU too, somewhat slower; a CPU always is"""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads a process; none means one for each core, shared by the processes of a machine"""
    shares: Annotated[int, Field(ge=1, le=64)] | None = None
    """CPU threads that each take some of a pass's windows; 1 cuts every operation instead; none means up to four"""
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
    tasks: tuple[str, ...] = ()
    """questions asked besides, by comma: hellaswag:500 asks the first 500 of HellaSwag, mine.jsonl those of a file"""
    sample_every_steps: Count = 500
    """steps between samples; 0 means only at the end"""
    sample_tokens: Count = 100
    """length of a sample in tokens; 0 means no samples"""
    prompt: str = ""
    """what samples start with; empty means the start of a document"""

    _by_comma = field_validator("tasks", mode="before")(by_comma)


class CheckpointConfig(Section):
    """When checkpoints are written, and how many stay."""

    every_steps: Count = 1000
    """steps between checkpoints; 0 means only at the end and on Ctrl-C"""
    every_minutes: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """minutes between checkpoints, besides"""
    keep_last: Positive = 2
    """how many checkpoints stay on disk"""
    keep_every: Positive | None = None
    """checkpoints at multiples of this many steps stay for good"""
    best: bool = True
    """save at every evaluation that finds the lowest validation loss so far, and keep that checkpoint as well"""
    asynchronous: bool = True
    """write while training goes on, from a copy in memory"""


class GuardConfig(Section):
    """What happens when training goes wrong."""

    spike: Annotated[float, Field(ge=2, le=1e6)] | None = 8.0
    """a loss or gradient norm so many standard deviations above its running mean is logged as a spike; none: never"""
    bad_steps: Annotated[int, Field(ge=1, le=100_000)] = 10
    """after so many spikes or non-finite steps in a row, go back to the last checkpoint and skip their data"""
    rollbacks: Count = 3
    """how often a run may go back before it gives up"""


class TrackingConfig(Section):
    """Where a run is shown besides its own log.jsonl."""

    to: tuple[Literal["wandb", "trackio", "tensorboard"], ...] = ()
    """trackers, by comma; none of them can stop a run"""
    project: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,127}$")] = "groundup"
    """the project they file the run under"""
    offline: bool = False
    """contact nobody; wandb's files can be sent later by `wandb sync`"""

    _by_comma = field_validator("to", mode="before")(by_comma)
