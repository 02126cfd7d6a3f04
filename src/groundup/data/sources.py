"""Where text comes from: files, folders, standard input and the built-in corpus, as a stream of documents.

    .txt .md    the file is one document
    .jsonl      each line is one: its field `--column`
    ….gz        the same, packed

Nothing here knows what a token is, and no corpus has to fit into memory.
"""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from groundup.data.document import Document
from groundup.data.pythondocs import python_docs
from groundup.data.reading import CHUNK_BYTES, Errors, holds_text, read_jsonl, read_text
from groundup.errors import DataError

PYTHON_DOCS = "python-docs"
STANDARD_INPUT = "-"

RUN_LOG = "log.jsonl"  # a training run's own, which may lie below the folder that one works in

TEXT_SUFFIXES = (".txt", ".md", ".jsonl")  # what is read from folders, each also with .gz behind it

# Files that are surely not text, and what makes text of them.
NOT_TEXT = {
    ".parquet": "write its text column as .jsonl, for example with pandas' to_json(lines=True, orient='records')",
    ".arrow": "write its text column as .jsonl",
    ".zst": "unpack it with: zstd -d",
    ".xz": "unpack it with: xz -d",
    ".bz2": "unpack it with: bunzip2",
    ".zip": "unpack it with: unzip",
    ".tar": "unpack it with: tar -xf",
    ".tgz": "unpack it with: tar -xf",
    ".pdf": "convert it with: pdftotext",
    ".epub": "convert it with: pandoc -t plain",
    ".docx": "convert it with: pandoc -t plain",
    ".bin": "give the text that it was made from",
}


@dataclass(frozen=True)
class _Source:
    """What the user named, and how to go through its documents."""

    name: str
    documents: Callable[[], Iterator[Document]]


class Corpus:
    """All documents of all sources, in a fixed order, as often as one likes."""

    def __init__(self, sources: Sequence[_Source]) -> None:
        self._sources = sources

    def __iter__(self) -> Iterator[Document]:
        for source in self._sources:
            empty = True
            for document in source.documents():
                empty = False
                yield document
            if empty:
                raise DataError(f"{source.name}: there is no text in it; give a source that holds some")


@contextmanager
def open_sources(
    sources: Sequence[str | Path],
    *,
    column: str = "text",
    errors: Errors = "strict",
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[Corpus]:
    """The documents of `sources`: paths of files and folders, `-` for standard input, `python-docs`.

    Standard input is kept in a temporary file until the end of the `with` block. Raises DataError for what cannot be
    read as text: at once where the path tells, otherwise when the iteration comes to it.
    """
    if not sources:
        raise DataError("there is nothing to read: name a file, a folder, - for standard input, or python-docs")

    def files(paths: Iterable[tuple[str, Path]]) -> Callable[[], Iterator[Document]]:
        # On disk a name may be any bytes; in a manifest it must be text.
        listed = [(name.encode(errors="replace").decode(), path) for name, path in paths]
        return lambda: (doc for name, path in listed for doc in _documents(name, path, column, errors, chunk_bytes))

    def source(given: str | Path, spool: Path) -> _Source:
        if given == PYTHON_DOCS:
            return _Source(PYTHON_DOCS, _python_docs)
        if given == STANDARD_INPUT:
            return _Source("standard input", files([("standard input", _spooled(sys.stdin.buffer, spool))]))
        path = Path(given)
        try:
            if path.is_fifo():  # as the shell's <(…) makes them
                with path.open("rb") as pipe:
                    return _Source(str(path), files([(path.name, _spooled(pipe, spool))]))
            return _Source(str(path), files(_folder(path) if path.is_dir() else [(path.name, _file(path))]))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None

    with TemporaryDirectory(prefix="groundup-") as temporary:
        yield Corpus([source(given, Path(temporary) / f"input-{i}.txt") for i, given in enumerate(sources)])


def _documents(name: str, path: Path, column: str, errors: Errors, chunk_bytes: int) -> Iterator[Document]:
    if _suffix(path) == ".jsonl":
        for offset, text in read_jsonl(path, column, errors):
            yield _in_memory(name, offset, text)
    elif holds_text(path):
        yield Document(name, 0, lambda: read_text(path, errors, chunk_bytes))


def _python_docs() -> Iterator[Document]:
    offset = 0
    for text in python_docs():
        yield _in_memory(PYTHON_DOCS, offset, text)
        offset += len(text.encode())


def _in_memory(source: str, offset: int, text: str) -> Document:
    return Document(source, offset, lambda: iter([text]))


def _spooled(stream: BinaryIO, spool: Path) -> Path:
    """Copy to disk what can be read only once."""
    with spool.open("wb") as file:
        shutil.copyfileobj(stream, file)
    return spool


def _file(path: Path) -> Path:
    """A file that the user named. Its suffix may be any but those that are surely not text."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; {_near(path)}")
    if remedy := NOT_TEXT.get(_suffix(path)):
        raise DataError(f"{path}: {_suffix(path)} files are not read as text; {remedy}")
    return path


def _folder(folder: Path) -> list[tuple[str, Path]]:
    """The text files anywhere below a folder, in order of their names, which begin with the folder's own."""
    inside = [(path.relative_to(folder), path) for path in folder.rglob("*")]
    files = sorted(
        (relative.as_posix(), path)
        for relative, path in inside
        if _suffix(path) in TEXT_SUFFIXES
        and not any(part.startswith(".") for part in relative.parts)
        and path.name != RUN_LOG
        and path.is_file()
    )
    if not files:
        known = ", ".join(TEXT_SUFFIXES)
        raise DataError(f"{folder}: no text files in this folder; it may hold {known}, each also with .gz behind it")
    return [(f"{folder.resolve().name}/{relative}", path) for relative, path in files]


def _suffix(path: Path) -> str:
    """The suffix that tells the format: of `a.jsonl.gz`, it is `.jsonl`."""
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix == ".gz" else name.suffix


def _near(path: Path) -> str:
    """The remedy for a missing file: the nearest name that exists."""
    neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, [*neighbours, PYTHON_DOCS], n=1)
    return f"did you mean {near[0]}?" if near else "check the path"
