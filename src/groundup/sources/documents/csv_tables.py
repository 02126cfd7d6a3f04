"""CSV and TSV: the cell of one column in each row, however columns are separated and quoted."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any, BinaryIO

from groundup.errors import DataError
from groundup.sources.documents.options import MissingColumnError, ReadOptions, count, decode_pieces, split_lines
from groundup.sources.rows import RowTexts, names_of
from groundup.sources.text import did_you_mean

MAX_ROW_CHARS = 32 << 20  # of all cells; the library takes ten times as many bytes
# Looked at, to see how columns are separated and quoted.
SAMPLE_CHARS, SAMPLE_LINES = 1 << 18, 1000
MIN_ALIKE = 0.8  # of the rows have as many cells as the header, where columns are separated like that

_DELIMITERS = (",", "\t", ";", "|", "\x1f")  # the last occurs nowhere: a table of one column
_DOUBLED: dict[str, Any] = {}  # "…", and "" for a quote inside
_BACKSLASH: dict[str, Any] = {"doublequote": False, "escapechar": "\\"}  # \" for a quote inside
_SPACED: dict[str, Any] = {"skipinitialspace": True}  # a, "b"
_UNQUOTED: dict[str, Any] = {"quoting": csv.QUOTE_NONE}  # quotes are text

_QUOTED = re.compile(r'".*"', re.DOTALL)  # a cell that contradicts it
_SAID = re.compile(r"sep=(.)\n?")


def read_csv(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The cell under `options.column` of each row; the first line holds the names of the columns.

    Rows without that cell, and lines whose quotes do not match, are left out and counted. Raises MissingColumnError;
    DataError for a row of more than `MAX_ROW_CHARS`, or if most of the first rows are left out.
    """
    csv.field_size_limit(MAX_ROW_CHARS)
    lines = split_lines(decode_pieces(file, name, options, found), name)
    sample = _sample(lines)
    settings = _settings(sample, options.column, name)
    source = _Lines(chain(sample, lines), name)
    rows = csv.reader(source, strict=True, **settings)
    header = [cell.strip() for cell in next(rows, [])]
    index = _column_index(header, options.column, name)
    texts = RowTexts(options.column, options.errors, partial(count, found))
    while True:
        first, source.row_chars = rows.line_num + 1, 0
        try:
            row = next(rows, None)
        except csv.Error as error:
            texts.leave_out(
                "lines whose quotes do not match are left out",
                f"{name}, line {first}: its quotes do not match ({error}); inside of quotes write a quote twice",
                rows.line_num + 1 - first,
            )
            continue
        if row is None:
            break
        if index < len(row):
            if any(row[len(header) :]):
                count(found, "rows have more cells than the header, so that their text may be cut")
            if row[index]:
                texts.good()
                yield row[index]
        elif row:
            texts.leave_out(
                "rows are too short to have the column and are left out",
                f"{name}, line {first}: {len(row)} cells, and column {options.column!r} is number {index + 1}; "
                "fix the row, or choose another column with --column",
            )
    texts.judge()


class _Lines:
    """Lines of a table, in bounds for what one row, which may be several of them, takes in memory."""

    def __init__(self, lines: Iterable[str], name: str) -> None:
        self._lines, self._name = lines, name
        self.row_chars = 0  # of the row so far; its reader sets it to 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.row_chars += len(line)
            if self.row_chars > MAX_ROW_CHARS:
                raise DataError(
                    f"{self._name}: a row of more than {MAX_ROW_CHARS:,} characters, as after a quote that nothing "
                    "closes; fix the file, or write a text of that length to a file of its own"
                )
            yield line


def _sample(lines: Iterator[str]) -> list[str]:
    """The first lines."""
    sample, length = list[str](), 0
    while length <= SAMPLE_CHARS and len(sample) < SAMPLE_LINES and (line := next(lines, None)) is not None:
        sample.append(line)
        length += len(line)
    return sample


def _settings(sample: list[str], column: str, name: str) -> dict[str, Any]:
    """How the columns of a table are separated and quoted, as settings of `csv.reader`."""
    if sample and (said := _SAID.fullmatch(sample[0])):  # as Excel writes it
        del sample[0]
        delimiters: tuple[str, ...] = (said[1],)
    else:
        delimiters = ("\t", *_DELIMITERS) if name.lower().endswith((".tsv", ".tab")) else _DELIMITERS
    quotings = [_DOUBLED, *([_BACKSLASH] if any('\\"' in line for line in sample) else ()), _SPACED, _UNQUOTED]
    choices = [{"delimiter": delimiter} | quoting for delimiter in delimiters for quoting in quotings]
    sample = [*sample[:-1], *(line[:SAMPLE_CHARS] for line in sample[-1:])]
    return max(choices, key=lambda settings: _score(sample, settings, column))  # the first of the best


def _score(sample: list[str], settings: dict[str, Any], column: str) -> tuple[bool, bool, float, int]:
    """How well settings fit: whether they find the column, and several columns, and how many rows are alike."""
    reader, header, n_rows, n_alike = csv.reader(sample, strict=True, **settings), list[str](), 0, 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error:
            if reader.line_num == len(sample):  # perhaps because the sample ends here
                break
            row = []
        header = header or [cell.strip() for cell in row]
        n_rows += 1
        n_alike += len(row) == len(header) and not (settings.keys() & _UNQUOTED and any(map(_QUOTED.fullmatch, row)))
    alike = n_alike / n_rows if n_rows else 0
    is_table = len(header) > 1 and alike >= MIN_ALIKE
    return column in header, is_table, round(alike, 2), n_alike if is_table else 0


def _column_index(header: list[str], column: str, name: str) -> int:
    n = header.count(column)
    if n == 1:
        return header.index(column)
    if n:
        raise DataError(
            f"{name}: several columns are called {column!r}; give each a name of its own, or choose another"
        )
    if len(header) < 2 and not all(map(str.isidentifier, header)):
        raise MissingColumnError(
            f"{name}: no column {column!r}, as the first line does not name columns; add a line with their names, or "
            "read it as plain text with --as text"
        )
    hint = did_you_mean(column, header)
    raise MissingColumnError(
        f"{name}: no column {column!r}; {hint}its first line names {names_of(header)}: choose one with --column, or "
        "add a line with the names of the columns"
    )
