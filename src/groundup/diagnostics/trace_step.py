"""The documents behind a step: what a run read there, word for word.

A batch is a pure function of (seed, cursor), and the log has each step's cursor; so any step can be opened again,
and one that is yet to come as well. No torch here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from groundup.checkpoint.data_match import origin
from groundup.checkpoint.files import PROGRESS, read_json
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.data.documents import Documents, DocumentSpan
from groundup.data.shards import Manifest, Tokens
from groundup.data.windows import ShuffledWindows
from groundup.errors import CheckpointError, ConfigError, DataError, UsageError
from groundup.optim.run_length import StepLength, build_run_length
from groundup.tokenizers.registry import Tokenizer, load_tokenizer
from groundup.utils.files import checksums, sha256

LAST = 2**62  # windows; beyond, a cursor is no 64-bit number any more
Skips = Sequence[tuple[int, int]]  # windows from the first up to the second, which the run goes around
OF_A_STEP = re.compile(rb'"event":\s*"(?:step|skip)"')


class DocumentExcerpt(NamedTuple):
    """What of one document lies in a window, and its text; the end of a document has none."""

    part: DocumentSpan
    text: str


@dataclass(frozen=True)
class Window:
    """One row of a step's batch."""

    cursor: int  # its place in the order of the run
    start: int  # its first token, in the training split
    tokens: int  # how many: the context, and one more that is only predicted
    extracts: tuple[DocumentExcerpt, ...]


@dataclass(frozen=True)
class StepTrace:
    """A step: what the log says of it, and the windows of its global batch."""

    run: Path
    step: int
    cursor: int  # its first window
    logged: int  # how often; with 0 the cursor is computed
    applied: bool | None  # False: it was kept from the weights; None: unknown
    loss: float | None  # nats a token
    grad_norm: float | None
    notes: tuple[str, ...]
    windows: tuple[Window, ...]


def trace_step(run: Path, step: int, data: Path | None = None) -> StepTrace:
    """Open a step of a run; `data` is the prepared folder where it has moved.

    Raises UsageError for a step that there cannot be, CheckpointError where there is no run, DataError for data that
    is missing or not the run's own.
    """
    if step < 1:
        raise UsageError(f"step {step}: must be 1 or more, as in log.jsonl")
    folder = RunFolder(run)
    config = folder.config()
    place = _data_folder(config, data)
    books, skips = _books(folder)
    notes = _compared(place, books)
    tokens = Tokens.open(place, "train")
    batches = ShuffledWindows(tokens, config.model.block_size, config.train.seed)
    records = logged(folder.log, step)
    if records:
        cursor, more = int(records[-1]["cursor"]), _of_log(records)
    else:
        cursor, more = _foreseen(config, batches, step, skips)
    documents, tokenizer = Documents.open(place, Manifest.load(place), "train"), load_tokenizer(place / "tokenizer")
    last = records[-1] if records else {}
    return StepTrace(
        run,
        step,
        cursor,
        len(records),
        last["event"] == "step" if records else None,
        last.get("loss"),
        last.get("grad_norm"),
        (*more, *notes),
        tuple(_windows(cursor, config.rows, batches, documents, tokenizer)),
    )


def _windows(
    cursor: int, n: int, batches: ShuffledWindows, documents: Documents, tokenizer: Tokenizer
) -> Iterable[Window]:
    length = batches.block_size + 1
    for i, start in enumerate(batches.window_starts(cursor, n).tolist()):
        ids, extracts = batches.tokens.read(start, length), []
        for part in documents.at(start, length):
            first = part.begin + part.start - start
            inside = ids[first : first + part.stop - part.start]
            extracts.append(DocumentExcerpt(part, tokenizer.decode(inside[inside != tokenizer.end_of_text].tolist())))
        yield Window(cursor + i, start, length, tuple(extracts))


