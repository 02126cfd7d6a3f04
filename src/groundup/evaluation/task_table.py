"""Multiple-choice tasks as a table: where their files are, and how rows become questions.

Prompts are those of lm-evaluation-harness (EleutherAI, version 0.4), so that `acc` and `acc_norm_harness` are its `acc`
and `acc_norm`. HellaSwag is also run as in llm.c and build-nanogpt, with the raw context; `acc_norm` is always their
mean over tokens.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from groundup.errors import DataError
from groundup.evaluation.multiple_choice import MAX_EXPONENT, Metric, MultipleChoice, ScoredQuestion

Row = Mapping[str, Any]  # of a task's file: field -> value


@dataclass(frozen=True)
class HubFile:
    """A file of a data set on the hub at one commit."""

    repo: str
    revision: str
    path: str


@dataclass(frozen=True)
class PromptFormat:
    """One way to turn a row into a question, and the metrics computed with it."""

    question: Callable[[Row], MultipleChoice]
    metrics: Mapping[str, Metric]
    separately: bool = False  # see `multiple_choice.encode`


@dataclass(frozen=True)
class Task:
    """A row of the table."""

    fields: frozenset[str]  # of a row; a file is recognized by them
    formats: tuple[PromptFormat, ...]  # during training, only the first
    hub_file: HubFile | None = None  # None: only in users' own files


def _one_prompt(prompt: str, choices: Sequence[str], answer: int) -> MultipleChoice:
    """Choices after one prompt and a space, keeping white space of their own, as lm-evaluation-harness does."""
    endings, lengths = tuple(f" {choice}" for choice in choices), tuple(map(len, choices))
    return MultipleChoice((prompt,) * len(choices), endings, answer, lengths)


def _hellaswag_raw(row: Row) -> MultipleChoice:
    return _one_prompt(row["ctx"], _texts(row["endings"], "endings"), _label(row["label"]))


def _hellaswag(row: Row) -> MultipleChoice:
    prompt = _plain(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    return _one_prompt(prompt, [_plain(ending) for ending in _texts(row["endings"], "endings")], _label(row["label"]))


def _plain(text: str) -> str:
    """Remove WikiHow's markup from HellaSwag's texts."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _arc(row: Row) -> MultipleChoice:
    labels, texts = list(row["choices"]["label"]), _texts(row["choices"]["text"], "choices")
    if row["answerKey"] not in labels:
        raise DataError(f"answerKey {row['answerKey']!r}: none of its labels, {', '.join(map(str, labels))}")
    return _one_prompt(f"Question: {row['question']}\nAnswer:", texts, labels.index(row["answerKey"]))


def _piqa(row: Row) -> MultipleChoice:
    return _one_prompt(f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], _label(row["label"]))


def _winogrande(row: Row) -> MultipleChoice:
    """The text after the gap, following each way to fill it (Trinh and Le, arXiv:1806.02847)."""
    before, gap, after = row["sentence"].partition("_")
    if not gap:
        raise DataError("sentence: has no gap `_` to fill")
    if str(row["answer"]) not in ("1", "2"):
        raise DataError(f"answer {row['answer']!r}: neither 1 nor 2; the test part is published without")
    prompts, after = (before + row["option1"], before + row["option2"]), after.strip()
    return MultipleChoice(prompts, (f" {after}",) * 2, int(row["answer"]) - 1, (len(after),) * 2)


def _lambada(row: Row) -> MultipleChoice:
    """The last word of a passage, after the rest of it."""
    if "continuation" in row:
        return _one_prompt(row["context"], [row["continuation"].removeprefix(" ")], 0)
    before, _, last = row["text"].rpartition(" ")
    return _one_prompt(before, [last], 0)


def _custom(row: Row) -> MultipleChoice:
    choices, answer = row["choices"], row["answer"]
    if not isinstance(choices, list | tuple) or len(choices) < 2 or not all(isinstance(c, str) for c in choices):
        raise DataError("choices: not a list of two texts or more")
    if not isinstance(answer, int) or isinstance(answer, bool):
        raise DataError(f"answer {answer!r}: not the number of a choice, counted from 0")
    context = row["context"]
    if not isinstance(context, str):
        raise DataError("context: not a text")
    needs_space = bool(context) and not context[-1].isspace()
    endings = tuple(f" {choice}" if needs_space and not choice[:1].isspace() else choice for choice in choices)
    lengths = tuple(len(choice.strip()) for choice in choices)
    return MultipleChoice((context,) * len(choices), endings, answer, lengths)


def _texts(value: Any, field: str) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{field}: not a list of texts")
    return list(value)


