"""Metadata of a checkpoint: progress.json, whose types are checked wherever it is read. No torch here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from groundup.checkpoint.files import PROGRESS, final_name, read_json
from groundup.errors import CheckpointError

MAX_COUNT = 2**62  # steps, tokens or sequences; more do not fit a 64-bit number with room to add to it
MAX_SKIPS = 10_000  # ranges of sequences, one per rollback
MAX_NUMBER = 1e39  # beyond float32, of which losses and gradient norms are


def _checked_range(bounds: list[int]) -> list[int]:
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise ValueError("not a start and a stop")
    return bounds


Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Seconds = Annotated[float, Field(ge=0)]
Range = Annotated[list[Count], AfterValidator(_checked_range)]
Scale = Literal["scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"]


def _complete_or_empty(scaler: dict[Scale, float]) -> dict[Scale, float]:
    if len(scaler) not in (0, 5):
        raise ValueError("not the complete state of a gradient scaler")
    return scaler


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")


class _Best(_Part):
    loss: float | None = None
    step: Count = 0
    since: Count = 0
    seen: Count = 0
    text: str | None = None


class _Stats(_Part):
    n: Count = 0
    mean: Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)] = 0.0
    variance: Annotated[float, Field(ge=0, le=MAX_NUMBER**2)] = 0.0


class _Guard(_Part):
    loss: _Stats = _Stats()
    grad_norm: _Stats = _Stats()
    bad: Count = 0
    first: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None


class _MicroBatchSize(_Part):
    configured: Count
    used: Annotated[int, Field(ge=1, le=MAX_COUNT)]


class _Parent(_Part):
    step: Count
    sha256: str


class Metadata(_Part):
    """Schema of progress.json: required keys, and the types of optional ones; other keys are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")

    step: Count
    tokens: Count
    cursor: Count = 0
    elapsed: Seconds = 0.0
    dt: Seconds = 0.0
    skips: Annotated[list[Range], Field(max_length=MAX_SKIPS)] = []
    best: _Best = _Best()
    guard: _Guard = _Guard()
    scaler: Annotated[dict[Scale, Annotated[float, Field(ge=0)]], AfterValidator(_complete_or_empty)] = {}
    averaged: Count = 0
    micro_batch_size: _MicroBatchSize | None = None
    processes: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1
    numerics: dict[str, int | str] = {}
    data: str | None = None
    begins_documents: bool = True
    sequence_layout: Count = 1
    parent: _Parent | None = None
    origin: dict[str, Any] | None = None


class TrainingMetadata(Metadata):
    """Schema of progress.json with the keys that resuming requires."""

    cursor: Count
    elapsed: Seconds
    dt: Seconds
    data: str


def load_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of a checkpoint; CheckpointError if it is missing, damaged or of another type."""
    return _load(folder, Metadata)


def load_training_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of a run's checkpoint, as `load_metadata`; also CheckpointError where a run could not continue."""
    values = _load(folder, TrainingMetadata)
    if final_name(folder) != f"step-{values['step']:08d}":
        raise _damaged(folder, f"is of step {values['step']}, but the folder is {folder.name}")
    return values


def has_stepped(metadata: Mapping[str, Any]) -> bool:
    """Whether the optimizer has made a step since the run began, as far as known: then it has state."""
    return bool(metadata.get("guard", {}).get("loss", {}).get("n"))


def _load(folder: Path, kind: type[Metadata]) -> dict[str, Any]:
    values = read_json(folder / PROGRESS)
    try:
        kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key, value = ".".join(map(str, first["loc"])), first["input"]
        if first["type"] == "missing":
            raise _damaged(folder, f"{key} is missing") from None
        expected = first["msg"].partition(" or instance of")[0]
        raise _damaged(folder, f"{key} is {value!r:.80}: {expected}") from None
    return values


def _damaged(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{folder / PROGRESS}: damaged ({what}); use another checkpoint")
