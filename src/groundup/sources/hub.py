"""Corpora of the Hugging Face Hub, and those known by name, as documents.

    hf:OWNER/NAME[/FILES][:CONFIG][@REVISION][#COLUMN]

The `datasets` library finds the files of a data set. Parquet files are then read remotely, piece by piece and only the
one column: nothing is kept on disk, and reading can begin at any row. Other formats are streamed by the library, which
has to read what it skips.
"""

import io
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, islice, pairwise
from typing import Any, Literal, TypeAlias, TypeVar

from typing_extensions import override

from groundup.errors import DataError
from groundup.sources.catalog import ARTICLES, CORPORA
from groundup.sources.parquet import BATCH_ROWS, is_text, read_column
from groundup.sources.text import Document, chunk_text, did_you_mean
from groundup.utils.extras import install_command
from groundup.utils.hub_errors import HubRepo, explain_hub_error

log = logging.getLogger("groundup")  # with no handler set up, Python writes its warnings to standard error

PREFIX = "hf:"
GRAMMAR = "hf:OWNER/NAME[/FILES][:CONFIG][@REVISION][#COLUMN]"
BY_PATH = "by path, as in: groundup prepare FOLDER/*.parquet"  # how files are given instead

_SPEC = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)(/(?P<files>[^:@#]+))?(:(?P<config>[^@#]+))?(@(?P<revision>[^#]+))?(#(?P<column>.+))?"
)

# Seconds between attempts. A mistake in the name or the network should show soon; a stream of hours should outlive
# a router's restart.
FIRST_WAITS: tuple[float, ...] = (1, 2, 4)
WAITS: tuple[float, ...] = (1, 2, 4, 8, 15, 30, 60)
SILENT_WAIT_SECONDS = 1  # longer waits are logged
MAX_WAIT_SECONDS = 300  # a hub that asks for more is not waited for

DEFAULT_COLUMN = "text"

# A request takes about as long as the transfer of half a megabyte, so none asks for less than one; and of a longer
# column none asks for more than four, so that memory stays flat.
MIN_READ_BYTES = 1 << 20
MAX_READ_BYTES = 4 << 20
FOOTER_BYTES = 1 << 16  # holds the metadata of most parquet files

T = TypeVar("T")
Row: TypeAlias = tuple[str, int, str]  # the file, the row's number in it, its text

_TITLE = re.compile(r" = [^=](.*[^=])? = \n?")


@dataclass(frozen=True, kw_only=True)
class HubSpec(HubRepo):
    """A data set of the hub, or a part of it.

    `files` is a path inside the data set, and may hold wildcards; without it, the files are those that the data set
    itself declares for `config` and its `train` split. `revision` may also be `refs/convert/parquet`, where the hub
    keeps its own copy in parquet.
    """

    kind: Literal["model", "data set"] = "data set"
    alternative: str = f"get the data elsewhere and give its files {BY_PATH}"
    files: str | None = None
    config: str | None = None
    column: str | None = None
    rows_per_document: int | str = 1  # or `catalog.ARTICLES`


def is_hub_name(source: str) -> bool:
    """Whether `source` names a corpus of the hub: `hf:…`, or a row of the table of known corpora."""
    return source.startswith(PREFIX) or (source in CORPORA and CORPORA[source].source is not None)


def parse_spec(source: str) -> HubSpec:
    """Parse `source`, for which `is_hub_name` holds. Raises DataError with the grammar."""
    known = CORPORA.get(source)
    match = _SPEC.fullmatch(source if known is None else known.source or "")
    if match is None:
        raise DataError(f"{source}: no name of a corpus on the hub; write {GRAMMAR}, as in hf:roneneldan/TinyStories")
    parts: dict[str, Any] = match.groupdict()
    if parts["files"] and parts["config"]:
        raise DataError(f"{source}: names both files and a config; leave out one of the two")
    return HubSpec(source=source, **parts, rows_per_document=1 if known is None else known.rows_per_document)


@dataclass(frozen=True)
class DataSet:
    """A data set at one commit: the files of one split, and the library's builder that reads them."""

    spec: HubSpec
    commit: str
    split: str
    files: Sequence[str]  # beginning with `prefix`, or addresses on other hosts
    builder: Any  # a datasets.DatasetBuilder

    @property
    def prefix(self) -> str:
        """The common beginning of the addresses of the data set's own files."""
        return f"hf://datasets/{self.spec.repo}@{self.commit}/"


def hub_documents(source: str, column: str = DEFAULT_COLUMN, skip: int = 0) -> Iterator[Document]:
    """The documents of a corpus of the hub from the `skip`-th on (counted from 0), in a fixed order.

    A row is a document, unless the table of corpora joins several. A row without text is a document without chunks:
    it counts, so that what is skipped need not be read. `Document.offset` is the number of the (first) row in its
    file. Raises DataError.
    """
    from datasets.packaged_modules.parquet.parquet import Parquet

    data = resolve(parse_spec(source))
    on_hub = all(address.startswith(data.prefix) for address in data.files)
    read = _parquet_rows if on_hub and isinstance(data.builder, Parquet) else _streamed_rows
    return join_rows(data.spec.rows_per_document, partial(read, data, column), skip)


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
        f" joined by {data.spec.rows_per_document}" if data.spec.rows_per_document != 1 else "",
    ])  # fmt: skip