def _label(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"label {value!r}: not a number; the test parts of some tasks are published without")
    return value


def _perplexity(mean: float) -> float:
    return math.exp(min(-mean, MAX_EXPONENT))


ACC = Metric(lambda q: q.is_right())
# By the mean over an ending's tokens, `acc_norm` of llm.c and build-nanogpt; over its characters, that of the harness.
ACC_TOKENS = Metric(lambda q: q.is_right([len(ending) for _, ending in q.question.pairs]))
ACC_CHARACTERS = Metric(lambda q: q.is_right(q.question.lengths))
ACC_GREEDY = Metric(ScoredQuestion.is_greedy, by_chance=False)
# exp of the mean negative log-likelihood of an ending, as in lm-evaluation-harness for LAMBADA.
PERPLEXITY = Metric(lambda q: float(q.nats[q.question.answer]), _perplexity, _perplexity, by_chance=False)

CHOICE = {"acc": ACC, "acc_norm": ACC_TOKENS, "acc_norm_harness": ACC_CHARACTERS}
ARC_REVISION = "210d026faf9955653af8916fad021475a3f00453"
ARC_FIELDS = frozenset({"question", "choices", "answerKey"})

CUSTOM = Task(frozenset({"context", "choices", "answer"}), (PromptFormat(_custom, CHOICE),))
CUSTOM_FIELDS = "your own questions: `context`, `choices`, and in `answer` the number of the right one"
TASKS = {
    "hellaswag": Task(  # how a scene continues (arXiv:1905.07830); 10,042 questions of 4 choices
        frozenset({"ctx", "ctx_a", "ctx_b", "activity_label", "endings", "label"}),
        (
            PromptFormat(_hellaswag_raw, {"acc": ACC, "acc_norm": ACC_TOKENS}, separately=True),
            PromptFormat(_hellaswag, {"acc_harness": ACC, "acc_norm_harness": ACC_CHARACTERS}),
        ),
        HubFile(
            "Rowan/hellaswag", "218ec52e09a7e7462a5400043bb9a69a41d06b76", "data/validation-00000-of-00001.parquet"
        ),
    ),
    "arc_easy": Task(  # school science questions (arXiv:1803.05457); 2,376, mostly of 4 choices
        ARC_FIELDS,
        (PromptFormat(_arc, CHOICE),),
        HubFile("allenai/ai2_arc", ARC_REVISION, "ARC-Easy/test-00000-of-00001.parquet"),
    ),
    "arc_challenge": Task(  # the harder of these questions; 1,172
        ARC_FIELDS,
        (PromptFormat(_arc, CHOICE),),
        HubFile("allenai/ai2_arc", ARC_REVISION, "ARC-Challenge/test-00000-of-00001.parquet"),
    ),
    "piqa": Task(  # how to do everyday things (arXiv:1911.11641); 1,838 of 2 choices
        frozenset({"goal", "sol1", "sol2", "label"}),
        (PromptFormat(_piqa, CHOICE),),
        HubFile("baber/piqa", "142f6d7367fd9877f0fb3b5734ea6a545f54cdd1", "piqa_validation.parquet"),
    ),
    "winogrande": Task(  # which noun a pronoun refers to (arXiv:1907.10641); 1,267 of 2 choices
        frozenset({"sentence", "option1", "option2", "answer"}),
        (PromptFormat(_winogrande, {"acc": ACC}),),
        HubFile(
            "allenai/winogrande",
            "01e74176c63542e6b0bcb004dcdea22d94fb67b5",
            "winogrande_xl/validation-00000-of-00001.parquet",
        ),
    ),
    "lambada": Task(  # the last word of a passage (arXiv:1606.06031), in OpenAI's version; 5,153
        frozenset({"context", "continuation"}),
        (PromptFormat(_lambada, {"acc": ACC_GREEDY, "perplexity": PERPLEXITY}),),
        HubFile("EleutherAI/lambada_openai", "900124bf3b8235c6daf21033af9948b3f07346c4", "data/lambada_test_en.jsonl"),
    ),
}
"""Tasks by name. Counts are those of the files at the pinned commits, as published on their pages."""


def build_question(prompt_format: PromptFormat, row: Row, origin: str) -> MultipleChoice:
    """The question of a row; DataError, starting with `origin`, if the row does not fit the task."""
    try:
        question = prompt_format.question(row)
    except KeyError as error:
        raise DataError(f"{origin}: has no {error.args[0]}; give all fields of the task") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{origin}: not a row of this task ({error})") from None
    except DataError as error:
        raise DataError(f"{origin}: {error}") from None
    return replace(question, origin=origin).check()
