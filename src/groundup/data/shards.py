"""Token ids on disk: headerless shards, their manifest, and the documents they come from.

    manifest.json         counts, checksums, the tokenizer's fingerprint, how the split was made, the sources
    train-00000.bin …     little-endian uint16 or uint32 ids, as nanoGPT writes them
    documents-train.bin   positions of the documents: `DOCUMENT` records in order of their start
    request.json          options and input files of the preparation (see `groundup.preprocess.records`)

The same for `val`. None of these depends on when, where or by whom they were made.
"""

import hashlib
import json
import shlex
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import override

from groundup.data.record_file import REMEDY, RecordFile, unreadable
from groundup.errors import DataError
from groundup.utils.files import resolved, sha256
from groundup.utils.reading import read_bytes

FORMAT: Final = 1
MANIFEST = "manifest.json"
MAX_OFFSET_BYTES = MAX_COUNT = 2**63 - 1  # no file is larger
MAX_MANIFEST_BYTES = 256 << 20  # the names of some millions of sources
DAMAGED = f"the file is damaged: see `groundup doctor`, then {REMEDY}"

# One document: its first token, its source (an index into the manifest's), its byte offset in that source.
DOCUMENT = np.dtype([("start", "<u8"), ("source", "<u4"), ("offset", "<u8")])

SplitName: TypeAlias = Literal["train", "val"]
Records: TypeAlias = npt.NDArray[Any]
Dtype: TypeAlias = Literal["uint16", "uint32"]
Sha256: TypeAlias = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count: TypeAlias = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Shard(_Record):
    """One file of token ids."""

    file: Annotated[str, Field(pattern=r"^(train|val)-\d{5,}\.bin$")]
    tokens: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    sha256: Sha256


class Split(_Record):
    """Training or validation data. `bytes` of its text in UTF-8 turn nats per token into bits per byte."""

    tokens: Count
    bytes: Count
    documents: Count
    shards: tuple[Shard, ...]
    documents_sha256: Sha256 | None = None  # of their file; folders of earlier versions lack it


class TokenizerInfo(_Record):
    """The tokenizer that made the ids."""

    name: str
    n_vocab: Annotated[int, Field(ge=1, le=1 << 32)]
    fingerprint: Sha256


class SplitRule(_Record):
    """The rule that chose the validation text."""

    rule: Literal["documents by hash", "last part of each document"]
    val_fraction: float


