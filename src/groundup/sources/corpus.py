"""Where text comes from: files, folders, standard input and corpora known by name, as a stream of documents.

    .txt .md .py …      the file is one document
    .jsonl .parquet     each line or row is one: its field `--column`, or the one named behind `#`
    ….gz ….zst          the same, packed

Nothing here knows what a token is, and no corpus has to fit into memory.
"""

import errno
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, NamedTuple

from groundup.errors import DataError
from groundup.sources import hub
from groundup.sources.cleaning import cleaned
from groundup.sources.compression import ReadProgress
from groundup.sources.document import Document
from groundup.sources.download import SHAKESPEARE, shakespeare
from groundup.sources.files import TABLES, File, below, distinct_names, is_pattern, matching, named, once, suffix
from groundup.sources.parquet import read_parquet
from groundup.sources.python_docs import python_docs
from groundup.sources.text import CHUNK_BYTES, Errors, cut_text, holds_text, read_jsonl, read_text

__all__ = ["PYTHON_DOCS", "STANDARD_INPUT", "Corpus", "Document", "Input", "Position", "open_sources"]

PYTHON_DOCS = "python-docs"
STANDARD_INPUT = "-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a disk says that takes no more


class Position(NamedTuple):
    """Where a document stands in a corpus; everything before it has been read."""

    input: int = 0
    documents: int = 0  # before it in its input
    offset: int = 0  # its own, or less
    total: int = 0  # documents before it in the corpus


@dataclass(frozen=True)
class Input:
    """One file, or one corpus known by name."""

    source: str  # as the user named it
    name: str
    size: int | None  # bytes as it lies on disk
    version: str  # changes when the text does
    documents: Callable[[Position], Iterator[Document]]  # from a place in this input on


class Corpus:
    """All documents of all sources, in a fixed order, as often as one likes."""

    def __init__(
        self, inputs: Sequence[Input], gauge: ReadProgress, limit: int | None = None, clean: tuple[str, ...] = ()
    ) -> None:
        self.inputs = inputs
        self._gauge, self._limit, self._clean = gauge, limit, clean
        self._before = [0, *accumulate(each.size or 0 for each in inputs)]  # bytes before each input

    @property
    def size(self) -> int | None:
        """Bytes of all inputs as they lie on disk, or None where that is not known beforehand."""
        return self._before[-1] if all(each.size is not None for each in self.inputs) else None

    @property
    def is_whole(self) -> bool:
        """Whether all documents are read, and not only the first."""
        return self._limit is None

    @property
    def at(self) -> int:
        """How many of these bytes lie before what was read last."""
        return self._gauge.at

    def __iter__(self) -> Iterator[Document]:
        return (document for _, document in self.since(Position()))

    def since(self, place: Position) -> Iterator[tuple[Position, Document]]:
        """The documents from `place` on, each with its own. Raises DataError for a source without text."""
        full = {self.inputs[place.input].source} if place.total else set()  # sources that hold text
        total = place.total
        for i, each in enumerate(self.inputs[place.input :], start=place.input):
            self._gauge.before = self._before[i]
            self._gauge.follow(lambda: 0)
            start = place if i == place.input else Position(i)
            for n, document in enumerate(each.documents(start), start=start.documents):
                if total == self._limit:
                    return
                full.add(each.source)
                yield Position(i, n, document.offset, total), cleaned(document, self._clean)
                total += 1
            ends = i + 1 == len(self.inputs) or self.inputs[i + 1].source != each.source
            if ends and each.source not in full:
                raise DataError(f"{each.source}: there is no text in it; give a source that holds some")


@contextmanager
def open_sources(
    sources: Sequence[str | Path],
    *,
    column: str = "text",
    errors: Errors = "strict",
    chunk_bytes: int = CHUNK_BYTES,
    max_documents: int | None = None,
    clean: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Corpus]:
    """The documents of `sources`: paths and patterns of files, folders, `-` for standard input, corpora by name.

    Only the first `max_documents` are read, each after the steps of `clean` (see `groundup.sources.cleaning`). A file
    that is given more than once is read once; `say` is told so, and what is left out of folders. Standard input is
    kept in a temporary file until the end of the `with` block. Raises DataError for what cannot be read as text: at
    once where the path tells, otherwise when the iteration comes to it.
    """
    if not sources:
        raise DataError(
            f"there is nothing to read: name a file, a folder, - for standard input, {SHAKESPEARE} or {PYTHON_DOCS}"
        )
    reader = _Reader(column, errors, chunk_bytes, ReadProgress())
    with TemporaryDirectory(prefix="groundup-") as temporary:
        found: list[tuple[str, File, str] | Input] = []
        for i, given in enumerate(sources):
            try:
                found += reader.find(given, Path(temporary) / f"input-{i}.txt", say)
            except OSError as error:
                raise DataError(
                    f"{given}: cannot be read ({error.strerror}); check the path and its permissions"
                ) from None
        yield Corpus(reader.inputs(found, say), reader.gauge, max_documents, clean)


