"""The documents of one file, of any format that is read: text, rows, documents, and archives of all these."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkstemp
from typing import Any, BinaryIO

from groundup.errors import DataError
from groundup.sources.archives import MAX_DEPTH, UNREADABLE, Budget, Member, tar_members, zip_members
from groundup.sources.compression import ReadProgress, open_decompressed, open_unpacked, writing_copy
from groundup.sources.documents import FORMATS, read_documents
from groundup.sources.documents.options import MissingColumnError, NoTextError, ReadOptions
from groundup.sources.files import left_out_by_content, left_out_by_name, summary
from groundup.sources.formats import (
    SUFFIXES,
    TABLES,
    Format,
    format_suffix,
    identify,
    is_archive,
    is_code,
    packed_suffix,
)
from groundup.sources.gutenberg import without_boilerplate
from groundup.sources.parquet import read_parquet
from groundup.sources.rows import read_jsonl
from groundup.sources.separators import SPELLED_OUT_BYTES, Span, spans, spelled_out
from groundup.sources.text import (
    CHUNK_BYTES,
    Document,
    chunk_text,
    decode_blocks,
    decode_file,
    open_text,
    rechunk,
)

NO_TEXT = "holds no text that can be read (a scan, a password, DRM or an old format) and is left out"


@dataclass(frozen=True)
class SourceFile:
    """A file, or a copy of a member of an archive, and what it is called."""

    path: Path
    name: str  # in the corpus
    label: str  # in messages: the path that the user knows
    kind: Format
    column: str
    is_named: bool = True  # by the user, and not found in a folder or archive


@dataclass(frozen=True)
class FileReader:
    """Reads the documents of files."""

    options: ReadOptions
    progress: ReadProgress
    folder: Path  # for copies of members, one at a time and of each depth
    separator: str | None = None  # between documents of plain text
    as_text: bool = False  # whether every file is plain text
    chunk_bytes: int = CHUNK_BYTES

    def identify(self, path: Path) -> Format:
        """The format that a file is read as. Raises DataError for what is surely not readable."""
        return identify(path, as_text=self.as_text, encoding=self.options.encoding)

    def spelled_out(self, path: Path) -> str | None:
        """The separator that the beginning of a text spells out; None if there is none."""
        with open_text(path, None, self.options.encoding, "replace") as file:
            return spelled_out(file.read(SPELLED_OUT_BYTES).decode("utf-8", "replace"))

    def documents(self, file: SourceFile, skip: int, offset: int) -> Iterator[Document]:
        """The documents of a file without the first `skip`, all of which begin before `offset`."""
        return self._documents(file, skip, offset, 0, None)

    def _documents(
        self, file: SourceFile, skip: int, offset: int, depth: int, budget: Budget | None
    ) -> Iterator[Document]:
        with naming(file.path, file.label):
            if file.kind == "empty" or not file.path.stat().st_size:  # of a table, only the name has been looked at
                return
            if file.kind in FORMATS:
                yield from self._read(file, skip)
            elif is_archive(file.kind):
                yield from self._members(file, skip, depth, budget or Budget(file.path.stat().st_size))
            elif file.kind == "text":
                yield from self._texts(file, offset)
            else:
                yield from self._rows_in(file, offset)

    def _rows_in(self, file: SourceFile, offset: int) -> Iterator[Document]:
        """The rows of a table. Of a folder, JSON that happens to be one row, such as settings, may hold no text."""
        try:
            for at, text in self._rows(file, offset):
                yield self._in_memory(file.name, at, text)
        except MissingColumnError:
            if file.is_named or format_suffix(file.path) in TABLES:
                raise
            self.progress.found.pop(file.path, None)  # rows that were counted one by one
            self.progress.begin(file.path)
            self._leave_out(file)

    def _leave_out(self, file: SourceFile) -> None:
        self.progress.count(f"holds no text in a column or field {file.column!r} and is left out", 1)

    def _rows(self, file: SourceFile, offset: int) -> Iterator[tuple[int, str]]:
        errors, progress = self.options.errors, self.progress
        if file.kind == "parquet":
            return read_parquet(file.path, file.column, errors, offset, progress)
        return read_jsonl(file.path, file.column, errors, offset, progress, self.options.encoding)

    def _read(self, file: SourceFile, skip: int) -> Iterator[Document]:
        """The documents that the reader of a format finds."""
        found, options = Counter[str](), replace(self.options, column=file.column)
        has_rows = FORMATS[file.kind].has_columns
        with open_unpacked(file.path, self.progress) as opened:
            try:
                for n, text in enumerate(read_documents(file.kind, opened, file.label, options, found)):
                    if n >= skip:
                        text = text if has_rows else "".join(without_boilerplate([text], self.progress.count))
                        yield self._in_memory(file.name, n, text)
            except MissingColumnError:
                if file.is_named:
                    raise
                found.clear()
                self._leave_out(file)
            except NoTextError:
                if file.is_named:
                    raise
                self.progress.count(NO_TEXT, 1)
            finally:
                self.progress.take(found)

    def _texts(self, file: SourceFile, offset: int) -> Iterator[Document]:
        """The document of a text file, or those between separators."""
        if self.separator and not is_code(file.path):
            yield from self._separated(file, offset)
        elif not offset:
            yield Document(file.name, 0, lambda: self._text(file))

    def _text(self, file: SourceFile) -> Iterator[str]:
        with naming(file.path, file.label):
            errors, encoding = self.options.errors, self.options.encoding
            pieces = decode_file(file.path, errors, self.chunk_bytes, self.progress, encoding)
            if not self.as_text and not is_code(file.path):
                pieces = without_boilerplate(pieces, self.progress.count)
            yield from rechunk(pieces)

    def _separated(self, file: SourceFile, offset: int) -> Iterator[Document]:
        separator, errors, n = self.separator or "", self.options.errors, 0
        with open_text(file.path, self.progress, self.options.encoding, errors) as opened:
            for span in spans(opened, separator.encode()):
                n += 1
                if span.start < offset:
                    continue
                if span.data is None:
                    yield Document(file.name, span.start, self._long_document(file, span))
                else:
                    pieces = decode_blocks([span.data], file.path, errors, self.progress.count, span.start, span.line)
                    yield self._in_memory(file.name, span.start, "".join(pieces))
            if n < 2:
                self.progress.count(f"is one document, as {separator!r} divides nothing", 1)

    def _long_document(self, file: SourceFile, span: Span) -> Callable[[], Iterator[str]]:
        """The chunks of a document that is not held in memory."""
        counted = iter([self.progress])  # of the first reading alone

        def chunks() -> Iterator[str]:
            progress, errors = next(counted, ReadProgress()), self.options.errors
            with naming(file.path, file.label), open_text(file.path, None, self.options.encoding, errors) as opened:
                blocks = span.blocks(opened, self.chunk_bytes)
                yield from rechunk(decode_blocks(blocks, file.path, errors, progress.count, span.start, span.line))

        return chunks

    def _members(self, file: SourceFile, skip: int, depth: int, budget: Budget) -> Iterator[Document]:
        """The documents of the members of an archive that would be read from a folder, too."""
        n, left_out, found = 0, Counter[tuple[str, str]](), Counter[str]()
        opened: Any = open_unpacked if file.kind == "zip" else open_decompressed
        with opened(file.path, self.progress) as archive:
            members = (
                zip_members(archive, file.label, found)
                if file.kind == "zip"
                else tar_members(archive, file.label, budget, found)
            )
            for member in members:
                name = Path(member.name)
                suffix = format_suffix(name)
                reason = left_out_by_name(name, suffix, as_text=self.as_text) or self._too_deep(suffix, depth)
                if reason:
                    left_out[packed_suffix(name), reason] += 1
                    continue
                try:
                    for document in self._member(file, member, depth, budget, left_out):
                        if n >= skip:
                            yield document
                        n += 1
                except NotImplementedError:
                    found[UNREADABLE] += 1
        for reason, line in summary(left_out).items():
            found[f"members left out: {line}"] += sum(n for (_, why), n in left_out.items() if why == reason)
        self.progress.take(found)

    def _too_deep(self, suffix: str, depth: int) -> str | None:
        if depth + 1 < MAX_DEPTH or not is_archive(SUFFIXES.get(suffix, "")):
            return None
        return f"in more than {MAX_DEPTH} archives"

    def _member(
        self, file: SourceFile, member: Member, depth: int, budget: Budget, left_out: Counter[tuple[str, str]]
    ) -> Iterator[Document]:
        label, suffix = f"{file.label}/{member.name}", format_suffix(Path(member.name))
        with self._copy(member, label, budget) as path, naming(path, label):
            if reason := left_out_by_content(path, suffix, as_text=self.as_text):
                left_out[packed_suffix(Path(member.name)), reason] += 1
                return
            progress = ReadProgress()
            inner = replace(self, progress=progress)
            kind = inner.identify(path)
            copy = SourceFile(path, f"{file.name}/{member.name}", label, kind, file.column, is_named=False)
            yield from inner._documents(copy, 0, 0, depth + 1, budget)
            for found in progress.found.values():
                self.progress.take(found)

    @contextmanager
    def _copy(self, member: Member, label: str, budget: Budget) -> Iterator[Path]:
        """A temporary copy of a member, whose name shows nothing but the format."""
        handle, name = mkstemp(packed_suffix(Path(member.name)), "member-", self.folder)
        path = Path(name)
        try:
            with os.fdopen(handle, "wb") as copy:
                _copy_member(member, copy, label, budget)
            yield path
        finally:
            with suppress(OSError):
                path.unlink()

    def _in_memory(self, source: str, offset: int, text: str) -> Document:
        return Document(source, offset, lambda: chunk_text(text, self.chunk_bytes))


def _copy_member(member: Member, copy: BinaryIO, label: str, budget: Budget) -> None:
    try:
        with member.open() as content, writing_copy(label):
            while block := content.read(1 << 16):
                budget.spend(len(block), label)
                copy.write(block)
            copy.flush()
    except (DataError, NotImplementedError):
        raise
    except OSError as error:
        raise DataError(f"{label}: cannot be read ({error.strerror or error}); get a complete copy of it") from None
    except Exception as error:  # zlib, lzma, bz2, zipfile and tarfile raise errors of their own
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{label}: damaged in the archive ({reason}); get a complete copy of it") from None


@contextmanager
def naming(path: Path, label: str) -> Iterator[None]:
    """Put `label` for `path` in errors: the user has never seen the path of a copy."""
    try:
        yield
    except DataError as error:
        if str(path) == label or str(path) not in str(error):
            raise
        raise type(error)(str(error).replace(str(path), label)) from None
