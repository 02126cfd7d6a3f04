"""The documents behind a training step, with their text.

A batch is a pure function of (seed, cursor), and the log has the cursor of each step; so any step can be opened again,
and a future one as well. No torch here.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from groundup.checkpoint.data_match import match_data
from groundup.checkpoint.files import PROGRESS
from groundup.checkpoint.log import finite_number, iter_log
from groundup.checkpoint.metadata import load_metadata
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.data.shards import Documents, DocumentSpan, Manifest, Tokens
from groundup.data.windows import ShuffledWindows, layout_of
from groundup.errors import CheckpointError, ConfigError, DataError, UsageError
from groundup.optim.run_length import StepLength, build_run_length
from groundup.tokenizers.base import Tokenizer
from groundup.tokenizers.registry import load_tokenizer
from groundup.utils.files import checksums, sha256

MAX_CURSOR = 2**62  # sequences; more do not fit a 64-bit cursor
Skips = Sequence[tuple[int, int]]  # ranges of sequences, start to stop, that the run leaves out


class DocumentExcerpt(NamedTuple):
    """The part of one document that lies in a sequence, and its text; empty for the end-of-document token alone."""

    part: DocumentSpan
    text: str


@dataclass(frozen=True)
class Window:
    """One sequence of a step's batch."""

    cursor: int  # its position in the run's order
    start: int  # its first token, in the training split
    tokens: int  # its length: the context, and one more token that is only predicted
    excerpts: tuple[DocumentExcerpt, ...]


@dataclass(frozen=True)
class StepTrace:
    """A step as logged, and the sequences of its global batch."""

    run: Path
    step: int
    cursor: int  # its first sequence
    logged: int  # number of records in the log; with 0 the cursor is computed
    applied: bool | None  # False: the guard skipped it; None: unknown
    loss: float | None  # nats per token
    grad_norm: float | None
    notes: tuple[str, ...]
    windows: tuple[Window, ...]


def trace_step(run: Path, step: int, data: Path | None = None) -> StepTrace:
    """Find the sequences and documents of a step of a run; `data` is the prepared folder if it has moved.

    Raises UsageError for a step that cannot exist, CheckpointError where there is no run, DataError for data that is
    missing or not the run's own.
    """
    if step < 1:
        raise UsageError(f"step {step}: must be 1 or more, as in log.jsonl")
    folder = RunFolder(run)
    config = folder.config()
    metadata, skips = _metadata(folder)
    prepared, notes = _data_folder(config, data, metadata)
    tokens, layout = Tokens.open(prepared, "train"), layout_of(metadata)
    batches = ShuffledWindows(tokens, config.model.block_size, config.train.seed, layout)
    records = _step_records(folder.log, step)
    last = records[-1] if records else {}
    if records:
        cursor, notes = int(last["cursor"]), [*_notes_on(records), *notes]
    else:
        cursor = _computed_cursor(config, batches, step, skips)
        leaving_out = ", leaving out what the run has skipped so far" if skips else ""
        notes = [f"not in log.jsonl: its sequences are computed{leaving_out}", *notes]
    documents = Documents.open(prepared, Manifest.load(prepared), "train")
    tokenizer = load_tokenizer(prepared / "tokenizer")
    windows = tuple(_windows(cursor, config.batch_size, batches, documents, tokenizer))
    applied = last["event"] == "step" if records else None
    loss, grad_norm = finite_number(last.get("loss")), finite_number(last.get("grad_norm"))
    return StepTrace(run, step, cursor, len(records), applied, loss, grad_norm, tuple(notes), windows)


def _windows(
    cursor: int, n: int, batches: ShuffledWindows, documents: Documents, tokenizer: Tokenizer
) -> Iterator[Window]:
    length = batches.block_size + 1
    for i, start in enumerate(batches.window_starts(cursor, n).tolist()):
        ids, excerpts = batches.tokens.read(start, length), []
        for part in documents.spans(start, length):
            first = part.begin + part.start - start
            inside = ids[first : first + part.stop - part.start]
            excerpts.append(DocumentExcerpt(part, tokenizer.decode(inside[inside != tokenizer.end_of_text].tolist())))
        yield Window(cursor + i, start, length, tuple(excerpts))


def _step_records(log: Path, step: int) -> list[dict[str, Any]]:
    """The records of a step, in the order written; those with an impossible cursor are left out."""
    return [
        record
        for record in iter_log(log, matching=re.compile(rb'"step":\s*%d\b' % step))
        if record["event"] in ("step", "skip") and record.get("step") == step
        if isinstance(record.get("cursor"), int) and 0 <= record["cursor"] <= MAX_CURSOR
    ]


def _notes_on(records: list[dict[str, Any]]) -> Iterator[str]:
    if len(records) > 1:
        moved = len({record["cursor"] for record in records}) > 1
        reason = "rolled back and skipped some data" if moved else "was resumed"
        yield f"done {len(records)} times, because the run {reason}; this is the last"
    if records[-1]["event"] == "skip":
        yield "not applied: the guard skipped this update"


def _computed_cursor(config: Config, batches: ShuffledWindows, step: int, skips: Skips) -> int:
    """The cursor of a step that the log does not have."""
    run_length = build_run_length(config.train, config.batch_size, batches.per_epoch)
    if isinstance(run_length, StepLength) and step > run_length.total:
        raise UsageError(f"step {step}: beyond the end of this run, which takes {run_length.total:,} steps")
    if step > MAX_CURSOR // config.batch_size:
        raise UsageError(f"step {step}: farther than any run can go")
    return cursor_after(step - 1, config.batch_size, skips)


def cursor_after(steps: int, rows: int, skips: Skips) -> int:
    """The cursor after `steps` steps of `rows` sequences; a step that would start within a skip starts after it."""
    cursor = 0
    for start, stop in sorted(skips):
        before = max(0, -(-(start - cursor) // rows))  # steps, until one would start at `start` or later
        if before > steps:
            break
        if cursor + before * rows < stop:
            cursor, steps = stop, steps - before
    return cursor + steps * rows


def _data_folder(config: Config, moved: Path | None, metadata: dict[str, Any]) -> tuple[Path, list[str]]:
    """The prepared folder, and a note if it is unknown whether it is the run's; DataError if it is known not to be."""
    if moved is None and config.data is None:
        raise ConfigError("data: the run names no prepared folder; give one with --data DIR")
    folder = moved or Path(config.data or "")
    found = match_data(folder, metadata)
    if found.answer in ("other", "missing"):
        raise DataError(found.message)
    return folder, [found.message] if found.message else []


def _metadata(folder: RunFolder) -> tuple[dict[str, Any], Skips]:
    """The metadata of the newest checkpoint where it is undamaged, and the skips noted in it."""
    for checkpoint in reversed(folder.steps()):
        try:
            if sha256(checkpoint / PROGRESS) != (checksums(checkpoint) or {}).get(PROGRESS):
                continue
            metadata = load_metadata(checkpoint)
            return metadata, [(start, stop) for start, stop in metadata.get("skips", [])]
        except (CheckpointError, OSError):
            continue
    return {}, []