@dataclass(frozen=True)
class _Reader:
    """How the files of this corpus are to be read."""

    column: str
    errors: Errors
    chunk_bytes: int
    gauge: ReadProgress

    def find(
        self, given: str | Path, spool: Path, say: Callable[[str], None]
    ) -> Iterable["tuple[str, File, str] | Input"]:
        """What one source stands for: inputs, and files that are still without a name, with their column."""
        text = str(given)
        if (text in (PYTHON_DOCS, SHAKESPEARE) or hub.is_named(text)) and Path(text).exists():
            say(f"{text}: read as the corpus of that name; for the file or folder of that name, write ./{text}")
        if text == PYTHON_DOCS:
            return [Input(text, text, None, sys.version, lambda place: self._python_docs(place))]
        if text == SHAKESPEARE:
            return [self._file(text, text, shakespeare(), self.column)]
        if text == STANDARD_INPUT:
            return [self._spooled("standard input", sys.stdin.buffer, spool)]
        if hub.is_named(text):
            version = hub.hub_identity(text)
            return [Input(text, text, None, version, lambda at: hub.hub_documents(text, self.column, at.documents))]
        path, column = Path(given), self.column
        bare, hash_, behind = text.rpartition("#")
        if hash_ and behind and not path.exists() and suffix(Path(bare)) in TABLES:
            text, path, column = bare, Path(bare), behind
        if path.is_fifo():  # as the shell's <(…) makes them
            with path.open("rb") as pipe:
                return [self._spooled(path.name, pipe, spool)]
        if path.is_dir():
            files, line = below(path)
            say(line)
        elif is_pattern(text) and not path.exists():
            files = matching(text)
        else:
            files = [named(path, (PYTHON_DOCS, SHAKESPEARE))]
        return [(text, file, column) for file in files]

    def inputs(self, found: Sequence["tuple[str, File, str] | Input"], say: Callable[[str], None]) -> list[Input]:
        """The inputs in order, each column of a file once and with a name of its own."""
        columns = once([(item[1], item[2]) for item in found if not isinstance(item, Input)], say)
        files = list(dict.fromkeys(file for file, _ in columns))
        names = dict(zip(files, distinct_names(files), strict=True))
        inputs: list[Input] = []
        left = set(columns)
        for item in found:
            if isinstance(item, Input):
                inputs.append(item)
                continue
            source, file, column = item
            if (file, column) in left:
                left.remove((file, column))
                name = names[file] if column == self.column else f"{names[file]}#{column}"
                inputs.append(self._file(source, name, file.path, column))
        return inputs

    def _file(self, source: str, name: str, path: Path, column: str) -> Input:
        found = path.stat()
        version = str(found.st_mtime_ns)
        return Input(source, name, found.st_size, version, lambda place: self._documents(name, path, column, place))

    def _spooled(self, name: str, stream: BinaryIO, spool: Path) -> Input:
        """Copy to disk what can be read only once."""
        with spool.open("w+b") as file:
            try:
                shutil.copyfileobj(stream, file)
                file.seek(0)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                raise DataError(
                    f"{name}: a copy of it does not fit into {spool.parent.parent} ({error.strerror}); name a folder "
                    "with more room in the environment variable TMPDIR"
                ) from None
            version = hashlib.file_digest(file, "sha256").hexdigest()
        size = spool.stat().st_size
        return Input(name, name, size, version, lambda place: self._documents(name, spool, self.column, place))

    def _documents(self, name: str, path: Path, column: str, place: Position) -> Iterator[Document]:
        kind = suffix(path)
        if kind in TABLES:
            rows = (read_jsonl if kind == ".jsonl" else read_parquet)(
                path, column, self.errors, place.offset, self.gauge
            )
            for offset, text in rows:
                yield self._in_memory(name, offset, text)
        elif not place.offset and holds_text(path):
            yield Document(name, 0, lambda: read_text(path, self.errors, self.chunk_bytes, self.gauge))

    def _python_docs(self, place: Position) -> Iterator[Document]:
        offset = 0
        for text in python_docs():
            if offset >= place.offset:
                yield self._in_memory(PYTHON_DOCS, offset, text)
            offset += len(text.encode())

    def _in_memory(self, source: str, offset: int, text: str) -> Document:
        return Document(source, offset, lambda: cut_text(text, self.chunk_bytes))