def logged(log: Path, step: int) -> list[dict[str, Any]]:
    """The records of a step in a log, in the order they were written; lines cut off by a crash are left out."""
    this = re.compile(rb'"step":\s*%d\b' % step)
    records = []
    try:
        with log.open("rb") as file:
            for line in file:  # only a few of which need to be understood
                if this.search(line) and OF_A_STEP.search(line):
                    records.append(_understood(line))
    except OSError:  # lost, which is no reason not to answer
        return []
    return [record for record in records if record.get("step") == step]


def _understood(line: bytes) -> dict[str, Any]:
    """What of a step's record is used, as far as it makes sense; nothing where the cursor does not."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not (isinstance(record, dict) and record.get("event") in ("step", "skip")):
        return {}
    step, cursor = record.get("step"), record.get("cursor")
    if not isinstance(cursor, int) or not 0 <= cursor <= LAST:
        return {}
    numbers = {name: _number(record.get(name)) for name in ("loss", "grad_norm")}
    return {"event": record["event"], "step": step, "cursor": int(cursor), **numbers}


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if isinstance(value, float) or abs(value) < LAST else None


def _of_log(records: list[dict[str, Any]]) -> list[str]:
    """What is to be said of a step's records."""
    notes = []
    if len(records) > 1:
        other = len({record["cursor"] for record in records}) > 1
        reason = "went back and skipped some data" if other else "was resumed"
        notes.append(f"done {len(records)} times, because the run {reason}; this is the last")
    if records[-1]["event"] == "skip":
        notes.append("not applied: the guard kept this step from the weights")
    return notes


def _foreseen(config: Config, batches: ShuffledWindows, step: int, skips: Skips) -> tuple[int, list[str]]:
    """The cursor of a step that the log does not have, and how it is known."""
    horizon = build_run_length(config, batches.windows)
    if isinstance(horizon, StepLength) and step > horizon.total:
        raise UsageError(f"step {step}: beyond the horizon of this run, which is {horizon.total:,} steps")
    if step > LAST // config.rows:
        raise UsageError(f"step {step}: farther than any run can go")
    cursor = cursor_after(step - 1, config.rows, skips)
    around = " around what the run has skipped so far" if skips else ""
    return cursor, [f"not in log.jsonl: its windows are computed{around}"]


def cursor_after(steps: int, rows: int, skips: Skips) -> int:
    """The cursor when `steps` of `rows` windows are done, and a step that would begin in a skip begins behind it."""
    cursor = 0
    for start, stop in sorted(skips):
        before = max(0, -(-(start - cursor) // rows))  # steps, until one would begin at `start` or later
        if before > steps:
            break
        if cursor + before * rows < stop:
            cursor, steps = stop, steps - before
    return cursor + steps * rows


def _data_folder(config: Config, moved: Path | None) -> Path:
    if moved is None and config.data is None:
        raise ConfigError("data: the run names no prepared folder; give one with --data DIR")
    place = moved or Path(config.data or "")
    if not place.is_dir():
        raise DataError(origin(place, {}).sentence)
    return place


def _books(folder: RunFolder) -> tuple[dict[str, Any], Skips]:
    """The books of the newest checkpoint whose own are what was written, and what the run skips by them."""
    for checkpoint in reversed(folder.steps()):
        try:
            if sha256(checkpoint / PROGRESS) != (checksums(checkpoint) or {}).get(PROGRESS):
                continue
            books = read_json(checkpoint / PROGRESS)
            return books, [(int(start), int(stop)) for start, stop in books.get("skips", [])]
        except (CheckpointError, OSError, ValueError, TypeError, OverflowError):
            continue
    return {}, []


def _compared(place: Path, books: dict[str, Any]) -> list[str]:
    """DataError where a prepared folder is not what the run was trained on; a note where nobody can tell."""
    found = origin(place, books)
    if found.answer == "other":
        raise DataError(found.sentence)
    return [found.sentence] if found.answer == "unknown" else []
