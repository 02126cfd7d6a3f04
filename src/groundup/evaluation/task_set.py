"""From the name of a task, or a file of questions, to what a model is asked; and from its answers to a grade."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from groundup.config.merge import did_you_mean
from groundup.errors import DataError, UsageError
from groundup.evaluation.multiple_choice import Encoded, Ids, Metric, Scored, encode
from groundup.evaluation.tasks import OWN, TASKS, Place, Row, Task, ask
from groundup.sources.compression import open_decompressed
from groundup.sources.hub_client import FIRST_WAITS, with_retries
from groundup.sources.hub_spec import HubSpec
from groundup.tokenizers.registry import Tokenizer

FILES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


@dataclass(frozen=True)
class TaskSpec:
    """What to ask: a task of the table, a file of questions, or a task of the table from a file; at most `limit`."""

    name: str  # "" where the fields of the file are to tell
    file: Path | None
    limit: int | None

    @classmethod
    def parse(cls, text: str) -> TaskSpec:
        """`NAME`, `FILE` or `NAME=FILE`, and behind each `:LIMIT`. UsageError for anything else."""
        what, limit = text.strip(), None
        before, colon, number = what.rpartition(":")
        if colon and number.isascii() and number.isdecimal():
            what, limit = before, int(number)
            if limit < 1:
                raise UsageError(f"{text}: at most {limit} questions; ask one at least")
        name, equals, path = what.partition("=") if "=" in what else ("", "", what)
        is_file = bool(equals) or path.endswith(FILES)
        if is_file and name and name not in TASKS:
            raise UsageError(f"{name}: there is no such task; {did_you_mean(name, TASKS)}")
        if not is_file and path not in TASKS:
            known = ("loss", *TASKS)  # which is no task of questions, but asked for in the same place
            hint = f"{did_you_mean(path, known)}; there are {', '.join(known)}, and files such as mine.jsonl"
            raise UsageError(f"{path or text!r}: there is no such task; {hint}")
        return cls(name if is_file else path, Path(path) if is_file else None, limit)

    @classmethod
    def of_file(cls, text: str) -> TaskSpec:
        """The same where a file is meant, whatever it is called: `FILE`, or `NAME=FILE` with the name of a task."""
        named = text.partition("=")[0] in TASKS and "=" in text
        return cls.parse(text) if named else cls("", Path(text), None)


@dataclass(frozen=True)
class TaskPart:
    """All questions of a task in one form."""

    encoded: tuple[Encoded, ...]
    metrics: dict[str, Metric]

    @property
    def chance(self) -> float:
        """What guessing would score: the mean of one over the number of choices."""
        return sum(1 / len(one.pairs) for one in self.encoded) / len(self.encoded)


@dataclass(frozen=True)
class EvalTask:
    """A task, ready to be put to a model."""

    name: str
    source: str  # file, or repository and commit
    parts: tuple[TaskPart, ...]

    @property
    def questions(self) -> int:
        """How many there are."""
        return len(self.parts[0].encoded)

    @property
    def pairs(self) -> list[tuple[Ids, Ids]]:
        """Contexts and endings of all questions, in all their forms."""
        return [pair for part in self.parts for one in part.encoded for pair in one.pairs]

    def hardest(self, tokens: int) -> EvalTask:
        """Its longest questions alone, about as many as have that many tokens: they need the most memory."""
        by_length = sorted(self.parts[0].encoded, key=lambda one: -one.tokens)
        size = list(accumulate(one.tokens for one in by_length))
        n = 1 + sum(before < tokens for before in size[:-1])
        return replace(self, parts=(replace(self.parts[0], encoded=tuple(by_length[:n])),))


@dataclass(frozen=True)
class MetricValue:
    """A number, how sure it is, and what guessing would give."""

    value: float
    stderr: float  # NaN of a single question
    chance: float | None


@dataclass(frozen=True)
class TaskResult:
    """How a model did in one task."""

    task: str
    source: str
    questions: int
    cut: int  # endings whose context did not fit the model's and lost its beginning
    metrics: dict[str, MetricValue]

    def __str__(self) -> str:
        """In a line."""
        found = ", ".join(
            f"{name} {one.value:.4f}" + (f" ± {one.stderr:.4f}" if np.isfinite(one.stderr) else "")
            for name, one in self.metrics.items()
        )
        chance = next((f"guessing {one.chance:.4f}, " for one in self.metrics.values() if one.chance), "")
        return f"{self.task} {found} ({chance}{self.questions:,} questions)"

    def flat(self) -> dict[str, float]:
        """As log.jsonl has it: each metric and its standard error, where it is a number, and how many questions."""
        found: dict[str, float] = {"n": self.questions}
        for name, one in self.metrics.items():
            found |= {name: one.value, f"{name}_stderr": one.stderr}
        return {name: value for name, value in found.items() if np.isfinite(value)}


def open_exams(
    wanted: Sequence[str | TaskSpec], tokenizer: Tokenizer, *, every_form: bool = True, block_size: int | None = None
) -> list[EvalTask]:
    """All of them, each as `open_exam`. UsageError where two have one name, and would pass for one another."""
    exams: list[EvalTask] = []
    for one in wanted:
        exam = open_exam(one, tokenizer, every_form=every_form, block_size=block_size)
        if same := next((other for other in exams if other.name == exam.name), None):
            raise UsageError(f"{exam.name}: asked from {same.source} and again from {exam.source}; ask it once")
        exams.append(exam)
    return exams


def open_exam(
    wanted: str | TaskSpec, tokenizer: Tokenizer, *, every_form: bool = True, block_size: int | None = None
) -> EvalTask:
    """The questions that are meant, as ids; with `every_form`, in all ways the field asks them.

    DataError, with file and line, for what is no question, for what the tokenizer cannot express, and for an ending
    that does not fit a context of `block_size`.
    """
    spec = TaskSpec.parse(wanted) if isinstance(wanted, str) else wanted
    if spec.file is None:
        place = TASKS[spec.name].place
        assert place is not None, "all tasks of the table have one"
        file, source = _fetched(place, spec.name), f"{place.repo}@{place.revision[:12]}"
    else:
        file, source = spec.file, str(spec.file)
    rows = list(islice(read_rows(file), spec.limit))
    if not rows:
        raise DataError(f"{file}: holds no questions; give one a line, as {OWN.what}")
    task = TASKS[spec.name] if spec.name else _recognised(file, rows[0][1])
    name = spec.name or next((key for key, row in TASKS.items() if row is task), _named(file))
    forms = task.forms if every_form else task.forms[:1]
    parts = []
    for form in forms:
        questions = (ask(form, row, where) for where, row in rows)
        encoded = (encode(question, tokenizer, apart=form.apart, block_size=block_size) for question in questions)
        parts.append(TaskPart(tuple(encoded), dict(form.metrics)))
    return EvalTask(name, source, tuple(parts))


def grade(exam: EvalTask, nats: npt.NDArray[np.float64], greedy: npt.NDArray[np.bool_], cut: int = 0) -> TaskResult:
    """What the answers amount to: log-likelihoods and greediness of all endings, (N,) in the order of `exam.pairs`."""
    metrics: dict[str, MetricValue] = {}
    at = 0
    for part in exam.parts:
        scored = []
        for one in part.encoded:
            here = slice(at, at := at + len(one.pairs))
            tokens = np.array([len(ending) for _, ending in one.pairs], dtype=np.float64)
            lengths = np.array(one.lengths, dtype=np.float64)
            scored.append(Scored(nats[here], tokens, lengths, greedy[here], one.answer))
        for name, metric in part.metrics.items():
            value, stderr = metric.value(scored)
            metrics[name] = MetricValue(value, stderr, part.chance if metric.by_chance else None)
    return TaskResult(exam.name, exam.source, exam.questions, cut, metrics)


def read_rows(file: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a .jsonl (.gz, .zst) or .parquet file, each with its place for messages. DataError."""
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; give questions as {', '.join(FILES)}")
    return _parquet(file) if file.suffix == ".parquet" else _lines(file)


