"""Open tasks: from the name of a task or a file of questions to token ids, and from log-likelihoods to results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from groundup.config.merge import did_you_mean
from groundup.errors import DataError, UsageError
from groundup.evaluation.multiple_choice import EncodedQuestion, Ids, Metric, ScoredQuestion, encode
from groundup.evaluation.task_table import CUSTOM, CUSTOM_FIELDS, TASKS, HubFile, Row, Task, build_question
from groundup.sources.hub import FIRST_WAITS, with_retries
from groundup.sources.parquet import read_parquet_rows
from groundup.sources.text import read_json_lines
from groundup.tokenizers.base import Tokenizer
from groundup.utils.extras import install_command
from groundup.utils.hub_errors import HubRepo
from groundup.utils.plural import human_plural

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
LOSS = "loss"  # evaluated along with tasks, but not a task


@dataclass(frozen=True)
class TaskSpec:
    """A task of the table, a file of questions, or a task of the table from a file; the first `limit` questions."""

    name: str  # "": recognized by the fields of the file
    file: Path | None
    limit: int | None

    @classmethod
    def parse(cls, text: str) -> TaskSpec:
        """`NAME`, `FILE` or `NAME=FILE`, each with an optional `:LIMIT`. UsageError for anything else."""
        what, limit = text.strip(), None
        before, colon, number = what.rpartition(":")
        if colon and number.isascii() and number.isdecimal():
            what, limit = before, int(number)
            if limit < 1:
                raise UsageError(f"{text}: a limit of {limit} questions; give at least 1")
        name, equals, path = what.partition("=") if "=" in what else ("", "", what)
        is_file = bool(equals) or path.endswith(SUFFIXES)
        if is_file and name and name not in TASKS:
            raise UsageError(f"{name}: there is no such task; {did_you_mean(name, TASKS)}")
        if path == LOSS:
            raise UsageError(f"{text}: the loss is always evaluated, and it is not a task; leave it out")
        if not is_file and path not in TASKS:
            hint = f"nor is it a file such as mine.jsonl; {did_you_mean(path, (LOSS, *TASKS))}"
            raise UsageError(f"{path or text!r}: there is no such task, {hint}")
        return cls(name if is_file else path, Path(path) if is_file else None, limit)


@dataclass(frozen=True)
class TaskPart:
    """All questions of a task in one prompt format."""

    questions: tuple[EncodedQuestion, ...]
    metrics: Mapping[str, Metric]

    @property
    def chance(self) -> float:
        """Accuracy of random guessing: the mean of 1 / number of choices."""
        return sum(1 / len(question.pairs) for question in self.questions) / len(self.questions)


@dataclass(frozen=True)
class EvalTask:
    """A task whose questions are encoded for a model."""

    name: str
    source: str  # file, or repository and commit
    parts: tuple[TaskPart, ...]

    @property
    def size(self) -> int:
        return len(self.parts[0].questions)

    @property
    def pairs(self) -> list[tuple[Ids, Ids]]:
        """Prompts and endings of all questions, in all prompt formats."""
        return [pair for part in self.parts for question in part.questions for pair in question.pairs]

    def longest(self, tokens: int) -> EvalTask:
        """The task with only its longest questions, about `tokens` tokens of them: they need the most memory."""
        by_length = sorted(self.parts[0].questions, key=lambda question: -question.tokens)
        size = list(accumulate(question.tokens for question in by_length))
        n = 1 + sum(before < tokens for before in size[:-1])
        return replace(self, parts=(replace(self.parts[0], questions=tuple(by_length[:n])),))


@dataclass(frozen=True)
class MetricValue:
    """A metric with its standard error and the value of random guessing."""

    value: float
    stderr: float  # NaN for a single question
    chance: float | None
    ties: int = 0  # questions whose right choice is as likely as another; each scores 1 / the number of these


@dataclass(frozen=True)
class TaskResult:
    """Result of a model on one task."""

    task: str
    source: str
    questions: int
    truncated: int  # endings whose prompt did not fit the model's context and lost its beginning
    metrics: dict[str, MetricValue]

    def __str__(self) -> str:
        metrics = ", ".join(
            f"{name} {metric.value:.4f}" + (f" ± {metric.stderr:.4f}" if np.isfinite(metric.stderr) else "")
            for name, metric in self.metrics.items()
        )
        chance = next((f"guessing {metric.chance:.4f}, " for metric in self.metrics.values() if metric.chance), "")
        return f"{self.task} {metrics} ({chance}{human_plural(self.questions, 'question')})"

    def flat(self) -> dict[str, float]:
        """As in log.jsonl: number of questions, each metric, its standard error and ties; without NaN and infinity."""
        values: dict[str, float] = {"n": self.questions}
        for name, metric in self.metrics.items():
            values |= {name: metric.value, f"{name}_stderr": metric.stderr}
            values |= {f"{name}_ties": metric.ties} if metric.ties else {}
        return {name: value for name, value in values.items() if np.isfinite(value)}


def open_tasks(
    tasks: Sequence[str | TaskSpec | EvalTask],
    tokenizer: Tokenizer,
    *,
    all_formats: bool = True,
    block_size: int | None = None,
) -> list[EvalTask]:
    """Open each of `tasks` that is not open yet, by `open_task`. UsageError if two have the same name."""
    opened: list[EvalTask] = []
    for task in tasks:
        if not isinstance(task, EvalTask):
            task = open_task(task, tokenizer, all_formats=all_formats, block_size=block_size)
        if same := next((other for other in opened if other.name == task.name), None):
            raise UsageError(f"{task.name}: given from {same.source} and again from {task.source}; give it once")
        opened.append(task)
    return opened


def open_task(
    wanted: str | TaskSpec, tokenizer: Tokenizer, *, all_formats: bool = True, block_size: int | None = None
) -> EvalTask:
    """Read and encode the questions of a task; with `all_formats`, in every prompt format it has.

    DataError, with file and line, for rows that are no questions, texts that the tokenizer cannot encode, and endings
    longer than `block_size`.
    """
    spec = TaskSpec.parse(wanted) if isinstance(wanted, str) else wanted
    if spec.file is None:
        hub_file = _hub_file(spec)
        file, source = _download(hub_file, spec.name), f"{hub_file.repo}@{hub_file.revision[:12]}"
    else:
        file, source = spec.file, str(spec.file)
    rows = list(islice(read_rows(file), spec.limit))
    if not rows:
        raise DataError(f"{file}: holds no questions; give one per line, as {CUSTOM_FIELDS}")
    task = TASKS[spec.name] if spec.name else _recognize(file, rows[0][1])
    stem = file.name.partition(".")[0]
    own_name = file.name if stem in (*TASKS, LOSS, "") else stem  # different from those of known tasks
    name = spec.name or next((key for key, row in TASKS.items() if row is task), own_name)
    parts = []
    for prompt_format in task.formats if all_formats else task.formats[:1]:
        questions = (build_question(prompt_format, row, origin) for origin, row in rows)
        to_ids = partial(encode, tokenizer=tokenizer, separately=prompt_format.separately, block_size=block_size)
        parts.append(TaskPart(tuple(map(to_ids, questions)), prompt_format.metrics))
    return EvalTask(name, source, tuple(parts))


def needs_download(task: str) -> bool:
    """Whether a task's questions come from the hub and are not in its cache on this machine."""
    spec = TaskSpec.parse(task)
    if spec.file is not None:
        return False
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False  # opening the task says what to install
    file = _hub_file(spec)
    cached = try_to_load_from_cache(file.repo, file.path, revision=file.revision, repo_type="dataset")
    return not isinstance(cached, str)


