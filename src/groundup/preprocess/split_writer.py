"""The shards of both splits as they grow, and the place in the corpus up to which they hold everything."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np

from groundup.data.shard_writer import ShardWriter
from groundup.data.shards import Split, SplitName, dtype_for
from groundup.preprocess.encoding import Encoded, Job, Piece, longest_prefix
from groundup.preprocess.journal import Journal
from groundup.sources.corpus import Position
from groundup.tokenizers.base import Tokenizer

SPLITS: tuple[SplitName, ...] = ("train", "val")


class Output:
    """Writes jobs in the order of the corpus. `journal` is how far a former process came, if there was one.

    With `max_tokens`, `val_fraction` of them are for validation, and each split ends before it has more than its
    share, if need be in the middle of a document.
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
        if max_tokens is not None:
            val = round(max_tokens * val_fraction)
            self._limits = {"train": max_tokens - val, "val": val}
        self.place, self.chunks = (journal.place, journal.chunks) if journal else (Position(), 0)
        self.full: set[SplitName] = set(journal.full) if journal else set()
        if max_tokens is not None and not self._limits["val"]:
            self.full.add("val")
        self.n_bytes = sum(split.bytes for split in journal.splits.values()) if journal else 0  # of text written
        self._share = journal.share if journal else 0.0
        self._sampled, self._known = (journal.sampled, journal.known) if journal else (0, 0)
        names = journal.sources if journal else ()
        self._sources = {name: i for i, name in enumerate(names)}  # -> their place in the manifest
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
        """The manifest's list."""
        return tuple(self._sources)

    @property
    def is_full(self) -> bool:
        """Whether no split takes anything more."""
        return self.full.issuperset(SPLITS)

    def write(self, job: Job, encoded: list[Encoded], size: int | None) -> None:
        """Append a job's ids; `size` is that of the whole input, if it is known."""
        for piece, each in zip(job.pieces, encoded, strict=True):
            self._sampled, self._known = self._sampled + each.sampled, self._known + each.known
            if piece.split not in self.full:
                self._write(piece, each.ids, each.n_bytes)
        self.place, self.chunks, self._share = job.place, job.chunks, job.at / size if size else 0.0

    @property
    def done(self) -> float:
        """The part of the input that is written, as far as it is known; 0 otherwise."""
        return self._share

    def known(self, at_least: int = 1) -> float:
        """The part of the text's characters that the tokenizer knows, from 0 to 1, in `at_least` so many looked at."""
        return self._known / self._sampled if self._sampled >= at_least else 1.0

    def _write(self, piece: Piece, ids: np.ndarray, n_bytes: int) -> None:
        writer, last = self._writers[piece.split], piece.last
        if piece.split in self._limits:
            room = self._limits[piece.split] - writer.tokens - 1  # but for the end of text
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
        """Wait until all that was written is on disk; returns how to go on from here."""
        return Journal(
            tokenizer=self._tokenizer.fingerprint,
            dtype=self._dtype,
            place=self.place,
            chunks=self.chunks,
            sources=self.sources,
            splits={name: writer.flush() for name, writer in self._writers.items()},
            full=tuple(sorted(self.full)),
            share=self._share,
            sampled=self._sampled,
            known=self._known,
        )

    def finish(self) -> dict[SplitName, Split]:
        """End the last shards; returns the manifest's entries."""
        return {name: writer.finish() for name, writer in self._writers.items()}
