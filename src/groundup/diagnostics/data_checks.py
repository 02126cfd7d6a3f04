"""Checks of a prepared folder, in one pass over its tokens: checksums, ids, documents, split, tokenizer."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.data import shards
from groundup.data.shards import Documents, Manifest, SplitName, Tokens
from groundup.diagnostics.finding import Finding, problem
from groundup.errors import DataError, GroundupError
from groundup.tokenizers.registry import load_tokenizer
from groundup.ui.format import human_bytes, human_plural
from groundup.utils.progress import ProgressReporter

SPLITS: tuple[SplitName, ...] = ("train", "val")
MIN_VAL_TOKENS = 10_000  # losses of single tokens vary by about 3 nats, so the mean of these by 0.03
MAX_COPIES = 0.05  # fraction of repeated documents
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # of bytes that are not UTF-8
ROUND_TRIP_TOKENS = 4000  # decoded and encoded again
VOCAB_MULTIPLE = 64  # default of `model.vocab_multiple`: embeddings are padded to this many rows
CHUNK_BYTES = 8 << 20  # read at a time
REMEDY = "copy the folder again, or prepare again with --overwrite"
DIGEST_BYTES = 8  # among ten million documents, two different ones share a digest with a chance of 3 in a million


def check_data(folder: Path, progress: ProgressReporter) -> Iterator[Finding]:
    """Check a prepared folder in one pass over it; `progress` is called with the bytes done."""
    about = str(folder)
    try:
        manifest = Manifest.load(folder)
        shards.check_files(folder, manifest, checksums=False)
        documents = {name: Documents.open(folder, manifest, name) for name in SPLITS}
    except GroundupError as error:
        yield problem(about, "files", error)
        return
    try:
        for name in SPLITS:
            if fault := _index_fault(documents[name], manifest.splits[name].tokens, len(manifest.sources)):
                raise DataError(f"documents-{name}.bin: {fault}; {REMEDY}")
            shards.check_documents(folder, manifest, name)
    except GroundupError as error:  # documents would be cut at wrong positions
        yield problem(about, "documents", error)
        documents = {}
    sizes = {name: split.tokens * np.dtype(manifest.dtype).itemsize for name, split in manifest.splits.items()}
    progress.phase(f"checking {folder}", sum(sizes.values()))
    try:
        train = scan(folder, manifest, "train", documents.get("train"), progress, 0)
        val = scan(folder, manifest, "val", documents.get("val"), progress, sizes["train"])
        yield _check_checksums(about, manifest, [*train.damaged, *val.damaged], sum(sizes.values()))
        yield _check_ids(about, manifest, train, val)
        if documents:
            yield _check_leaks(about, train, val, documents)
            yield from _check_copies(about, train)
        yield _check_held_out(about, manifest)
        yield _check_tokenizer(about, folder, manifest, valid_ids=train.outside == 0)
    except OSError as error:
        yield problem(about, "files", f"{error.filename}: cannot be read ({error.strerror}); {REMEDY}")


@dataclass
class Scan:
    """Contents of a split. Memory: 24 bytes per document, and one chunk."""

    digests: NDArray[np.uint64]  # of each document's ids
    lengths: NDArray[np.int64]  # tokens of each document, with its end
    damaged: list[str] = field(default_factory=list)  # files whose checksum is not the manifest's
    outside: int = 0  # ids that the tokenizer does not have
    first_outside: tuple[int, int] | None = None  # the first of them, and its position in the split


def scan(
    folder: Path,
    manifest: Manifest,
    name: SplitName,
    documents: Documents | None,
    progress: ProgressReporter,
    done: int,
) -> Scan:
    """Read a split once, whose files have the right sizes; `done` bytes were read before."""
    split, n_vocab = manifest.splits[name], manifest.tokenizer.n_vocab
    dtype = np.dtype(manifest.dtype).newbyteorder("<")
    records = documents.records(0, len(documents)) if documents else np.empty(0, shards.DOCUMENT)
    starts = records["start"].astype(np.int64)
    lengths = np.diff(starts, append=split.tokens)
    ends = starts + lengths
    found = Scan(np.zeros(len(ends), np.uint64), lengths)
    at, document, digest = 0, 0, blake2b(digest_size=DIGEST_BYTES)
    for shard in split.shards:
        checksum = sha256()
        with (folder / shard.file).open("rb") as file:
            while block := file.read(CHUNK_BYTES):
                checksum.update(block)
                ids = np.frombuffer(block, dtype)
                outside = np.flatnonzero(ids >= n_vocab)
                if len(outside):
                    found.first_outside = found.first_outside or (int(ids[outside[0]]), at + int(outside[0]))
                    found.outside += len(outside)
                begin, stop = 0, int(np.searchsorted(ends, at + len(ids), "right"))
                for i, end in enumerate((ends[document:stop] - at).tolist(), document):
                    digest.update(ids[begin:end].data)
                    found.digests[i] = int.from_bytes(digest.digest(), "little")
                    begin, digest = end, blake2b(digest_size=DIGEST_BYTES)
                digest.update(ids[begin:].data)
                at, document = at + len(ids), stop
                progress(done := done + len(block))
        if checksum.hexdigest() != shard.sha256:
            found.damaged.append(shard.file)
    return found


def _index_fault(documents: Documents, n_tokens: int, n_sources: int) -> str | None:
    """Faults in the positions of documents, found in constant memory."""
    before, step = 0, 1 << 20
    for i in range(0, len(documents), step):
        records = documents.records(i, i + step)
        begins = records["start"].astype(np.int64)
        if i == 0 and begins[0] != 0:
            return "the first does not begin with the first token"
        if int(begins[0]) < before or (np.diff(begins) < 0).any():
            return "they are not in order"
        if int(records["source"].max()) >= n_sources:
            return "one is of a source that the manifest does not have"
        if int(records["offset"].max()) > shards.MAX_OFFSET_BYTES:
            return "one begins farther into its source than any file is long"
        before = int(begins[-1])
    return "one begins behind the last token" if before > max(0, n_tokens - 1) else None


def _check_checksums(about: str, manifest: Manifest, damaged: list[str], n_bytes: int) -> Finding:
    files = sum(len(split.shards) for split in manifest.splits.values())
    values = {"files": files, "bytes": n_bytes, "damaged": damaged}
    if damaged:
        names = damaged[0] if len(damaged) == 1 else f"{damaged[0]} and {len(damaged) - 1:,} more"
        sentence = f"{names} of {files} damaged: the checksum is not the manifest's"
        return Finding(about, "checksums", "problem", sentence, REMEDY, values)
    sentence = f"{human_plural(files, 'file')} with {human_bytes(n_bytes)} of tokens, all as the manifest says"
    return Finding(about, "checksums", "ok", sentence, values=values)


def _check_ids(about: str, manifest: Manifest, train: Scan, val: Scan) -> Finding:
    n_vocab, outside = manifest.tokenizer.n_vocab, train.outside + val.outside
    tokens = sum(split.tokens for split in manifest.splits.values())
    values = {"tokens": tokens, "n_vocab": n_vocab, "outside": outside}
    if not outside:
        return Finding(about, "ids", "ok", f"{tokens:,} tokens, all below {n_vocab:,}", values=values)
    name = "train" if train.first_outside else "val"
    id_, position = train.first_outside or val.first_outside or (0, 0)
    padded = -(-n_vocab // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    harm = "one that only pads the embedding" if id_ < padded else "one beyond any model's embedding"
    ids = f"{human_plural(outside, 'id')} of {n_vocab:,} or more, {harm}"
    sentence = f"{ids}: first {id_:,}, at token {position:,} of {name}"
    return Finding(about, "ids", "problem", sentence, "prepare the data again with the tokenizer of its folder", values)


def _check_leaks(about: str, train: Scan, val: Scan, documents: dict[SplitName, Documents]) -> Finding:
    """Documents in both training and validation split, which make the validation loss too low."""
    shared = np.flatnonzero(np.isin(train.digests, val.digests[val.lengths > 1]) & (train.lengths > 1))
    values: dict[str, Any] = {"documents": len(shared)}
    if not len(val.digests):
        return Finding(about, "split", "ok", "no document is held out, so none is on both sides", values=values)
    if not len(shared):
        sides = f"{human_plural(len(train.digests), 'document')} to train on, {len(val.digests):,} held out"
        return Finding(about, "split", "ok", f"{sides}, none on both sides", values=values)
    first = int(shared[0])
    source, offset = documents["train"].origin(first)
    copy, copy_offset = documents["val"].origin(int(np.flatnonzero(val.digests == train.digests[first])[0]))
    values["example"] = {"train": {"source": source, "offset": offset}, "val": {"source": copy, "offset": copy_offset}}
    sentence = (
        f"{human_plural(len(shared), 'training document')} also held out, word for word: such as {source} @{offset:,}, "
        f"which is {copy} @{copy_offset:,}"
    )
    return Finding(about, "split", "problem", sentence, "drop them, or prepare again: copies stay together", values)


def _check_copies(about: str, train: Scan) -> Iterator[Finding]:
    """Training documents that are empty or repeat another."""
    empty, total = int((train.lengths <= 1).sum()), len(train.digests)
    repeated = total - empty - len(np.unique(train.digests[train.lengths > 1]))
    values = {"documents": total, "empty": empty, "repeated": repeated}
    fraction = repeated / total if total else 0.0
    if fraction > MAX_COPIES:
        sentence = f"{fraction:.0%} of the training documents repeat another"
        remedy = "leave out the copies: they cost training time, and a model memorizes them"
        yield Finding(about, "copies", "warning", sentence, remedy, values)
    elif total:
        some = f"{human_plural(repeated, 'training document')} ({fraction:.2%}) the same as another"
        yield Finding(about, "copies", "ok", some if repeated else "no training document twice", values=values)
    if empty:
        sentence = f"{human_plural(empty, 'training document')} empty ({empty / total:.1%})"
        yield Finding(about, "empty", "warning", sentence, "prepare the data again: it leaves out empty documents")


def _check_held_out(about: str, manifest: Manifest) -> Finding:
    tokens, rule = manifest.splits["val"].tokens, manifest.split
    values = {"tokens": tokens, "rule": rule.rule, "val_fraction": rule.val_fraction}
    if tokens <= 1:
        remedy = "prepare with --val-fraction 0.1, to see when a model only memorizes"
        return Finding(about, "held out", "warning", "no text, so there is no validation loss", remedy, values)
    if tokens < MIN_VAL_TOKENS:
        error = 3 / tokens**0.5  # as at MIN_VAL_TOKENS
        sentence = f"{tokens:,} tokens: a validation loss of so few is uncertain by about {error:.2g} nats"
        return Finding(about, "held out", "warning", sentence, "give more text, or a larger --val-fraction", values)
    fraction = tokens / (tokens + manifest.splits["train"].tokens)
    return Finding(about, "held out", "ok", f"{tokens:,} tokens, {fraction:.1%} ({rule.rule})", values=values)


def _check_tokenizer(about: str, folder: Path, manifest: Manifest, *, valid_ids: bool) -> Finding:
    """Whether the folder's tokenizer is the one of its tokens, and decodes to the text that it encoded."""
    try:
        tokenizer = load_tokenizer(folder / "tokenizer")
        if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
            sentence = f"{folder / 'tokenizer'}: not the one that these tokens were made with"
            return Finding(
                about, "tokenizer", "problem", sentence, "put that one back, or prepare again with --overwrite"
            )
        sentence = f"{tokenizer.name}, {tokenizer.n_vocab:,} ids"
        if tokenizer.lossy is not None:
            return Finding(about, "tokenizer", "ok", f"{sentence}; {tokenizer.lossy}")
        if valid_ids:
            tokens = Tokens.open(folder, "train")
            ids = tokens.read(0, min(ROUND_TRIP_TOKENS, len(tokens)))
            text = tokenizer.decode(ids[ids != tokenizer.end_of_text].tolist()).rstrip(REPLACEMENT)
            if REPLACEMENT not in text and tokenizer.decode(tokenizer.encode(text).tolist()) != text:
                sentence += ": text of these tokens changes when it is encoded and decoded again"
                return Finding(about, "tokenizer", "problem", sentence, "prepare the data again with --overwrite")
    except GroundupError as error:
        return problem(about, "tokenizer", error)
    return Finding(about, "tokenizer", "ok", f"{sentence}; decodes to the text it encoded")