class Manifest(_Record):
    """Contents of the manifest.json of a folder of prepared tokens."""

    format: Literal[1] = FORMAT
    dtype: Dtype
    tokenizer: TokenizerInfo
    splits: Annotated[dict[SplitName, Split], Field(min_length=2)]  # both, always; `val` may hold nothing
    split: SplitRule
    sources: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read `folder`'s manifest. Raises DataError if it is missing, damaged, foreign, or of a newer groundup."""
        path = folder / MANIFEST
        try:
            manifest = cls.model_validate_json(read_bytes(path, limit=MAX_MANIFEST_BYTES))
            for name, split in manifest.splits.items():
                held = sum(shard.tokens for shard in split.shards)
                # Tokens per byte turn nats per token into bits per byte.
                if split.tokens != held or (held > 1 and not split.bytes):
                    found = f"{split.tokens} tokens, {split.bytes} bytes, but its shards hold {held} tokens"
                    raise ValueError(f"splits.{name}: {found}")
            return manifest
        except (FileNotFoundError, NotADirectoryError):
            remedy = "make such a folder with `groundup prepare`"
            if folder.exists():  # texts, perhaps
                words = ["groundup", "prepare", str(folder), "--out", f"data/{resolved(folder).name.partition('.')[0]}"]
                remedy = f"prepare its text first: {shlex.join(words)}"
            raise DataError(f"{folder}: no {MANIFEST} here; {remedy}") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            if where == "format" and isinstance(first["input"], int) and first["input"] > FORMAT:
                raise DataError(
                    f"{path}: format {first['input']}, while this groundup reads format {FORMAT}; update it"
                ) from None
            problem = f"{where}: {first['msg']}"
        except ValueError as error:
            problem = str(error)
        raise DataError(f"{path}: not a manifest of groundup ({problem}); prepare the data again with --overwrite")

    @override
    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {split.tokens:,} tokens" for name, split in self.splits.items())
        return f"Manifest({splits}; {self.tokenizer.name} with {self.tokenizer.n_vocab:,} ids)"

    __str__ = __repr__

    @property
    def fingerprint(self) -> str:
        """Hexadecimal hash of the tokens: two folders share it exactly if they hold the same ones.

        The names of the sources have no part in it: a training run may be resumed when they have moved.
        """
        tokens = self.model_dump(
            mode="json",
            include={"dtype", "tokenizer", "splits"},
            exclude={"splits": {"__all__": {"documents_sha256"}}},  # which folders of earlier versions lack
        )
        canonical = json.dumps(tokens, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def dtype_for(n_vocab: int) -> Dtype:
    """The narrowest type that holds every id of a vocabulary."""
    return "uint16" if n_vocab <= 1 << 16 else "uint32"


class Tokens:
    """One split as a single read-only sequence of ids across its shards."""

    def __init__(
        self, shards: Sequence[npt.NDArray[np.integer] | RecordFile], n_vocab: int = 1 << 32, name: str = "tokens"
    ) -> None:
        """`n_vocab` bounds the ids; `name` stands for them in error messages."""
        self._shards, self._n_vocab, self._name = shards, n_vocab, name
        self._starts = np.cumsum([0, *map(len, shards)])  # of each shard, and the end of the last

    @classmethod
    def open(cls, folder: Path, name: SplitName) -> "Tokens":
        """The split `name` of a prepared folder. Raises DataError if files are missing or cut short."""
        manifest = Manifest.load(folder)
        dtype = np.dtype(manifest.dtype).newbyteorder("<")
        shards = [_open(folder / shard.file, dtype, shard.tokens) for shard in manifest.splits[name].shards]
        return cls(shards, manifest.tokenizer.n_vocab, f"{folder}, split {name}")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, n: int) -> npt.NDArray[np.int64]:
        """The `n` ids from `start` on, shape (n,). Raises IndexError for positions outside of the split.

        Raises DataError for an id that the tokenizer does not have, and where the file was cut short or cannot be read.
        """
        if not 0 <= start <= start + n <= len(self):
            raise IndexError(f"tokens {start} to {start + n} of {len(self)}")
        first, last = bisect_right(self._starts, start) - 1, bisect_left(self._starts, start + n)
        shards = zip(self._starts[first:last].tolist(), self._shards[first:last], strict=True)
        parts = [shard[max(start - begin, 0) : start + n - begin].astype(np.int64) for begin, shard in shards]
        ids = np.concatenate([np.empty(0, np.int64), *parts])
        if ids.max(initial=0) >= self._n_vocab:
            bad = int((ids >= self._n_vocab).argmax())
            raise DataError(
                f"{self._name}: token {start + bad} is {ids[bad]}, but the tokenizer has {self._n_vocab} ids; {DAMAGED}"
            )
        return ids


class DocumentSpan(NamedTuple):
    """The part of one document in a range of tokens: its tokens `start` to before `stop`, counted from its first."""

    source: str
    offset: int  # bytes, of the document in its source
    begin: int  # the document's first token, in the split
    length: int  # tokens of the complete document, including its end of text
    start: int
    stop: int


