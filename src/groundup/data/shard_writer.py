"""Writer of a split's shards: in constant memory, and resumable after the process was killed."""

import hashlib
import os
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from groundup.data.shards import DOCUMENT, Dtype, Shard, Split, SplitName, documents_file
from groundup.errors import DataError

SHARD_TOKENS = 100_000_000  # 200 or 400 MB per file: few files, yet each is quick to copy and to check
HASH_BYTES = 1 << 20  # hashed at a time


class ShardWriter:
    """Writes one split of a folder, document by document, in constant memory. Leaving its `with` block closes it.

    `done`, as returned by `flush` in a previous process, resumes that writer: the files are cut back to that state.
    They must not hold less: see `check_written`.
    """

    def __init__(
        self, folder: Path, name: SplitName, dtype: Dtype, shard_tokens: int = SHARD_TOKENS, done: Split | None = None
    ) -> None:
        self._folder, self._name, self._shard_tokens = folder, name, shard_tokens
        self._dtype = np.dtype(dtype).newbyteorder("<")
        done = done or Split(tokens=0, bytes=0, documents=0, shards=())
        self.tokens, self._bytes, self._documents = done.tokens, done.bytes, done.documents
        self._shards = list(done.shards)
        begun = (self.tokens - sum(shard.tokens for shard in self._shards)) * self._dtype.itemsize
        kept = [self._path(i) for i in range(len(self._shards) + bool(begun))]
        for path in set(folder.glob(f"{name}-*.bin")).difference(kept):
            path.unlink()
        self._shard = _HashingFile(kept[-1], begun) if begun else None  # the one being written
        self._index = _HashingFile(documents_file(folder, name), self._documents * DOCUMENT.itemsize)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shard is not None:
            self._shard.close()
        self._index.close()

    def begin_document(self, source: int, offset: int) -> None:
        """Begin a new document, `offset` bytes into the source of index `source`."""
        self._index.write(np.array([(self.tokens, source, offset)], dtype=DOCUMENT).tobytes())
        self._documents += 1

    def write(self, ids: npt.NDArray[np.integer], n_bytes: int) -> None:
        """Append ids that encode `n_bytes` of text."""
        self.tokens += len(ids)
        self._bytes += n_bytes
        while len(ids):
            if self._shard is None:
                self._shard = _HashingFile(self._path(len(self._shards)))
            free = self._shard_tokens - self._shard.size // self._dtype.itemsize
            self._shard.write(ids[:free].astype(self._dtype).tobytes())
            if len(ids) >= free:
                self._finish_shard()
            ids = ids[free:]

    def finish(self) -> Split:
        """End the last shard; returns the split's entry in the manifest."""
        self._finish_shard()
        return self.flush().model_copy(update={"documents_sha256": self._index.digest})

    def flush(self) -> Split:
        """Wait until everything written is on disk; returns its counts and complete shards."""
        if self._shard is not None:
            self._shard.flush()
        self._index.flush()
        return Split(tokens=self.tokens, bytes=self._bytes, documents=self._documents, shards=tuple(self._shards))

    def _path(self, shard: int) -> Path:
        return self._folder / f"{self._name}-{shard:05d}.bin"

    def _finish_shard(self) -> None:
        if self._shard is not None:
            tokens, digest = self._shard.size // self._dtype.itemsize, self._shard.close()
            self._shards.append(Shard(file=self._shard.path.name, tokens=tokens, sha256=digest))
            self._shard = None


class _HashingFile:
    """A file that is hashed while it is written. The first `keep` bytes of an existing one stay."""

    def __init__(self, path: Path, keep: int = 0) -> None:
        self.path, self.size, self._hash = path, keep, hashlib.sha256()
        self._file = path.open("r+b" if keep else "wb")
        for start in range(0, keep, HASH_BYTES):
            self._hash.update(self._file.read(min(HASH_BYTES, keep - start)))
        self._file.truncate()

    @property
    def digest(self) -> str:
        """The checksum of the bytes written so far."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def flush(self) -> None:
        """Wait until the file is on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> str:
        """Close the file once it is on disk; returns its checksum."""
        with self._file:
            self.flush()
        return self.digest


def check_written(folder: Path, name: SplitName, dtype: Dtype, done: Split) -> None:
    """Raise DataError if the files of a split hold less than `done` says, or are links, which would be written to."""
    width = np.dtype(dtype).itemsize
    begun = done.tokens - sum(shard.tokens for shard in done.shards)
    least = {folder / shard.file: shard.tokens * width for shard in done.shards}
    least[folder / f"{name}-{len(done.shards):05d}.bin"] = begun * width
    least[documents_file(folder, name)] = done.documents * DOCUMENT.itemsize
    for path, n_bytes in least.items():
        size = path.stat().st_size if path.exists() else 0
        if path.is_symlink() or size < n_bytes:
            problem = "is a link" if path.is_symlink() else f"{size} bytes, but {n_bytes} were written"
            raise DataError(f"{path}: {problem}; discard the unfinished work with --overwrite")
