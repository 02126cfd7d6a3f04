"""Evaluate a run or a checkpoint: load it, measure its loss and tasks, and note the results in the run's log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import log
from pathlib import Path
from typing import Any, Literal

import torch

from groundup.checkpoint.files import PROGRESS, read_json
from groundup.checkpoint.load import LoadedModel, load
from groundup.checkpoint.log import EVAL_CHECKPOINT, Log
from groundup.checkpoint.run_folder import RunFolder, run_of
from groundup.config.schema import SHARING
from groundup.data.shards import Manifest, Tokens
from groundup.distributed.process_group import ProcessGroup, SingleProcess
from groundup.distributed.thread_parallel import thread_parallel
from groundup.errors import CheckpointError, DataError, UsageError
from groundup.evaluation.baselines import Baseline, baselines, split_text
from groundup.evaluation.evaluate import Evaluation, run_task
from groundup.evaluation.loss import EachWindow, split_loss
from groundup.evaluation.task_set import EvalTask, TaskResult, TaskSpec, open_exams
from groundup.utils.device import autocast, choose_precision

COMPARED_BYTES = 8_000_000  # of training text that baselines look at, its last, and of validation text
Place = str | Path
Split = Literal["train", "val"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


def evaluate(
    path: Place | LoadedModel,
    *,
    data: Place | None = None,
    split: Split = "val",
    tokens: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    precision: Precision = "fp32",
    checkpoint: str = "latest",
    device: str = "auto",
    process_group: ProcessGroup | None = None,
) -> Evaluation:
    """Loss of a run or checkpoint over a split of `data` (default: what it was trained on).

    Windows of the model's context, or of `window` tokens, which is harder: a window's first tokens have little before
    them. With a `stride` below the window they overlap, and each token is scored once, by the window that has most
    before it. The whole split, or about `tokens` of it. Several processes of a `world` share the windows.
    Raises CheckpointError, DataError, UsageError.
    """
    if split not in ("train", "val"):
        raise UsageError(f"split {split!r}: must be train or val")
    if tokens is not None and tokens < 1:
        raise UsageError(f"tokens {tokens}: must be 1 or more")
    process_group = process_group or SingleProcess()
    loaded = (
        path
        if isinstance(path, LoadedModel)
        else load(path, checkpoint=checkpoint, device=device, process_group=process_group)
    )
    block_size = loaded.config.model.block_size
    if window is not None and not 1 <= window <= block_size:
        raise UsageError(f"window {window}: must be from 1 to the model's context of {block_size}")
    window = window or block_size
    if stride is not None and not 1 <= stride <= window:
        raise UsageError(f"stride {stride}: must be from 1 to the window of {window}")
    folder, manifest = _prepared(loaded, data)
    part = manifest.splits[split]
    if part.tokens < 2:
        raise DataError(f"{folder}: its {split} split is empty; prepare it with --val-fraction 0.1")
    where = Tokens.open(folder, split)
    counted = split == "train" and manifest.fingerprint == read_json(loaded.folder / PROGRESS).get("data")
    rows, threads = loaded.config.micro_rows * (block_size // window), torch.get_num_threads()
    alone = loaded.device.type == "cpu" and process_group.size == 1
    shares = next((n for n in SHARING if alone and threads % n == 0 and n <= rows), 1)
    with loaded.model.ngrams.on_counted_text() if counted else nullcontext():
        loss = split_loss(
            thread_parallel(EachWindow(loaded.model), shares), where, window,
            device=loaded.device, stride=stride, limit=tokens, rows=rows - rows % shares,
            autocast=autocast(choose_precision(precision, loaded.device).name, loaded.device),
            rank=process_group.rank, size=process_group.size, total=process_group.all_reduce,
        )  # fmt: skip
    scale = part.tokens / part.bytes / log(2)
    return Evaluation(
        split=split,
        loss=loss.nats_per_token,
        perplexity=loss.perplexity,
        bits_per_byte=loss.nats_per_token * scale,
        tokens=loss.scored,
        loss_stderr=loss.stderr,
        perplexity_stderr=loss.perplexity * loss.stderr,
        bits_per_byte_stderr=loss.stderr * scale,
    )


def run_baselines(loaded: LoadedModel, data: Place | None = None) -> tuple[list[Baseline], int]:
    """What models that only count, and compressors, need for the validation text, fitted to the training text; and how
    many bytes of it they were given, its last."""
    folder, _ = _prepared(loaded, data)
    train, val = (split_text(folder, split, loaded.tokenizer, COMPARED_BYTES) for split in ("train", "val"))
    return baselines(train[-COMPARED_BYTES:], val), len(val)


def evaluate_tasks(
    path: Place | LoadedModel,
    tasks: Sequence[str | TaskSpec | EvalTask],
    *,
    precision: Precision = "fp32",
    checkpoint: str = "latest",
    device: str = "auto",
    process_group: ProcessGroup | None = None,
    progress: Callable[[str], Callable[[int, int], None]] = lambda task: lambda done, of: None,
) -> list[TaskResult]:
    """How a run or checkpoint does in tasks: questions whose answer is the likeliest of several endings.

    Each of `tasks` is `hellaswag`, `arc_easy`, `arc_challenge`, `piqa`, `winogrande` or `lambada`, from the hub at a
    pinned commit; or a file of questions, `mine.jsonl`, whose lines have `context`, `choices` and, in `answer`, the
    number of the right choice from 0 on, or a file of one of the tasks; behind each, `:500` asks the first 500.
    `progress` is told each task, and what it gives then, endings done and endings in all. Several processes of a
    `world` share the questions.
    Raises CheckpointError, DataError, UsageError.
    """
    process_group = process_group or SingleProcess()
    loaded = (
        path
        if isinstance(path, LoadedModel)
        else load(path, checkpoint=checkpoint, device=device, process_group=process_group)
    )
    exams = open_all(loaded, tasks)  # all mistakes before the first answer
    context = autocast(choose_precision(precision, loaded.device).name, loaded.device)
    return [
        run_task(exam, loaded.model, loaded.device, context, process_group=process_group, progress=progress(exam.name))
        for exam in exams
    ]


def open_all(loaded: LoadedModel, tasks: Sequence[str | TaskSpec | EvalTask]) -> list[EvalTask]:
    """The questions of all tasks, as ids of the model's tokenizer. DataError, UsageError."""
    opened = [task for task in tasks if isinstance(task, EvalTask)]
    others = [task for task in tasks if not isinstance(task, EvalTask)]
    return opened + open_exams(others, loaded.tokenizer, block_size=loaded.config.model.block_size)