class Documents:
    """Positions of the documents of a split."""

    def __init__(
        self, records: Records | RecordFile, sources: tuple[str, ...], n_tokens: int, name: str = "documents"
    ) -> None:
        """`records` are of type `DOCUMENT`, in order of their start; the last ends at token `n_tokens`.

        `name` stands for them in error messages.
        """
        self._records, self._sources, self._end, self._name = records, sources, n_tokens, name

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, name: SplitName) -> "Documents":
        """The documents of a split in a prepared folder. Raises DataError if files are missing or cut short."""
        check_files(folder, manifest, checksums=False)
        split = manifest.splits[name]
        path = documents_file(folder, name)
        return cls(_open(path, DOCUMENT, split.documents), manifest.sources, split.tokens, str(path))

    def __len__(self) -> int:
        return len(self._records)

    def begin(self, i: int) -> int:
        """The first token of document `i`; the end of the split after the last document."""
        return int(self._records[i]["start"]) if i < len(self._records) else self._end

    def records(self, start: int, stop: int) -> Records:
        """The `DOCUMENT` records of documents `start` to before `stop`."""
        return self._records[start:stop]

    def origin(self, i: int) -> tuple[str, int]:
        """The source of document `i` and its byte offset there. Raises DataError if the record is impossible."""
        source, offset = int(self._records[i]["source"]), int(self._records[i]["offset"])
        if source >= len(self._sources) or offset > MAX_OFFSET_BYTES:
            raise self._damaged(i, f"is byte {offset:,} of source {source:,}, and there are {len(self._sources):,}")
        return self._sources[source], offset

    def spans(self, start: int, n: int) -> list[DocumentSpan]:
        """The parts of documents in the `n` tokens from `start` on, in order. DataError if a record is impossible."""
        first = max(bisect_right(range(len(self)), start, key=self.begin) - 1, 0)
        last = bisect_left(range(len(self)), start + n, lo=first, key=self.begin)
        parts = []
        for i in range(first, last):
            begin, end = self.begin(i), self.begin(i + 1)
            if not begin <= end <= self._end or (i == first and begin > start):
                raise self._damaged(i, f"is tokens {begin:,} to {end:,} of {self._end:,}, which cannot be")
            inside = (max(start, begin) - begin, min(start + n, end) - begin)
            if inside[0] < inside[1]:
                parts.append(DocumentSpan(*self.origin(i), begin, end - begin, *inside))
        return parts

    def _damaged(self, i: int, what: str) -> DataError:
        return DataError(f"{self._name}: document {i:,} {what}; {DAMAGED}")


def check_files(folder: Path, manifest: Manifest, *, checksums: bool) -> None:
    """Raise DataError for the first file of a prepared folder that is missing or has another size.

    With `checksums`, also for one with other contents.
    """
    for name, split in manifest.splits.items():
        _check_size(documents_file(folder, name), DOCUMENT, split.documents)
        for shard in split.shards:
            _check_size(folder / shard.file, np.dtype(manifest.dtype), shard.tokens)
            if checksums:
                _check_sum(folder / shard.file, shard.sha256)
        if checksums:
            check_documents(folder, manifest, name)


def check_documents(folder: Path, manifest: Manifest, name: SplitName) -> None:
    """Raise DataError if the file of a split's documents has another checksum. Earlier versions wrote none."""
    if digest := manifest.splits[name].documents_sha256:
        _check_sum(documents_file(folder, name), digest)


def _check_sum(path: Path, digest: str) -> None:
    try:
        found = sha256(path)
    except OSError as error:
        raise unreadable(path, error) from None
    if found != digest:
        raise DataError(f"{path}: damaged (its checksum is not the manifest's); {REMEDY}")


def documents_file(folder: Path, name: SplitName) -> Path:
    """Path of the positions of a split's documents."""
    return folder / f"documents-{name}.bin"


def _open(path: Path, dtype: np.dtype[Any], n: int) -> RecordFile:
    """A file of `n` records. DataError if it is missing or has another size."""
    _check_size(path, dtype, n)
    try:
        return RecordFile(path, dtype, n)
    except OSError as error:
        raise unreadable(path, error) from None


def _check_size(path: Path, dtype: np.dtype[Any], n: int) -> None:
    expected = n * dtype.itemsize
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from None
    if size != expected:
        raise DataError(f"{path}: {size} bytes, but the manifest says {expected}; {REMEDY}")
