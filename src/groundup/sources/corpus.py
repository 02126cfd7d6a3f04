"""Corpora: files, folders, standard input and corpora known by name, as a stream of documents.

    .txt .md .py …         the file is one document
    .jsonl .parquet .csv   each row is one: its field `--column`, or the one named after `#`
    .html .epub .docx …    the text of the page, book, mailbox or chat, as `groundup.sources.documents` reads it
    .zip .tar ….gz ….zst   the same, packed

Nothing here depends on a tokenizer, and no corpus has to fit into memory.
"""

import hashlib
import os
import re
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from glob import has_magic
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import current_thread, main_thread
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

from groundup.errors import DataError, UsageError
from groundup.sources import hub
from groundup.sources.cleaning import clean_document
from groundup.sources.compression import ReadProgress, copy_bounded
from groundup.sources.documents import CHANNELS, FORMATS, slack, texts_of
from groundup.sources.documents.options import ReadOptions
from groundup.sources.encodings import Errors, parse_encoding
from groundup.sources.file_reader import FileReader, SourceFile, naming
from groundup.sources.files import File, folder_files, glob_files, listed, single_file
from groundup.sources.formats import MARKUP, TABLES, Format, format_suffix, has_columns, is_archive, is_code
from groundup.sources.python_docs import python_docs
from groundup.sources.shakespeare import SHAKESPEARE, SHAKESPEARE_SHA256, shakespeare
from groundup.sources.text import CHUNK_BYTES, Document, chunk_text
from groundup.utils.files import distinct_names

__all__ = ["PYTHON_DOCS", "STANDARD_INPUT", "Corpus", "Document", "Input", "Position", "open_sources"]

PYTHON_DOCS = "python-docs"
STANDARD_INPUT = "-"
ReadAs: TypeAlias = Literal["text"]
DEFAULT_COLUMN = hub.DEFAULT_COLUMN
# Options of `open_sources` on how text is read, and their defaults.
TEXT_OPTIONS = {"column": DEFAULT_COLUMN, "errors": "strict", "encoding": None, "read_as": None, "separator": None}
MAX_SEARCHED_TEXTS = 100  # for a separator that they spell out: each is opened once more

# Ends of the version of a file whose name does not say that it holds rows, as work of earlier versions, which took it
# for text, must not be resumed or kept; and what is said about it.
AS_ROWS = {
    "jsonl": (" as rows", "JSON lines, so each line is a document"),
    "parquet": (" as parquet", "parquet, so each row is a document"),
}

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)


def standard_input() -> BinaryIO:
    """Standard input as bytes; DataError where it is closed, as for a daemon."""
    if sys.stdin is None:
        raise DataError(f"{STANDARD_INPUT}: standard input is closed; redirect it from a file, or name one")
    return sys.stdin.buffer


class Position(NamedTuple):
    """Position of a document in a corpus."""

    input: int = 0
    documents: int = 0  # before it in its input
    offset: int = 0  # its own, or less
    total: int = 0  # documents before it in the corpus


@dataclass(frozen=True)
class Input:
    """One file, or one corpus known by name."""

    source: str  # as the user named it
    name: str
    size: int | None  # bytes on disk
    version: str  # changes when the text does
    documents: Callable[[Position], Iterator[Document]]  # from a position in this input on
    kind: Format = ""  # of a file; see `groundup.sources.formats`
    has_columns: bool = False
    said: str = ""  # what to tell about how it is read
    path: Path | None = None
    read_state: Callable[[], object] | None = None  # of files of the user's: changes when they do
    state: object = None  # when they were opened


