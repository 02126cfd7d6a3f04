"""Text in a column of a parquet file, read row group by row group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.errors import DataError
from groundup.sources.compression import ReadProgress
from groundup.sources.text import Errors

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 64  # turned into Python's strings at a time; a row may be a book
PIECE_BYTES = 4 << 20  # of a column read at a time: memory must not grow with the groups of rows


def read_parquet(
    path: Path, column: str, errors: Errors, since: int = 0, gauge: ReadProgress | None = None
) -> Iterator[tuple[int, str]]:
    """The texts of `column`, each with its row's number from 0 on; rows without one, null or empty, are left out.

    Nothing is read but that column, and nothing of row groups that end before the row `since`. Raises DataError where
    there is no such column, it is no text, or the file is damaged.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(
            f"{path}: reading parquet needs pyarrow, which is not installed; install it with: "
            "pip install 'groundup[data]'"
        ) from None

    try:
        with pq.ParquetFile(path, buffer_size=PIECE_BYTES, pre_buffer=False) as file:
            _check_column(file.schema_arrow, column, path)
            row, begun, rows, size = 0, 0, file.metadata.num_rows, path.stat().st_size
            if gauge:
                gauge.follow(lambda: size * begun // rows if rows else size)
            for group in range(file.num_row_groups):
                end = row + file.metadata.row_group(group).num_rows
                if end <= since:
                    row = end
                    continue
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[column]):
                    for value in batch.column(0).cast(pa.large_binary()).to_pylist():
                        begun = row + 1
                        if value and row >= since:
                            yield row, _decoded(value, errors, f"{path}: row {row}")
                        row += 1
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            reason = os.strerror(error.errno or 0)
            raise DataError(f"{path}: cannot be read ({reason}); check the path and its permissions") from None
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{path}: damaged or cut short as a parquet file ({reason}); get a whole copy of it") from None


def _check_column(schema: pa.Schema, column: str, path: Path) -> None:
    import pyarrow as pa

    listed = ", ".join(f"{field.name!r} ({field.type})" for field in schema)
    if column not in schema.names:
        near = get_close_matches(column, schema.names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"{path}: no column {column!r}; {hint}columns are {listed}: choose one with --column")
    if schema.names.count(column) > 1:
        raise DataError(
            f"{path}: several columns are called {column!r}; give each a name of its own, or choose another"
        )
    kind = schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise DataError(f"{path}: column {column!r} is not text; columns are {listed}: choose one with --column")


def _decoded(value: bytes, errors: Errors, place: str) -> str:
    try:
        return value.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: byte {error.start} of the text is 0x{value[error.start]:02X}, which is not UTF-8 here "
            f"({error.reason}); mend the row, or replace what is not valid with --errors replace"
        ) from None
