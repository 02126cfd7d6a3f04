"""How far a preparation has come: what stands in its unfinished folder, so that it can go on after any end."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from groundup.data.shard_writer import check_written
from groundup.data.shards import Dtype, Sha256, Split, SplitName
from groundup.errors import DataError
from groundup.sources.corpus import Position
from groundup.utils.files import replace_text

JOURNAL = "journal.json"
FORMAT: Final = 2  # 1 cut texts at other places


class Journal(BaseModel):
    """Everything before a place in the corpus is encoded and on disk; the tokenizer is there, too."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: Literal[2] = FORMAT
    tokenizer: Sha256  # its fingerprint
    dtype: Dtype
    place: Position  # the document to go on with
    chunks: int  # pieces of that document which are done
    sources: tuple[str, ...]  # in the order in which their first documents came
    splits: dict[SplitName, Split]
    full: tuple[SplitName, ...]  # splits that have as many tokens as they were meant to
    share: float  # of the input that is done, from 0 to 1; 0 where the whole is not known
    sampled: int  # characters of samples, and how many of them the tokenizer knows
    known: int

    @classmethod
    def load(cls, folder: Path) -> Journal | None:
        """The journal in `folder`, or None where there is none. Raises DataError for a damaged one."""
        path = folder / JOURNAL
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(
                f"{path}: not a journal of groundup ({'.'.join(map(str, first['loc']))}: {first['msg']}); "
                "throw the unfinished work away with --overwrite"
            ) from None

    def save(self, folder: Path) -> None:
        """Replace the journal in `folder`; a crash leaves the old or the new one."""
        replace_text(folder / JOURNAL, self.model_dump_json() + "\n")

    def check(self, folder: Path) -> None:
        """Raise DataError where the shards in `folder` hold less than they did."""
        for name, split in self.splits.items():
            check_written(folder, name, self.dtype, split)

    @property
    def done(self) -> str:
        """How much that is, in words."""
        text_bytes = sum(split.bytes for split in self.splits.values())
        return f"{self.share:.0%}" if self.share else f"{text_bytes / 1e6:,.1f} MB of text"