def _lines(file: Path) -> Iterator[tuple[str, Row]]:
    with open_decompressed(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}, line {number}: no JSON ({error}); write one object a line") from None
            if not isinstance(row, dict):
                raise DataError(f"{file}, line {number}: a JSON {type(row).__name__}; write an object, {{…}}")
            yield f"{file}, line {number}", row


def _parquet(file: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{file}: reading parquet needs pyarrow: pip install 'groundup[data]'") from None
    try:
        with ParquetFile(file) as table:
            rows = (row for batch in table.iter_batches() for row in batch.to_pylist())
            for number, row in enumerate(rows):
                yield f"{file}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: no whole parquet file ({str(error).splitlines()[0]}); get it anew") from None


def _recognised(file: Path, row: Row) -> Task:
    """The task whose fields a row has."""
    if OWN.fields <= row.keys():
        return OWN
    found = [name for name, task in TASKS.items() if task.fields <= row.keys()]
    if len(found) > 1:
        raise DataError(f"{file}: could be {' or '.join(found)}; say which, as {found[0]}={file}")
    if found:
        return TASKS[found[0]]
    raise DataError(
        f"{file}: its rows have {', '.join(row) or 'no fields'}, which is no task's; write {OWN.what}; "
        f"or say which task it is, as hellaswag={file}"
    )


def _named(file: Path) -> str:
    """What a file of one's own is called, which must not be the name of what is known."""
    name = file.name.partition(".")[0]
    return file.name if name in TASKS or name in ("loss", "") else name


def _fetched(place: Place, name: str) -> Path:
    """The file of a task, from the hub or its cache on this machine."""
    try:
        import datasets  # noqa: F401  # of which `with_retries` asks good manners
        import huggingface_hub
    except ImportError:
        raise DataError(
            f"{name}: fetching it needs huggingface_hub: pip install 'groundup[data]'; or give its file, {name}=FILE"
        ) from None
    elsewhere = f"give the file of the task, as {name}=FILE"
    spec = HubSpec(
        f"hf:{place.repo}/{place.path}", place.repo, place.path, revision=place.revision, elsewhere=elsewhere
    )

    def download() -> Path:
        return Path(
            huggingface_hub.hf_hub_download(place.repo, place.path, repo_type="dataset", revision=place.revision)
        )

    return with_retries(spec, download, FIRST_WAITS)