def compute_result(
    task: EvalTask, nats: npt.NDArray[np.float64], greedy: npt.NDArray[np.bool_], truncated: int = 0
) -> TaskResult:
    """Metrics of a task from (N,) log-likelihoods and greediness of all endings, in the order of `task.pairs`."""
    metrics: dict[str, MetricValue] = {}
    at = 0
    for part in task.parts:
        scored = []
        for question in part.questions:
            here = slice(at, at := at + len(question.pairs))
            scored.append(ScoredQuestion(question, nats[here], greedy[here]))
        for name, metric in part.metrics.items():
            value, stderr, ties = metric.value(scored)
            metrics[name] = MetricValue(value, stderr, part.chance if metric.by_chance else None, ties)
    return TaskResult(task.name, task.source, task.size, truncated, metrics)


def read_rows(file: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a .jsonl (.gz, .zst) or .parquet file, each with path and number for messages. DataError."""
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; give questions as {', '.join(SUFFIXES)}")
    if file.suffix == ".parquet":
        return read_parquet_rows(file)
    return ((label, record) for _, label, record in read_json_lines(file))


def _recognize(file: Path, row: Row) -> Task:
    """The task that has the fields of a row."""
    if CUSTOM.fields <= row.keys():
        return CUSTOM
    names = [name for name, task in TASKS.items() if task.fields <= row.keys()]
    if len(names) > 1:
        raise DataError(f"{file}: could be {' or '.join(names)}; say which, as {names[0]}={file}")
    if names:
        return TASKS[names[0]]
    raise DataError(
        f"{file}: its rows have {', '.join(row) or 'no fields'}, which fits no task; write {CUSTOM_FIELDS}; "
        f"or say which task it is, as hellaswag={file}"
    )


def _hub_file(spec: TaskSpec) -> HubFile:
    file = TASKS[spec.name].hub_file
    assert file is not None, "all tasks of the table have one"
    return file


def _download(file: HubFile, name: str) -> Path:
    """The file of a task, from the hub or its cache on this machine."""
    try:
        import datasets  # noqa: F401  # `with_retries` configures it
        import huggingface_hub
    except ImportError:
        raise DataError(
            f"{name}: fetching it needs huggingface_hub: {install_command('data')}; or give its file, {name}=FILE"
        ) from None
    alternative = f"give the file of the task, as {name}=FILE"
    repo = HubRepo(f"hf:{file.repo}/{file.path}", file.repo, file.revision, "data set", alternative)
    download = partial(huggingface_hub.hf_hub_download, repo_type="dataset", revision=file.revision)
    return Path(with_retries(repo, partial(download, file.repo, file.path), FIRST_WAITS))
