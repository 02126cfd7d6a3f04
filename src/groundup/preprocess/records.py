"""JSON records of a prepared folder: its request (options and inputs), and the journal while it is unfinished."""

from __future__ import annotations

from itertools import islice, zip_longest
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from groundup.data.shards import MAX_MANIFEST_BYTES, Dtype, Sha256, Split, SplitName
from groundup.errors import DataError
from groundup.sources.corpus import Corpus, Position
from groundup.sources.shakespeare import SHAKESPEARE_BYTES, SHAKESPEARE_SHA256
from groundup.utils.files import replace_text
from groundup.utils.reading import read_bytes

Setting = str | int | float | None


class Record(BaseModel):
    """A JSON file of a folder."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    FILE: ClassVar[str]
    REMEDY: ClassVar[str]  # where it is damaged
    INDENT: ClassVar[int | None] = None

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The record in `folder`, or None where there is none. Raises DataError for a damaged one."""
        path = folder / cls.FILE
        try:
            return cls.model_validate_json(read_bytes(path, limit=MAX_MANIFEST_BYTES))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise DataError(f"{path}: not a {path.stem} of groundup ({field}: {first['msg']}); {cls.REMEDY}") from None
        except ValueError as error:
            raise DataError(f"{path}: not a {path.stem} of groundup ({error}); {cls.REMEDY}") from None

    def save(self, folder: Path) -> None:
        """Replace the record in `folder`; a crash leaves the old or the new one."""
        replace_text(folder / self.FILE, self.model_dump_json(indent=self.INDENT) + "\n")


class InputFile(BaseModel):
    """One input: its name in the manifest, its size in bytes, and what changes when its text does."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str
    size: int | None
    version: str


def _is_packaged_now(old: InputFile, new: InputFile) -> bool:
    """Whether a text that comes with groundup is the one which earlier versions downloaded, and checked."""
    return new.version == SHAKESPEARE_SHA256 and old.size == SHAKESPEARE_BYTES


class Request(Record):
    """Settings and inputs, to detect later whether another call asks for the same."""

    FILE = "request.json"
    REMEDY = "replace the folder with --overwrite"
    INDENT = 1

    format: Literal[1] = 1
    settings: dict[str, Setting]
    inputs: tuple[InputFile, ...]

    @classmethod
    def of(cls, corpus: Corpus, settings: dict[str, Setting]) -> Request:
        """The request to prepare `corpus` in this way."""
        inputs = (InputFile(name=each.name, size=each.size, version=each.version) for each in corpus.inputs)
        return cls(settings=settings, inputs=tuple(inputs))

    def difference(self, now: Request, inputs: int | None = None) -> str | None:
        """The first difference to the request `now`, or None. With `inputs`, only that many inputs are compared."""
        for key in {**self.settings, **now.settings}:
            previous, current = self.settings.get(key), now.settings.get(key)
            if previous != current:
                return f"{key} was {_shown(previous)} and is {_shown(current)}"
        names = {each.name for each in now.inputs}
        for old, new in islice(zip_longest(self.inputs, now.inputs), inputs):
            if old is None:
                return f"{new.name} is new among the sources"
            if new is None or old.name not in names:
                return f"{old.name} is no longer among the sources"
            if old.name != new.name:
                return f"the sources come in another order, from {new.name} on"
            if old != new and not _is_packaged_now(old, new):
                what = "size" if old.size != new.size else "modification time"
                return f"{old.name} has changed" + (f" (its {what})" if new.version.isdecimal() else "")
        return None


class Journal(Record):
    """A position in the corpus before which everything is encoded and on disk, the tokenizer included."""

    FILE = "journal.json"
    REMEDY = "discard the unfinished work with --overwrite"

    format: Literal[2] = 2  # 1 cut texts at other positions
    tokenizer: Sha256  # its fingerprint
    dtype: Dtype
    place: Position  # the document to resume with
    chunks: int  # pieces of that document which are done
    sources: tuple[str, ...]  # in the order of their first documents
    splits: dict[SplitName, Split]
    full: tuple[SplitName, ...]  # splits that have reached their number of tokens
    share: float  # fraction of the input that is done, from 0 to 1; 0 where its size is unknown
    sampled: int  # characters in samples; `known`: those that the tokenizer knows
    known: int

    @property
    def done(self) -> str:
        """The part that is done, as shown to the user."""
        text_bytes = sum(split.bytes for split in self.splits.values())
        return f"{self.share:.0%}" if self.share else f"{text_bytes / 1e6:,.1f} MB of text"


def _shown(value: Setting) -> str:
    return "not given" if value is None else repr(value)
