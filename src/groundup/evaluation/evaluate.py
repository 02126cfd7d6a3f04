"""Loss of a model over a split, and its results in tasks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from math import isfinite

import torch

from groundup.distributed.process_group import ProcessGroup
from groundup.evaluation.likelihood import log_likelihoods
from groundup.evaluation.task_set import EvalTask, TaskResult, grade
from groundup.model.gpt import GPT


@dataclass(frozen=True)
class Evaluation:
    """What a model loses on a split, each number with its standard error."""

    split: str
    loss: float  # nats a token
    perplexity: float
    bits_per_byte: float
    tokens: int  # scored
    loss_stderr: float  # NaN where there was but one window
    perplexity_stderr: float
    bits_per_byte_stderr: float

    def flat(self) -> dict[str, float]:
        """As log.jsonl has it: all but names, and but what cannot be told."""
        return {k: v for k, v in asdict(self).items() if not isinstance(v, str) and isfinite(v)}


def run_task(
    exam: EvalTask,
    model: GPT,
    device: torch.device,
    context: Callable[[], AbstractContextManager[object]],
    *,
    process_group: ProcessGroup,
    tokens: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> TaskResult:
    """Put an exam to a model. Interrupted when `stop()` says so; see `log_likelihoods`."""
    pairs = exam.pairs
    answers = log_likelihoods(
        model,
        pairs,
        device=device,
        autocast=context,
        tokens=tokens,
        stop=stop,
        progress=lambda done: progress(done, len(pairs)),
        rank=process_group.rank,
        size=process_group.size,
        total=process_group.all_reduce,
    )
    return grade(exam, answers.nats, answers.greedy, answers.cut)