@lru_cache(maxsize=16)
def resolve(spec: HubSpec) -> DataSet:
    """Resolve a name to a commit and its files. Raises DataError.

    Cached for the life of the process, so that reading a corpus twice gives the same documents.
    """
    try:
        import datasets
        import huggingface_hub
        import pyarrow  # noqa: F401
    except ImportError:
        raise DataError(
            f"{spec.source}: reading from the hub needs more libraries; install them with: {install_command('data')}"
        ) from None

    if datasets.config.HF_HUB_OFFLINE:
        raise DataError(
            f"{spec.source}: the hub may not be asked while HF_HUB_OFFLINE is set; unset it (or HF_DATASETS_OFFLINE), "
            f"or give the files of its cache {BY_PATH}"
        )
    timeout = huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT
    find = partial(huggingface_hub.HfApi().dataset_info, spec.repo, revision=spec.revision, timeout=timeout)
    commit = str(with_retries(spec, find, FIRST_WAITS).sha)

    def load_builder() -> Any:
        try:
            return datasets.load_dataset_builder(
                f"hf://datasets/{spec.repo}",  # never a folder of that name in the working directory
                name=spec.config,
                data_files={"train": spec.files} if spec.files else None,
                revision=commit,
            )
        except Exception as error:
            if refusal := _explain_library_error(spec, error):
                raise refusal from None
            raise

    builder = with_retries(spec, load_builder)
    files = {str(name): list(paths) for name, paths in (builder.config.data_files or {}).items()}
    if "train" not in files and len(files) != 1:
        names = ", ".join(files) or "none"
        raise DataError(f"{spec.source}: it has no split named train, but {names}; name files, as {spec.repo}/FOLDER/*")
    split = "train" if "train" in files else next(iter(files))
    if split != "train":
        log.warning("%s: it has no split named train; reads its only one, %s", spec.source, split)
    return DataSet(spec, commit, split, files[split], builder)


def _explain_library_error(spec: HubSpec, error: Exception) -> DataError | None:
    """An error of the `datasets` library about the data set itself; None for any other."""
    text = str(error)
    if "scripts are no longer supported" in text:
        return DataError(
            f"{spec.source}: this data set is a program, which is not run; "
            f"read the hub's own copy of its rows: hf:{spec.repo}@refs/convert/parquet"
        )
    if "Config name is missing" in text or "BuilderConfig" in text:
        listed = text[text.find("[") + 1 : text.find("]")].replace("'", "")
        configs = listed.split(", ")
        if spec.config is None:
            return DataError(
                f"{spec.source}: it has several configs; choose one, as in hf:{spec.repo}:{configs[0]}, of {listed}"
            )
        hint = did_you_mean(spec.config, configs)
        return DataError(f"{spec.source}: there is no config {spec.config!r}; {hint}it has {listed}")
    if type(error).__name__ in ("DataFilesNotFoundError", "EmptyDatasetError"):
        reason = f"no file matches {spec.files}" if spec.files else "it has no data files that can be read"
        return DataError(f"{spec.source}: {reason}; name files of it, as hf:{spec.repo}/FOLDER/*.parquet")
    return None