class Corpus:
    """All documents of all sources, in a fixed order; may be read several times."""

    def __init__(
        self, inputs: Sequence[Input], progress: ReadProgress, limit: int | None = None, clean: tuple[str, ...] = ()
    ) -> None:
        self.inputs = inputs
        self._progress, self._limit, self._clean = progress, limit, clean
        self._before = [0, *accumulate(each.size or 0 for each in inputs)]  # bytes before each input

    @property
    def size(self) -> int | None:
        """Bytes of all inputs on disk; None if that is not known beforehand."""
        return self._before[-1] if all(each.size is not None for each in self.inputs) else None

    @property
    def is_complete(self) -> bool:
        """Whether all documents are read, and not only the first."""
        return self._limit is None

    @property
    def bytes_read(self) -> int:
        """Bytes on disk up to the end of what was read last."""
        return self._progress.bytes_read

    def check_unchanged(self) -> None:
        """DataError if a file is no longer the one that was opened: what was read may be parts of two texts."""
        for each in self.inputs:
            try:
                is_same = each.read_state is None or each.read_state() == each.state
            except OSError:
                is_same = False
            if not is_same:
                raise DataError(
                    f"{each.path}: changed while it was read, so the result is thrown away; repeat the command when "
                    "nothing writes to it"
                )

    def findings(self, source: str | None = None) -> list[str]:
        """Messages about what was left out, replaced or is odd in the files that were read: one line for each kind.

        With a `source`, only those of its files.
        """
        per_finding: dict[str, list[str]] = {}
        for each in (each for each in self.inputs if source in (None, each.source)):
            for finding, n in self._progress.found.get(each.path or Path(), {}).items():
                per_finding.setdefault(finding, []).append(f"{n:,} in {each.name}")
        return [f"{finding}: {listed(files)}" for finding, files in per_finding.items()]

    def __iter__(self) -> Iterator[Document]:
        return (document for _, document in self.documents_from(Position()))

    def documents_from(self, position: Position) -> Iterator[tuple[Position, Document]]:
        """The documents from `position` on, each with its own. Raises DataError for a source without text."""
        with_text = {self.inputs[position.input].source} if position.total else set()  # sources
        total = position.total
        for i, each in enumerate(self.inputs[position.input :], start=position.input):
            self._progress.before, self._progress.position = self._before[i], lambda: 0
            start = position if i == position.input else Position(i)
            for n, document in enumerate(each.documents(start), start=start.documents):
                if total == self._limit:
                    return
                with_text.add(each.source)
                yield Position(i, n, document.offset, total), clean_document(document, self._clean)
                total += 1
            is_last = i + 1 == len(self.inputs) or self.inputs[i + 1].source != each.source
            if is_last and each.source not in with_text:
                why = f" ({'; '.join(found)})" if (found := self.findings(each.source)) else ""
                raise DataError(f"{each.source}: there is no text in it{why}; give a source that holds some")


@contextmanager
def open_sources(
    sources: Sequence[str | Path],
    *,
    column: str = "text",
    errors: Errors = "strict",
    encoding: str | None = None,
    read_as: ReadAs | None = None,
    separator: str | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    max_documents: int | None = None,
    clean: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Corpus]:
    """The documents of `sources`: paths and patterns of files, folders, `-` for standard input, corpora by name.

    Text is UTF-8, or of the `encoding` that is named. With `read_as="text"`, every file is a text as it is, tables
    and web pages with their markup. A `separator` divides texts into documents, without the line ends next to it.
    Only the first `max_documents` are read, each after the steps of `clean` (see `groundup.sources.cleaning`). A file
    that is given more than once is read once. `say` gets messages about that, and about what is left out of folders.
    Standard input is kept in a temporary file until the end of the `with` block, which SIGTERM ends too. Raises
    DataError for what cannot be read as text: at once if path or first bytes show it, otherwise when the iteration
    comes to it; and for a `column` if nothing has columns.
    """
    if not sources:
        raise DataError(
            f"there is nothing to read: name a file, a folder, - for standard input, {SHAKESPEARE} or {PYTHON_DOCS}"
        )
    options = ReadOptions(column, errors, parse_encoding(encoding))
    if separator == "":
        raise UsageError("separator: is empty; give what stands between documents, or leave it out")
    with _exit_on_sigterm(), TemporaryDirectory(prefix="groundup-") as temporary:
        progress = ReadProgress()
        reader = _Reader(FileReader(options, progress, Path(temporary), separator, read_as == "text", chunk_bytes))
        found: list[File | Input] = []
        for i, given in enumerate(sources):
            try:
                found += reader.find(given, Path(temporary) / f"input-{i}.txt", say)
            except OSError as error:
                raise DataError(
                    f"{given}: cannot be read ({error.strerror}); check the path and its permissions"
                ) from None
        yield Corpus(reader.inputs(found, say), progress, max_documents, clean)


