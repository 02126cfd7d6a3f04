"""Corpora of the Hugging Face hub, and those known by name, as documents.

    hf:OWNER/NAME[/FILES][:CONFIG][@REVISION][#COLUMN]

What a data set consists of is found out by the `datasets` library. Its parquet files are then read where they are,
piece by piece and only the one column: nothing is kept on disk, and one can begin anywhere. Other formats are
streamed by the library, which has to read what it skips.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from itertools import islice
from typing import Any

from groundup.errors import DataError
from groundup.sources.document import Document
from groundup.sources.hub_client import HubSpec, is_named, parse_spec, with_retries
from groundup.sources.hub_dataset import DataSet, resolve
from groundup.sources.hub_file import MOST_READ, RemoteFile
from groundup.sources.hub_join import Row, join

__all__ = ["hub_documents", "hub_identity", "is_named"]

DEFAULT_COLUMN = "text"
BATCH_ROWS = 64  # decoded at a time; a row may be a book


def hub_documents(source: str, column: str = DEFAULT_COLUMN, skip: int = 0) -> Iterator[Document]:
    """The documents of a named corpus from the `skip`-th on (counted from 0), in a fixed order.

    A row is a document, unless the table of corpora joins several. A row without text is a document without chunks:
    it counts, so that what is skipped need not be read. `Document.offset` is the number of the (first) row in its
    file. Raises DataError.
    """
    data = resolve(parse_spec(source))
    return join(data.spec.joined, partial(_rows, data, column), skip)


def hub_identity(source: str) -> str:
    """`source` with its revision resolved to a commit: equal strings mean equal documents. Raises DataError."""
    data = resolve(parse_spec(source))
    files, config, column = data.spec.files, data.spec.config, data.spec.column
    return "".join([
        f"hf:{data.spec.repo}",
        f"/{files}" if files else "",
        f":{config}" if config else "",
        f"@{data.commit}",
        f"#{column}" if column else "",
        f" joined by {data.spec.joined}" if data.spec.joined != 1 else "",
    ])  # fmt: skip


def _rows(data: DataSet, column: str, skip: int) -> Iterator[Row]:
    """All rows from the `skip`-th on."""
    from datasets.packaged_modules.parquet.parquet import Parquet

    ours = all(address.startswith(data.prefix) for address in data.files)
    return (_parquet_rows if ours and isinstance(data.builder, Parquet) else _streamed_rows)(data, column, skip)


def _parquet_rows(data: DataSet, column: str, skip: int) -> Iterator[Row]:
    from huggingface_hub import hf_hub_url
    from pyarrow.parquet import ParquetFile

    opened = partial(ParquetFile, buffer_size=MOST_READ, pre_buffer=False)  # memory holds one piece of one column
    for address in data.files:
        path = address.removeprefix(data.prefix)
        name = f"{data.spec.repo}/{path}"
        url = hf_hub_url(data.spec.repo, path, repo_type="dataset", revision=data.commit)
        with _sound(data.spec, name), opened(RemoteFile(data.spec, url)) as table:
            if skip < table.metadata.num_rows:
                chosen = _choose(data.spec, column, [field.name for field in table.schema_arrow if _is_text(field)])
                for number, text in _table_rows(table, chosen, skip):
                    yield name, number, text
            skip = max(skip - table.metadata.num_rows, 0)


def _table_rows(table: Any, column: str, skip: int) -> Iterator[tuple[int, str]]:
    """The rows of a parquet file from the `skip`-th on; of the groups of rows before it nothing is read."""
    at = 0
    for group in range(table.num_row_groups):
        if skip >= at + table.metadata.row_group(group).num_rows:
            at += table.metadata.row_group(group).num_rows
            continue
        for batch in table.iter_batches(BATCH_ROWS, row_groups=[group], columns=[column]):
            first = min(max(skip - at, 0), len(batch))
            for number, value in enumerate(batch.column(0)[first:], start=at + first):
                yield number, value.as_py() or ""
            at += len(batch)


def _streamed_rows(data: DataSet, column: str, skip: int) -> Iterator[Row]:
    """As the library streams them, taken up again where the connection broke."""
    if hasattr(data.builder.config, "sample_by"):
        data.builder.config.sample_by = "document"  # a text file is one document, as it is on disk
    at = skip
    rows: Iterator[dict[str, Any]] | None = None

    def begin(skip: int) -> Iterator[dict[str, Any]]:
        return iter(data.builder.as_streaming_dataset(split=data.split).skip(skip))

    def some() -> list[dict[str, Any]]:
        nonlocal rows
        try:
            rows = rows or begin(at)
            return list(islice(rows, BATCH_ROWS))
        except BaseException:
            rows = None  # a broken generator would say that this was the end
            raise

    texts = _declared(data.builder)
    if texts is None:
        first = with_retries(data.spec, lambda: list(islice(begin(0), BATCH_ROWS)))  # they decide, wherever one begins
        if not first:
            return
        texts = list(dict.fromkeys(key for row in first for key, value in row.items() if isinstance(value, str)))
    chosen = _choose(data.spec, column, texts)
    while batch := with_retries(data.spec, some):
        for row in batch:
            text = row.get(chosen)
            if text is not None and not isinstance(text, str):
                raise DataError(
                    f"{data.spec.source}: row {at}: {chosen!r} is not text but {type(text).__name__}; "
                    "choose another column with --column"
                )
            yield data.spec.repo, at, text or ""
            at += 1


def _declared(builder: Any) -> list[str] | None:
    """The columns of text, as far as the data set itself says what its columns hold."""
    features = builder.info.features
    if not features:
        return None
    return [name for name, feature in features.items() if getattr(feature, "dtype", None) in ("string", "large_string")]


def _choose(spec: HubSpec, column: str, texts: Sequence[str]) -> str:
    """The column to read: the one asked for, or else the only one that holds text."""
    wanted = spec.column or column
    if texts.count(wanted) > 1:
        raise DataError(f"{spec.source}: several columns are called {wanted!r}; choose another with --column")
    if wanted in texts:
        return wanted
    if spec.column is None and column == DEFAULT_COLUMN and len(texts) == 1:
        return texts[0]
    near = get_close_matches(wanted, texts, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(map(repr, texts)) or "none"
    raise DataError(
        f"{spec.source}: no column {wanted!r} of text; {hint}columns of text are {listed}: choose one with --column"
    )


def _is_text(field: Any) -> bool:
    import pyarrow.types as pt

    kind = field.type.value_type if pt.is_dictionary(field.type) else field.type
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


@contextmanager
def _sound(spec: HubSpec, name: str) -> Iterator[None]:
    """A file that is no parquet, or damaged, or holds what is no text, gets a sentence."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, UnicodeDecodeError, OSError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{spec.source}: {name} is damaged ({line}); choose another revision of the data set") from None
