"""Parquet files, read one column or row at a time: only what is needed, in flat memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.errors import DataError
from groundup.sources.compression import ReadProgress
from groundup.sources.encodings import Errors
from groundup.sources.text import MARK, MARKS, REPLACED, count_replaced, did_you_mean
from groundup.utils.extras import install_command

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 8  # decoded at a time; a row may be a book, and 64 of them would be gigabytes
BUFFER_BYTES = 4 << 20  # of a column read at a time: memory must not grow with the row groups


def read_parquet(
    path: Path, column: str, errors: Errors, start: int = 0, progress: ReadProgress | None = None
) -> Iterator[tuple[int, str]]:
    """The texts of `column`, each with its row number, from row `start` on (counted from 0); empty rows are left out.

    Only that column is read, and no row group that ends before `start`. Raises DataError if there is no such column,
    it is no text, or the file is damaged.
    """
    with open_parquet(path) as file:
        _check_column(file.schema_arrow, column, path)
        progress = progress or ReadProgress()
        progress.begin(path)
        begun, rows, size = 0, file.metadata.num_rows, path.stat().st_size
        progress.position = lambda: size * begun // rows if rows else size
        for row, value in read_column(file, column, start):
            begun = row + 1
            if value:
                text = _decode(value, errors, f"{path}: row {row}")
                progress.count(REPLACED, count_replaced(value, text))
                progress.count(MARKS, text.count(MARK))
                yield row, text


def read_parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a parquet file, each with path and row number for messages. Raises DataError."""
    with open_parquet(path) as file:
        rows = (row for batch in file.iter_batches(BATCH_ROWS) for row in batch.to_pylist())
        for number, row in enumerate(rows):
            yield f"{path}, row {number}", row


def read_column(file: pq.ParquetFile, column: str, start: int) -> Iterator[tuple[int, bytes | None]]:
    """The UTF-8 bytes of a text column from row `start` on, with row numbers; earlier row groups are not read."""
    import pyarrow as pa

    row = 0
    for group in range(file.num_row_groups):
        end = row + file.metadata.row_group(group).num_rows
        if end <= start:
            row = end
            continue
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[column]):
            for value in batch.column(0).cast(pa.large_binary()).to_pylist():
                if row >= start:
                    yield row, value
                row += 1


def is_text(data_type: pa.DataType) -> bool:
    """Whether a column of this type holds text, plain or dictionary-encoded."""
    import pyarrow.types as pt

    kind = data_type.value_type if pt.is_dictionary(data_type) else data_type
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A parquet file on disk; errors of opening and reading become DataError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(
            f"{path}: reading parquet needs pyarrow, which is not installed; install it with: {install_command('data')}"
        ) from None
    try:
        with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            yield file
    except (FileNotFoundError, PermissionError) as error:
        reason = os.strerror(error.errno or 0)
        raise DataError(f"{path}: cannot be read ({reason}); check the path and its permissions") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"{path}: damaged or cut short as a parquet file ({reason}); get a complete copy of it"
        ) from None


def _check_column(schema: pa.Schema, column: str, path: Path) -> None:
    listed = ", ".join(f"{field.name!r} ({field.type})" for field in schema)
    if column not in schema.names:
        hint = did_you_mean(column, schema.names)
        raise DataError(f"{path}: no column {column!r}; {hint}columns are {listed}: choose one with --column")
    if schema.names.count(column) > 1:
        raise DataError(
            f"{path}: several columns are called {column!r}; give each a name of its own, or choose another"
        )
    if not is_text(schema.field(column).type):
        raise DataError(f"{path}: column {column!r} is not text; columns are {listed}: choose one with --column")


def _decode(value: bytes, errors: Errors, label: str) -> str:
    try:
        return value.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{label}: byte {error.start} of the text is 0x{value[error.start]:02X}, which is not UTF-8 here "
            f"({error.reason}); fix the row, or replace what is not valid with --errors replace"
        ) from None