class RemoteFile(io.RawIOBase):
    """A file of the hub, read by range requests: only the pieces that are read are downloaded, each with retries.

    `HfFileSystem.open` offers the same, but waits silently and by its own rules where the hub asks for a pause, and
    accepts an answer of the wrong range or length.
    """

    def __init__(self, spec: HubSpec, url: str) -> None:
        self._spec, self._url, self._at = spec, url, 0
        self._piece, self.size = with_retries(spec, lambda: self._get(f"bytes=-{FOOTER_BYTES}"))
        self._start = self.size - len(self._piece)  # of the piece, in the file

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    @override
    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, fewer only at the end of the file. Raises DataError."""
        rest = max(self.size - self._at, 0)
        size = rest if size is None or size < 0 else min(size, rest)
        if size and not self._start <= self._at <= self._at + size <= self._start + len(self._piece):
            stop = self._at + min(max(size, MIN_READ_BYTES), rest)
            get = partial(self._get, f"bytes={self._at}-{stop - 1}", stop - self._at)
            self._piece, _ = with_retries(self._spec, get)
            self._start = self._at
        begin = self._at - self._start
        self._at += size
        return self._piece[begin : begin + size]

    def _get(self, byte_range: str, expected: int | None = None) -> tuple[bytes, int]:
        """A range of the file, and the size of the complete file in bytes."""
        from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        headers = {**build_hf_headers(), "Range": byte_range, "Accept-Encoding": "identity"}
        answer = get_session().get(self._url, headers=headers, timeout=HF_HUB_DOWNLOAD_TIMEOUT)
        hf_raise_for_status(answer)
        file_size = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if answer.status_code != 206 or not file_size.isdigit():
            raise OSError(f"{self._url} cannot be read in parts")
        if expected is not None and len(answer.content) != expected:
            raise ConnectionError(f"{len(answer.content)} of {expected} bytes arrived")
        return answer.content, int(file_size)


def _parquet_rows(data: DataSet, column: str, skip: int) -> Iterator[Row]:
    from huggingface_hub import hf_hub_url
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    open_file = partial(ParquetFile, buffer_size=MAX_READ_BYTES, pre_buffer=False)  # memory holds one piece of a column
    for address in data.files:
        path = address.removeprefix(data.prefix)
        name = f"{data.spec.repo}/{path}"
        url = hf_hub_url(data.spec.repo, path, repo_type="dataset", revision=data.commit)
        try:
            with open_file(RemoteFile(data.spec, url)) as file:
                if skip < file.metadata.num_rows:
                    texts = [field.name for field in file.schema_arrow if is_text(field.type)]
                    for number, value in read_column(file, _choose_column(data.spec, column, texts), skip):
                        yield name, number, (value or b"").decode()
                skip = max(skip - file.metadata.num_rows, 0)
        except (ArrowException, UnicodeDecodeError, OSError) as error:
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(
                f"{data.spec.source}: {name} is damaged ({line}); choose another revision of the data set"
            ) from None


def _streamed_rows(data: DataSet, column: str, skip: int) -> Iterator[Row]:
    """Rows as the library streams them, resumed where the connection broke."""
    if hasattr(data.builder.config, "sample_by"):
        data.builder.config.sample_by = "document"  # a text file is one document, as it is on disk
    at = skip
    rows: Iterator[dict[str, Any]] | None = None
    stream = data.builder.as_streaming_dataset

    def next_batch() -> list[dict[str, Any]]:
        nonlocal rows
        try:
            rows = rows or iter(stream(split=data.split).skip(at))
            return list(islice(rows, BATCH_ROWS))
        except BaseException:
            rows = None  # a broken generator would say that this was the end
            raise

    if features := data.builder.info.features:  # as declared by the data set
        kinds = {name: getattr(feature, "dtype", None) for name, feature in features.items()}
        texts = [name for name, kind in kinds.items() if kind in ("string", "large_string")]
    else:
        # From the beginning, to be the same wherever one begins.
        first = with_retries(data.spec, lambda: list(islice(stream(split=data.split), BATCH_ROWS)))
        if not first:
            return
        texts = list(dict.fromkeys(key for row in first for key, value in row.items() if isinstance(value, str)))
    chosen = _choose_column(data.spec, column, texts)
    while batch := with_retries(data.spec, next_batch):
        for row in batch:
            text = row.get(chosen)
            if text is not None and not isinstance(text, str):
                raise DataError(
                    f"{data.spec.source}: row {at}: {chosen!r} is not text but {type(text).__name__}; "
                    "choose another column with --column"
                )
            yield data.spec.repo, at, text or ""
            at += 1


def _choose_column(spec: HubSpec, column: str, texts: Sequence[str]) -> str:
    """The column to read: the one asked for, or else the only one that holds text."""
    wanted = spec.column or column
    if texts.count(wanted) > 1:
        raise DataError(f"{spec.source}: several columns are called {wanted!r}; choose another with --column")
    if wanted in texts:
        return wanted
    if spec.column is None and column == DEFAULT_COLUMN and len(texts) == 1:
        return texts[0]
    hint = did_you_mean(wanted, texts)
    listed = ", ".join(map(repr, texts)) or "none"
    raise DataError(
        f"{spec.source}: no column {wanted!r} of text; {hint}columns of text are {listed}: choose one with --column"
    )


def join_rows(per_document: int | str, rows: Callable[[int], Iterator[Row]], skip: int) -> Iterator[Document]:
    """Documents from the `skip`-th on: of `per_document` rows each, one to a line, or of complete ARTICLES.

    `rows(n)` are the rows from the n-th on. One row that holds no text is a document without chunks.
    """
    if per_document == ARTICLES:
        # The beginning of the n-th article is only known after reading those before it.
        groups: Iterable[list[Row]] = islice(_articles(rows(0)), skip, None)
        separator = ""
    else:
        left = rows(skip * int(per_document))
        groups, separator = iter(lambda: list(islice(left, int(per_document))), []), "\n"
    for group in groups:
        name, number, _ = group[0]
        yield Document(name, number, partial(chunk_text, separator.join(text for _, _, text in group)))


def _articles(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """WikiText's lines, one document per article. It begins with a line ` = Title = ` between empty ones.

    The hub's copy has an empty row where the original has an empty line; here it is a line end again.
    """
    held, before = list[Row](), ""
    for (name, number, text), (_, _, after) in pairwise(chain(rows, [("", 0, "")])):
        begins = _TITLE.fullmatch(text) and not before.strip() and not after.strip()
        if begins and any(line.strip() for _, _, line in held):
            yield held
            held = []
        held.append((name, number, text or "\n"))
        before = text
    if held:
        yield held


def with_retries(repo: HubRepo, call: Callable[[], T], waits: tuple[float, ...] | None = None) -> T:
    """Return `call()`, tried again after each of `waits` (WAITS) while the failure may be transient.

    Waits at least as long as the hub asks for. Raises DataError with one sentence.
    """
    for pause in (*(WAITS if waits is None else waits), None):
        try:
            with _quiet_libraries():
                return call()
        except DataError:
            raise
        except Exception as error:  # the exceptions of the three libraries are not documented
            failure = explain_hub_error(error, repo)
        if pause is None or not failure.is_transient or failure.retry_after > MAX_WAIT_SECONDS:
            raise DataError(f"{repo.source}: {failure}")
        wait = max(pause, failure.retry_after)
        if wait > SILENT_WAIT_SECONDS:
            log.warning("%s: %s; trying again in %.0f s", repo.source, failure.reason, wait)
        time.sleep(wait)
    raise AssertionError("the last pause is None")


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Switch off the libraries' progress bars, log lines, retries and telemetry; restores their settings."""
    import datasets
    import huggingface_hub
    import huggingface_hub.utils as hub

    waits = ("READ", "READ_SERVER_UNAVAILABLE", "READ_RATE_LIMIT", "OPEN")
    settings = [
        (huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True),
        (datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False),
        *((datasets.config, f"STREAMING_{what}_MAX_RETRIES", 1) for what in ("READ", "OPEN")),
        *((datasets.config, f"STREAMING_{what}_RETRY_INTERVAL", 0) for what in waits),
    ]
    with ExitStack() as after, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for where, name, value in settings:
            after.callback(setattr, where, name, getattr(where, name))
            setattr(where, name, value)
        for logger in map(logging.getLogger, ("datasets", "huggingface_hub")):
            after.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        if datasets.utils.is_progress_bar_enabled():
            after.callback(datasets.utils.enable_progress_bar)
            datasets.utils.disable_progress_bar()
        if not hub.are_progress_bars_disabled():
            after.callback(hub.enable_progress_bars)
            hub.disable_progress_bars()
        yield
