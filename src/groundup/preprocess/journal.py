"""Journal of an unfinished preparation: how far it has come, so that it can resume after any interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from groundup.data.shard_writer import check_written
from groundup.data.shards import Dtype, Sha256, Split, SplitName
from groundup.preprocess.request import read_record
from groundup.sources.corpus import Position
from groundup.utils.files import replace_text

JOURNAL = "journal.json"
FORMAT: Final = 2  # 1 cut texts at other positions


class Journal(BaseModel):
    """A position in the corpus before which everything is encoded and on disk, the tokenizer included."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: Literal[2] = FORMAT
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

    @classmethod
    def load(cls, folder: Path) -> Journal | None:
        """The journal in `folder`, or None where there is none. Raises DataError for a damaged one."""
        return read_record(cls, folder / JOURNAL, "discard the unfinished work with --overwrite")

    def save(self, folder: Path) -> None:
        """Replace the journal in `folder`; a crash leaves the old or the new one."""
        replace_text(folder / JOURNAL, self.model_dump_json() + "\n")

    def check(self, folder: Path) -> None:
        """Raise DataError where the shards in `folder` hold less than the journal says."""
        for name, split in self.splits.items():
            check_written(folder, name, self.dtype, split)

    @property
    def done(self) -> str:
        """The part that is done, as shown to the user."""
        text_bytes = sum(split.bytes for split in self.splits.values())
        return f"{self.share:.0%}" if self.share else f"{text_bytes / 1e6:,.1f} MB of text"