@dataclass(frozen=True)
class _Reader:
    """How the files of a corpus are read."""

    files: FileReader

    def find(self, given: str | Path, spool: Path, say: Callable[[str], None]) -> Iterable[File | Input]:
        """The inputs of one source, and its files, which get their names later."""
        text = str(given)
        if (text in (PYTHON_DOCS, SHAKESPEARE) or hub.is_hub_name(text)) and Path(text).exists():
            say(f"{text}: read as the corpus of that name; for the file or folder of that name, write ./{text}")
        if text == PYTHON_DOCS:
            return [Input(text, text, None, sys.version, self._python_docs)]
        if text == SHAKESPEARE:
            return [self._file(File(shakespeare(), 1, text, self.files.options.column), text, SHAKESPEARE_SHA256)]
        if text == STANDARD_INPUT:
            return [self._spooled("standard input", standard_input(), spool)]
        if hub.is_hub_name(text):
            version = hub.hub_identity(text)
            read = partial(hub.hub_documents, text, self.files.options.column)
            return [Input(text, text, None, version, lambda at: read(at.documents), has_columns=True)]
        path, column = Path(given), self.files.options.column
        bare, hash_, after = text.rpartition("#")
        if hash_ and after and not path.exists() and (format_suffix(Path(bare)) in TABLES or Path(bare).is_file()):
            text, path, column = bare, Path(bare), after
            if path.is_file() and not has_columns(kind := self.files.identify(path)):
                what = "plain text" if kind == "text" else FORMATS[kind].noun
                raise DataError(f"{path}: is {what}, which has no column {column!r}; leave out #{column}")
        if (address := _ADDRESS.match(text)) and not path.exists():
            to_do = "give its path" if address[1] == "file" else "download it first, with: curl -LO"
            raise DataError(f"{given}: an address, and these are not fetched; {to_do}")
        if path.is_fifo():  # as the shell's <(…) makes them
            with path.open("rb") as pipe:
                return [self._spooled(path.name, pipe, spool)]
        if path.is_dir() and not self.files.as_text and (paths := slack.folder_paths(path)):
            say(f"{path}: an export of Slack, so {CHANNELS}")
            return [self._slack(text, path, paths)]
        if path.is_dir():
            files, line = folder_files(path, as_text=self.files.as_text)
            say(line)
        elif has_magic(text) and not path.exists():
            files, line = glob_files(text, as_text=self.files.as_text)
            if line:
                say(line)
        else:
            files = [single_file(path, (PYTHON_DOCS, SHAKESPEARE), as_text=self.files.as_text)]
        return [file._replace(source=text, column=column) for file in files]

    def inputs(self, found: Sequence[File | Input], say: Callable[[str], None]) -> list[Input]:
        """The inputs in order, each column of a file once and with a name of its own."""
        column = self.files.options.column
        kept: dict[object, File | Input] = {}
        again: list[Path] = []
        for i, item in enumerate(found):
            key = i if isinstance(item, Input) else (os.path.realpath(item.path), item.column)
            if key in kept and isinstance(item, File):
                again.append(item.path)
            kept.setdefault(key, item)
        if again:
            others = f" and {len(again) - 1:,} more files" if len(again) > 1 else ""
            say(f"{again[0]}{others}: given more than once; read once")
        names = distinct_names({item.absolute: item.n_parts for item in kept.values() if isinstance(item, File)})
        inputs: list[Input] = []
        for item in kept.values():
            if isinstance(item, File):
                name = names[item.absolute] + (f"#{item.column}" if item.column != column else "")
                item = self._file(item, name)
            inputs.append(item)
        told: dict[str, list[str]] = {}
        for each in inputs:
            if each.said:
                told.setdefault(each.said, []).append(each.name)
        for what, files in told.items():
            say(f"{listed(files)}: {what}")
        if column != DEFAULT_COLUMN and not any(each.has_columns for each in inputs):
            raise DataError(f"column {column!r}: none of the sources has columns; leave --column out")
        self._check_separator(inputs, say)
        return inputs

    def _check_separator(self, inputs: Sequence[Input], say: Callable[[str], None]) -> None:
        """DataError for a separator that nothing is divided by; without one, messages about what spells one out."""
        texts = [each for each in inputs if each.kind == "text" and each.path and not is_code(each.path)]
        if self.files.separator is None:
            spelling: dict[str, list[str]] = {}
            for each in texts[:MAX_SEARCHED_TEXTS]:
                if each.path and (separator := self.files.spelled_out(each.path)):
                    spelling.setdefault(separator, []).append(each.name)
            for separator, names in spelling.items():
                there = f"to divide it there add --separator {shlex.quote(separator)}"
                say(f"{listed(names)}: spells out {separator}, which is read as text; {there}")
        elif not texts and not any(is_archive(each.kind) for each in inputs):
            raise DataError(
                f"separator {self.files.separator!r}: none of the sources is plain text; leave --separator out"
            )

    def _file(self, file: File, name: str, checksum: str = "") -> Input:
        """The input of a file, or of a text known by its `checksum`: a copy of standard input, or one of ours."""
        path, label = file.path, name if checksum else str(file.path)
        state, suffix = _state(path), format_suffix(path)
        with naming(path, label):
            kind = self.files.identify(path)
        version, said = checksum or str(state[1]), ""
        if kind in FORMATS:
            version, said = f"{version} as {kind}", FORMATS[kind].said
        elif kind in AS_ROWS and suffix not in TABLES:
            version, said = version + AS_ROWS[kind][0], AS_ROWS[kind][1]
        elif kind == "text" and suffix in MARKUP and not self.files.as_text:
            said = f"read with markup; for the text alone convert it with: {MARKUP[suffix]}"
        source = SourceFile(path, name, label, kind, file.column, file.is_named)
        return Input(
            file.source,
            name,
            state[0],
            version,
            lambda at: self.files.documents(source, at.documents, at.offset),
            kind=kind,
            has_columns=has_columns(kind),
            said=said,
            path=path,
            read_state=None if checksum else partial(_state, path),
            state=state,
        )

    def _spooled(self, name: str, stream: BinaryIO, spool: Path) -> Input:
        """Copy a stream, which can be read only once, to disk."""
        with spool.open("w+b") as file:
            copy_bounded(stream, file, name)
            file.seek(0)
            version = hashlib.file_digest(file, "sha256").hexdigest()
        return self._file(File(spool, 1, name, self.files.options.column), name, version)

    def _slack(self, given: str, folder: Path, paths: list[str]) -> Input:
        """The input of an export of Slack that was unpacked to a folder."""

        def read_states() -> list[tuple[str, int, int]]:
            return [(path, *_state(folder / path)) for path in slack.folder_paths(folder)]

        def documents(at: Position) -> Iterator[Document]:
            found, progress = Counter[str](), self.files.progress
            progress.begin(folder)
            texts = slack.read_folder(folder, paths, self.files.options, found)
            try:
                for n, text in enumerate(texts_of("slack", texts, str(folder))):
                    if n >= at.documents:
                        yield self._in_memory(folder.name, n, text)
            finally:
                progress.take(found)

        states = read_states()
        version = hashlib.sha256(repr(states).encode()).hexdigest()
        size = sum(size for _, size, _ in states)
        return Input(given, folder.name, size, version, documents, path=folder, read_state=read_states, state=states)

    def _python_docs(self, position: Position) -> Iterator[Document]:
        offset = 0
        for text in python_docs():
            if offset >= position.offset:
                yield self._in_memory(PYTHON_DOCS, offset, text)
            offset += len(text.encode())

    def _in_memory(self, source: str, offset: int, text: str) -> Document:
        return Document(source, offset, lambda: chunk_text(text, self.files.chunk_bytes))


def _state(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds: some file systems give a file a new inode number at times."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise SystemExit, which removes temporary files, unless the program has a handler of its own."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if current_thread() is not main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
