"""Rows of tables, as JSON holds them, and their text: a field of an object, a string, or a conversation."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from groundup.errors import DataError
from groundup.sources.compression import ReadProgress
from groundup.sources.documents.options import MissingColumnError
from groundup.sources.encodings import Errors
from groundup.sources.text import MARK, MARKS, REPLACED, REPLACEMENT, did_you_mean, read_json_values

DEFAULT_COLUMN = "text"
JUDGED_ROWS = 10  # at the beginning of a table: it is refused if most of them hold no text
MAX_NAMES, MAX_NAME_CHARS = 20, 60  # of fields, in a message

CONVERSATIONS = "rows are conversations, read as lines `role: text`"
CONVERSATION_FIELDS = ("messages", "conversations", "conversation")
TURNS = (("role", "content"), ("from", "value"))  # as OpenAI's and ShareGPT's data sets name them

_SURROGATE = re.compile("[\ud800-\udfff]")


class RowTexts:
    """The text of each row of a table. Rows that hold none are counted, and DataError if they are most of the first.

    `count` gets what is to be told about the table, as a clause and how often. The first rows are not judged where
    `is_start` says that they are not the table's.
    """

    def __init__(
        self, column: str, errors: Errors, count: Callable[[str, int], None], *, is_start: bool = True
    ) -> None:
        self._column, self._errors, self._count = column, errors, count
        self._n_good = self._n_bad = 0
        self._problem: DataError | None = None  # of the first row that holds no text
        self._is_judged = not is_start

    def text(self, row: Any, label: str) -> str | None:
        """The text of a row, None where it is empty, null or left out; `label` is the row's place, for messages."""
        column, text = self._column, row
        if isinstance(row, dict):
            talk = conversation(row.get(column) if column in row else _conversation_field(row, column))
            if talk is None and column not in row:
                finding = f"rows have no field {column!r} and are left out"
                self.leave_out(finding, _no_field(row, column, label), is_column=True)
                return None
            text = row.get(column) if talk is None else talk
            self._count(CONVERSATIONS, talk is not None)
        if isinstance(text, str):
            self._n_good += bool(text)
            return self._valid(text, label)
        kind = type(text).__name__
        if not isinstance(row, dict):
            self.leave_out(
                "rows are neither objects nor strings and are left out",
                f"{label}: a JSON {kind}; write an object, {{…}}",
            )
        elif text is not None:
            self.leave_out(
                f"rows have no text in field {column!r} and are left out",
                f"{label}: field {column!r} is not text but {kind}; choose another with --column, or fix the line",
            )
        return None

    def good(self) -> None:
        """Note a row with text."""
        self._n_good += 1

    def leave_out(self, finding: str, problem: str, n: int = 1, *, is_column: bool = False) -> None:
        """Count `n` rows without text under `finding`; `problem` is the message if most rows are like that."""
        self._count(finding, n)
        self._n_bad += 1
        self._problem = self._problem or (MissingColumnError if is_column else DataError)(problem)
        if self._n_good + self._n_bad >= JUDGED_ROWS:
            self.judge()

    def judge(self) -> None:
        """Raise DataError if most of the rows so far hold no text; to be called at the end, too."""
        if self._problem and not self._is_judged and self._n_bad >= self._n_good:
            raise self._problem
        self._is_judged = True

    def _valid(self, text: str, label: str) -> str:
        if found := _SURROGATE.search(text):
            if self._errors == "strict":
                raise DataError(
                    f"{label}: the text holds U+{ord(found[0]):04X}, half of a surrogate pair, which is not a "
                    "character; fix the line, or replace what is not valid with --errors replace"
                )
            text, n_replaced = _SURROGATE.subn(REPLACEMENT, text)
            self._count(REPLACED, n_replaced)
        return text


def read_jsonl(
    path: Path,
    column: str,
    errors: Errors,
    start: int = 0,
    progress: ReadProgress | None = None,
    encoding: str | None = None,
) -> Iterator[tuple[int, str]]:
    """The text of each row of a JSON lines file, with the row's byte offset, from byte `start` on.

    Rows are objects with text, or a conversation, in the field `column`; or strings. Empty and null texts are left out,
    other rows counted. Raises DataError where these are most, and for a line that is not JSON.
    """
    progress = progress or ReadProgress()
    rows = RowTexts(column, errors, progress.count, is_start=not start)
    for offset, label, row in read_json_values(path, errors, start, progress, encoding):
        if text := rows.text(row, label):
            progress.count(MARKS, text.count(MARK))
            yield offset, text
    rows.judge()


def conversation(turns: Any) -> str | None:
    """Turns such as `{"role": "user", "content": "Hi"}` as lines `user: Hi`; None for anything else."""
    if not isinstance(turns, list) or not turns:
        return None
    lines = []
    for turn in turns:
        keys = next((keys for keys in TURNS if isinstance(turn, dict) and keys[0] in turn), None)
        if keys is None:
            return None
        content = turn.get(keys[1])
        if isinstance(content, list):  # parts, of which some may be pictures
            content = "".join(part["text"] for part in content if isinstance(part, dict) and _is_text(part.get("text")))
        if _is_text(content) and content.strip():
            lines.append(speech(turn[keys[0]], content))
    return "".join(lines)


def speech(name: Any, text: str) -> str:
    """The line, or lines, of a conversation in which `name` says `text`."""
    return f"{' '.join(str(name).split())}: {text.strip()}\n"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _conversation_field(row: dict[str, Any], column: str) -> Any:
    """The turns of a row that has no field `column`, if no other column was asked for."""
    return next((row[name] for name in CONVERSATION_FIELDS if column == DEFAULT_COLUMN and name in row), None)


def _no_field(row: dict[str, Any], column: str, label: str) -> str:
    fields = names_of(row)
    return f"{label}: no field {column!r}; {did_you_mean(column, row)}fields are {fields}: choose one with --column"


def names_of(names: Iterable[str]) -> str:
    """Names of fields or columns for a message: the first of them, each of a length that can be read."""
    names = list(names)
    shown = [repr(name if len(name) <= MAX_NAME_CHARS else f"{name[:MAX_NAME_CHARS]}…") for name in names[:MAX_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else "") or "none"
