"""Writer of the shards of both splits, and of the position in the corpus up to which they are complete."""

from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np

from groundup.data.shard_writer import ShardWriter
from groundup.data.shards import Split, SplitName, dtype_for
from groundup.preprocess.encoding import EncodedPiece, Job, Piece, longest_prefix
from groundup.preprocess.records import Journal
from groundup.sources.corpus import Position
from groundup.tokenizers.base import Tokenizer

SPLITS: tuple[SplitName, ...] = ("train", "val")


class SplitWriter:
    """Writes jobs in the order of the corpus, continuing from `journal`, a previous process's state, if there is one.

    With `max_tokens`, `val_fraction` of them are for validation, and each split ends before it exceeds its number, if
    necessary within a document.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        val_fraction: float,
        max_tokens: int | None,
        shard_tokens: int,
        journal: Journal | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._limits: dict[SplitName, int] = {}
        self.full: set[SplitName] = set(journal.full) if journal else set()
        if max_tokens is not None:
            val = round(max_tokens * val_fraction)
            self._limits = {"train": max_tokens - val, "val": val}
            self.full.update(() if val else ("val",))
        self.position, self.chunks = (journal.place, journal.chunks) if journal else (Position(), 0)
        self.n_bytes = sum(split.bytes for split in journal.splits.values()) if journal else 0  # of text written
        self.done = journal.share if journal else 0.0  # fraction of the input; 0 where its size is unknown
        self._sampled, self._known = (journal.sampled, journal.known) if journal else (0, 0)
        self._sources = {name: i for i, name in enumerate(journal.sources if journal else ())}  # -> index in manifest
        self._dtype = dtype_for(tokenizer.n_vocab)
        self._open = ExitStack()
        self._writers: dict[SplitName, ShardWriter] = {}
        for name in SPLITS:
            done = journal.splits[name] if journal else None
            self._writers[name] = self._open.enter_context(ShardWriter(folder, name, self._dtype, shard_tokens, done))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, in the order of the manifest."""
        return tuple(self._sources)

    @property
    def is_full(self) -> bool:
        """Whether all splits have reached their number of tokens."""
        return self.full.issuperset(SPLITS)

    def write(self, job: Job, encoded: list[EncodedPiece], size: int | None) -> None:
        """Append a job's ids; `size` is that of the complete input in bytes, if known."""
        for piece, each in zip(job.pieces, encoded, strict=True):
            self._sampled, self._known = self._sampled + each.sampled, self._known + each.known
            if piece.split not in self.full:
                self._write(piece, each.ids, each.n_bytes)
        self.position, self.chunks = job.position, job.chunks
        self.done = job.input_bytes / size if size else 0.0

    def known(self, at_least: int = 1) -> float:
        """Fraction of sampled characters that the tokenizer knows; 1 until `at_least` characters are sampled."""
        return self._known / self._sampled if self._sampled >= at_least else 1.0

    def _write(self, piece: Piece, ids: np.ndarray, n_bytes: int) -> None:
        writer, last = self._writers[piece.split], piece.last
        if piece.split in self._limits:
            room = self._limits[piece.split] - writer.tokens - 1  # one for the end of text
            if len(ids) > room:
                text = longest_prefix(piece.text, max(room, 0), self._tokenizer)
                ids, n_bytes, last = self._tokenizer.encode(text), len(text.encode()), True
                self.full.add(piece.split)
                if piece.first and not len(ids):
                    return
        if piece.first:
            writer.begin_document(self._sources.setdefault(piece.source, len(self._sources)), piece.offset)
        writer.write(ids, n_bytes)
        self.n_bytes += n_bytes
        if last:
            writer.write(np.array([self._tokenizer.end_of_text], dtype=np.uint32), 0)

    def journal(self) -> Journal:
        """Flush everything written to disk and return the state to resume from."""
        return Journal(
            tokenizer=self._tokenizer.fingerprint,
            dtype=self._dtype,
            place=self.position,
            chunks=self.chunks,
            sources=self.sources,
            splits={name: writer.flush() for name, writer in self._writers.items()},
            full=tuple(sorted(self.full)),
            share=self.done,
            sampled=self._sampled,
            known=self._known,
        )

    def finish(self) -> dict[SplitName, Split]:
        """Finish the last shards and return the splits for the manifest."""
        return {name: writer.finish() for name, writer in self._writers.items()}
