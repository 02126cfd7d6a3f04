"""Evaluate a run or a checkpoint: load it, measure its loss and tasks, and append the results to the run's log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from math import isfinite, log
from pathlib import Path
from typing import Any, Literal

import torch

from groundup.checkpoint.data_match import DataMatch, match_data
from groundup.checkpoint.log import EVAL_CHECKPOINT, Log
from groundup.checkpoint.run_folder import RunFolder, run_of
from groundup.checkpoint.state import LoadedModel, load
from groundup.data.shards import Manifest, Tokens
from groundup.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from groundup.distributed.thread_parallel import thread_parallel
from groundup.errors import DataError, UsageError
from groundup.evaluation.baselines import Baseline, baselines, split_text
from groundup.evaluation.likelihood import log_likelihoods
from groundup.evaluation.loss import Loss, split_loss
from groundup.evaluation.tasks import EvalTask, TaskResult, TaskSpec, compute_result, open_tasks
from groundup.model.gpt import NextTokenLoss
from groundup.model.ngram import leave_one_out
from groundup.model.quantized import Quantization
from groundup.planning import policy
from groundup.ui.progress import count_progress, shows
from groundup.utils.device import autocast, choose_precision
from groundup.utils.files import resolved

COMPARED_BYTES = 8_000_000  # at most, of the end of each split, that baselines are fitted to and measured on
PathLike = str | Path
Split = Literal["train", "val"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Evaluation:
    """Loss of a model on a split, each number with its standard error."""

    split: str
    loss: float  # nats per token
    perplexity: float
    bits_per_byte: float
    tokens: int  # scored
    loss_stderr: float  # NaN for a single window
    perplexity_stderr: float
    bits_per_byte_stderr: float

    @classmethod
    def of(cls, loss: Loss, split: str, tokens_per_byte: float) -> Evaluation:
        """The loss in all units."""
        scale = tokens_per_byte / log(2)
        return cls(
            split=split,
            loss=loss.nats_per_token,
            perplexity=loss.perplexity,
            bits_per_byte=loss.nats_per_token * scale,
            tokens=loss.scored,
            loss_stderr=loss.stderr,
            perplexity_stderr=loss.perplexity * loss.stderr,
            bits_per_byte_stderr=loss.stderr * scale,
        )

    def flat(self) -> dict[str, float]:
        """As in log.jsonl: the numbers, without NaN and infinity."""
        return {k: v for k, v in asdict(self).items() if not isinstance(v, str) and isfinite(v)}


def evaluate(
    path: PathLike | LoadedModel,
    *,
    data: PathLike | None = None,
    split: Split = "val",
    tokens: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    precision: Precision = "fp32",
    checkpoint: str = "latest",
    device: str = "auto",
    quantize: Quantization = "none",
    process_group: ProcessGroup = SINGLE_PROCESS,
    progress: bool = True,
) -> Evaluation:
    """Loss of a run or checkpoint on a split of `data` (default: the data it was trained on).

    The split is scored in windows of the model's context, or of `window` tokens, which is harder: the first tokens of
    a window have little context. With a `stride` below the window they overlap, and each token is scored once, by the
    window that gives it the most context. `tokens` limits the scored tokens; default: the complete split. `quantize`:
    pack the weights first, as `load` does. The processes of a `process_group` share the windows. `progress`: whether to
    show it. Raises CheckpointError, DataError, UsageError; DataError also where the run's own folder now holds other
    data, part of which may be what it was trained on.
    """
    if split not in ("train", "val"):
        raise UsageError(f"split {split!r}: must be train or val")
    if tokens is not None and tokens < 1:
        raise UsageError(f"tokens {tokens}: must be 1 or more")
    loaded = load(path, checkpoint=checkpoint, device=device, quantize=quantize, process_group=process_group)
    block_size = loaded.config.model.block_size
    if window is not None and not 1 <= window <= block_size:
        raise UsageError(f"window {window}: must be from 1 to the model's context of {block_size}")
    window = window or block_size
    if stride is not None and not 1 <= stride <= window:
        raise UsageError(f"stride {stride}: must be from 1 to the window of {window}")
    folder, manifest, match = prepared_data(loaded, data)
    part = manifest.splits[split]
    if part.tokens < 2:
        raise DataError(f"{folder}: its {split} split is empty; prepare it with --val-fraction 0.1")
    counted = split == "train" and match.answer == "same"
    config = loaded.config
    micro_batch = policy.micro_batch_size(config, policy.thread_choices(config.model, config.train))
    rows, single_cpu = micro_batch * (block_size // window), loaded.device.type == "cpu" and process_group.size == 1
    counts = policy.thread_counts(torch.get_num_threads()) if single_cpu else ()
    threads = next((n for n in counts if n <= rows), 1)
    quiet = not shows(progress) or process_group.rank > 0
    with leave_one_out(loaded.model) if counted else nullcontext(), count_progress(quiet=quiet) as counter:
        loss = split_loss(
            thread_parallel(NextTokenLoss(loaded.model, "per_sequence"), threads),
            Tokens.open(folder, split),
            window,
            device=loaded.device,
            stride=stride,
            limit=tokens,
            rows=rows - rows % threads,
            autocast=autocast(choose_precision(precision, loaded.device).name, loaded.device),
            process_group=process_group,
            progress=counter(f"{split} loss"),
        )
    return Evaluation.of(loss, split, part.tokens / part.bytes)


def run_baselines(loaded: LoadedModel, data: PathLike | None = None) -> tuple[list[Baseline], int]:
    """Baselines fitted to the training text and measured on the validation text, and the size of the latter in bytes.

    Of each text, at most the last COMPARED_BYTES are used.
    """
    folder, *_ = prepared_data(loaded, data)
    train, val = (split_text(folder, split, loaded.tokenizer, COMPARED_BYTES) for split in ("train", "val"))
    return baselines(train[-COMPARED_BYTES:], val), len(val)


def evaluate_tasks(
    path: PathLike | LoadedModel,
    tasks: Sequence[str | TaskSpec | EvalTask],
    *,
    precision: Precision = "fp32",
    checkpoint: str = "latest",
    device: str = "auto",
    quantize: Quantization = "none",
    process_group: ProcessGroup = SINGLE_PROCESS,
    progress: Callable[[str], Callable[[int, int], None]] | bool = True,
) -> list[TaskResult]:
    """Results of a run or checkpoint on multiple-choice tasks, answered by the most likely of several endings.

    Each of `tasks` is `hellaswag`, `arc_easy`, `arc_challenge`, `piqa`, `winogrande` or `lambada`, from the hub at a
    pinned commit; or a file of questions, `mine.jsonl`, whose lines have `context`, `choices` and, in `answer`, the
    index of the right choice, counted from 0; or a file of one of the tasks, `hellaswag=FILE`. A suffix such as `:500`
    takes the first 500 questions. `progress`: whether to show it, or a function that gets the name of each task and
    returns a function of endings done and endings in all. `quantize`: pack the weights first, as `load` does. The
    processes of a `process_group` share the questions. Raises CheckpointError, DataError, UsageError.
    """
    loaded = load(path, checkpoint=checkpoint, device=device, quantize=quantize, process_group=process_group)
    opened = open_tasks(tasks, loaded.tokenizer, block_size=loaded.config.model.block_size)  # all mistakes come first
    quiet = callable(progress) or not shows(progress) or process_group.rank > 0
    with count_progress(quiet=quiet) as shown:
        counter = progress if callable(progress) else shown
        return [_task_result(loaded, task, precision, process_group, counter(task.name)) for task in opened]


def _task_result(
    loaded: LoadedModel,
    task: EvalTask,
    precision: Precision,
    process_group: ProcessGroup,
    progress: Callable[[int, int], None],
) -> TaskResult:
    found = log_likelihoods(
        loaded.model,
        task.pairs,
        device=loaded.device,
        autocast=autocast(choose_precision(precision, loaded.device).name, loaded.device),
        process_group=process_group,
        progress=progress,
    )
    return compute_result(task, *found)


def append_to_log(loaded: LoadedModel, results: dict[str, dict[str, float]], how: dict[str, Any]) -> str | None:
    """Append results, and the settings `how` they were measured, to the log of the checkpoint's run, if it is in one.

    Returns a message where the log cannot be written, as in a folder that is read-only.
    """
    folder = run_of(loaded.folder)
    if folder is None:
        return None
    run = RunFolder(folder)
    step = loaded.metadata["step"]
    try:
        log = Log(run.log)
        log.write(EVAL_CHECKPOINT, checkpoint=resolved(loaded.folder).name, step=step, results=results, how=how)
        log.close()
    except OSError as error:
        return f"{run.log}: cannot be written ({error.strerror}); the results are not logged"
    return None


def prepared_data(loaded: LoadedModel, data: PathLike | None) -> tuple[Path, Manifest, DataMatch]:
    """The prepared folder to evaluate on, and whether it is what the model was trained on.

    DataError where its tokenizer is not the model's, or where no folder `data` was given and the run's own changed.
    """
    if not (data or loaded.config.data):
        raise DataError(f"{loaded.folder}: names no data of its own; give a prepared folder with --data")
    folder = Path(data or loaded.config.data or "")
    try:
        manifest = Manifest.load(folder)
    except DataError as error:
        raise DataError(f"{error}; or name the prepared folder with --data") from error
    if manifest.tokenizer.fingerprint != loaded.tokenizer.fingerprint:
        raise DataError(f"{folder}: prepared with another tokenizer than the model's; prepare it with the same one")
    match = match_data(folder, loaded.metadata, manifest)
    if match.answer == "other" and data is None:
        raise DataError(match.message)
    return folder, manifest, match