def append_to_log(loaded: LoadedModel, results: dict[str, dict[str, float]], how: dict[str, Any]) -> None:
    """Append what was found, and `how`, to the log of the run that the checkpoint lies in, where it lies in one.

    CheckpointError where the log cannot be written.
    """
    place = run_of(loaded.folder)
    if place is None:
        return
    run = RunFolder(place)
    step = read_json(loaded.folder / PROGRESS).get("step", 0)
    try:
        log = Log(run.log)
    except OSError as error:
        raise CheckpointError(f"{run.log}: cannot be written ({error.strerror}); the results are not noted") from error
    log.write(EVAL_CHECKPOINT, checkpoint=loaded.folder.resolve().name, step=step, results=results, how=how)
    log.close()


def _prepared(loaded: LoadedModel, data: Place | None) -> tuple[Path, Manifest]:
    if not (data or loaded.config.data):
        raise DataError(f"{loaded.folder}: names no data of its own; give a prepared folder with --data")
    folder = Path(data or loaded.config.data or "")
    try:
        manifest = Manifest.load(folder)
    except DataError as error:
        raise DataError(f"{error}; or name the prepared folder with --data") from error
    if manifest.tokenizer.fingerprint != loaded.tokenizer.fingerprint:
        raise DataError(f"{folder}: prepared with another tokenizer than the model's; prepare it with the same one")
    return folder, manifest
