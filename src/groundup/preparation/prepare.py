"""From sources to a folder of tokens: read, split, learn the tokenizer if it must be learnt, encode, write."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from groundup.data.reading import Errors
from groundup.data.shards import Manifest, ShardWriter, Split, SplitName, TokenizerInfo, dtype_for
from groundup.data.sources import Corpus, Document, open_sources
from groundup.errors import DataError, UsageError
from groundup.preparation.folder import new_folder
from groundup.preparation.splitting import ByHash, LastPart, choose_rule
from groundup.text.tokenizer import Learner, Tokenizer, choose_tokenizer

MAX_VAL_FRACTION = 0.5


def prepare_tokens(
    sources: Sequence[str | Path],
    out: Path,
    *,
    tokenizer: str = "gpt2",
    column: str = "text",
    errors: Errors = "strict",
    val_fraction: float = 0.1,
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Encode `sources` (see `open_sources`) into the new folder `out`, which appears whole or not at all.

    The same text gives the same folder, byte for byte, and takes the same memory however long it is. `progress` is
    told the bytes of text written so far. Raises DataError, TokenizerError or UsageError.
    """
    if not 0 <= val_fraction <= MAX_VAL_FRACTION:
        raise UsageError(f"val_fraction: {val_fraction} is not between 0 and {MAX_VAL_FRACTION}; 0.1 is usual")
    choice = choose_tokenizer(tokenizer)
    with new_folder(Path(out)) as folder, open_sources(sources, column=column, errors=errors) as corpus:
        rule = choose_rule(corpus, val_fraction)
        encoder = _learnt(choice, corpus, rule) if isinstance(choice, Learner) else choice
        encoder.save(folder / "tokenizer")
        manifest = _write(corpus, rule, encoder, folder, progress or (lambda _: None))
        manifest.save(folder)
    return manifest


def _learnt(learner: Learner, corpus: Corpus, rule: ByHash | LastPart) -> Tokenizer:
    def texts() -> Iterator[str]:
        for document in corpus:
            for split, chunks in rule.parts(document):
                if split == "train" or learner.needs_all_text:
                    yield from chunks

    return learner.learn(texts())


def _write(
    corpus: Corpus, rule: ByHash | LastPart, tokenizer: Tokenizer, folder: Path, progress: Callable[[int], None]
) -> Manifest:
    dtype = dtype_for(tokenizer.n_vocab)
    index: dict[str, int] = {}  # source -> its place in the manifest
    done = 0
    with ShardWriter(folder, "train", dtype) as train, ShardWriter(folder, "val", dtype) as val:
        writers: dict[SplitName, ShardWriter] = {"train": train, "val": val}
        for document in corpus:
            source = index.setdefault(document.source, len(index))
            for split, chunks in rule.parts(document):
                for n_bytes in _encode(writers[split], source, document, chunks, tokenizer):
                    done += n_bytes
                    progress(done)
        splits = {name: writer.finish() for name, writer in writers.items()}
    _refuse_empty(splits, rule)
    return Manifest(
        dtype=dtype,
        tokenizer=TokenizerInfo(name=tokenizer.name, n_vocab=tokenizer.n_vocab, fingerprint=tokenizer.fingerprint),
        splits=splits,
        split=rule.describe(),
        sources=tuple(index),
    )


def _encode(
    writer: ShardWriter, source: int, document: Document, chunks: Iterator[str], tokenizer: Tokenizer
) -> Iterator[int]:
    """Write a document's part, ended by the end-of-text id; yields the bytes of each chunk. No text, no document."""
    first = next(chunks, None)
    if first is None:
        return
    writer.begin_document(source, document.offset)
    for chunk in chain([first], chunks):
        n_bytes = len(chunk.encode())
        writer.write(tokenizer.encode(chunk), n_bytes)
        yield n_bytes
    writer.write(np.array([tokenizer.end_of_text], dtype=np.uint32), 0)


def _refuse_empty(splits: dict[SplitName, Split], rule: ByHash | LastPart) -> None:
    if not splits["train"].tokens:
        raise DataError("no text is left to train on; give more text, or a smaller --val_fraction")
    if not splits["val"].tokens and rule.val_fraction:
        raise DataError(
            f"none of the {splits['train'].documents} documents fell into the validation split of {rule.val_fraction}; "
            "give more text or a larger --val_fraction, or hold nothing out with --val_fraction 0"
        )
