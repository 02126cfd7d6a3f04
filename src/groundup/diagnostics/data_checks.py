"""Prepared data, looked at to the last token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.data.documents import Documents
from groundup.data.shards import DOCUMENT, Manifest, SplitName, Tokens, check_documents, check_files
from groundup.diagnostics.finding import Finding, problem
from groundup.diagnostics.scan import Scan, index_fault, scan
from groundup.errors import GroundupError
from groundup.tokenizers.registry import Tokenizer, load_tokenizer
from groundup.utils.progress import ProgressReporter

SPLITS: tuple[SplitName, ...] = ("train", "val")
FEW = 10_000  # validation tokens; losses of single tokens vary by about 3 nats, so the mean of these by 0.03
MANY_AGAIN = 0.05  # share of repeated documents
PIECE = 4000  # tokens that are decoded and encoded again
MULTIPLE = 64  # embeddings are padded to this many rows, as `model.vocab_multiple` has it by default


def check_data(folder: Path, watch: ProgressReporter) -> Iterator[Finding]:
    """Everything that can be wrong with a folder of prepared tokens, in one pass over it."""
    about = str(folder)
    try:
        manifest = Manifest.load(folder)
        check_files(folder, manifest, checksums=False)
        documents = {name: Documents.open(folder, manifest, name) for name in SPLITS}
    except GroundupError as error:
        yield problem(about, "files", error)
        return
    index = _index(about, folder, manifest, documents)
    if index.status != "ok":  # or the documents below would be the wrong ones
        yield index
        documents = {name: Documents(np.empty(0, DOCUMENT), (), 0) for name in SPLITS}
    width = np.dtype(manifest.dtype).itemsize
    sizes = {name: split.tokens * width for name, split in manifest.splits.items()}
    watch.phase(f"checking {folder}", sum(sizes.values()))
    try:
        train = scan(folder, manifest, "train", documents["train"], watch, 0)
        val = scan(folder, manifest, "val", documents["val"], watch, sizes["train"])
        yield _checksums(about, manifest, [*train.damaged, *val.damaged], sum(sizes.values()))
        yield _ids(about, manifest, train, val)
        if index.status == "ok":
            yield _both_sides(about, train, val, documents)
            yield from _again(about, train)
        yield _held_out(about, manifest)
        yield _tokenizer(about, folder, manifest, train.outside == 0)
    except OSError as error:
        remedy = "copy the folder again, or prepare again"
        yield Finding(about, "files", "problem", f"{error.filename}: cannot be read ({error.strerror})", remedy)


def _index(about: str, folder: Path, manifest: Manifest, documents: dict[SplitName, Documents]) -> Finding:
    for name in SPLITS:
        fault = index_fault(documents[name], manifest.splits[name].tokens, len(manifest.sources))
        if fault:
            sentence = f"documents-{name}.bin: {fault}"
            return Finding(about, "documents", "problem", sentence, "copy the folder again, or prepare again")
        try:
            check_documents(folder, manifest, name)
        except GroundupError as error:
            return problem(about, "documents", error)
    return Finding(about, "documents", "ok", "")


def _checksums(about: str, manifest: Manifest, damaged: list[str], n_bytes: int) -> Finding:
    files = sum(len(split.shards) for split in manifest.splits.values())
    values = {"files": files, "bytes": n_bytes, "damaged": damaged}
    if damaged:
        sentence = f"{_some(damaged)} of {files} damaged: the checksum is not the manifest's"
        return Finding(about, "checksums", "problem", sentence, "copy it again, or prepare again", values)
    what = f"{_many(files, 'file')} with {_size(n_bytes)} of tokens"
    return Finding(about, "checksums", "ok", f"{what}, as they were written", values=values)


def _ids(about: str, manifest: Manifest, train: Scan, val: Scan) -> Finding:
    n_vocab, outside = manifest.tokenizer.n_vocab, train.outside + val.outside
    tokens = sum(split.tokens for split in manifest.splits.values())
    values = {"tokens": tokens, "n_vocab": n_vocab, "outside": outside}
    if not outside:
        return Finding(about, "ids", "ok", f"{tokens:,} tokens, all below {n_vocab:,}", values=values)
    name = "train" if train.first_outside else "val"
    id_, place = train.first_outside or val.first_outside or (0, 0)
    padded = -(-n_vocab // MULTIPLE) * MULTIPLE
    harm = "one that pads the embedding" if id_ < padded else "one that no model of it has"
    sentence = f"{_many(outside, 'id')} of {n_vocab:,} or more, {harm}: first {id_:,}, at token {place:,} of {name}"
    return Finding(about, "ids", "problem", sentence, "prepare the data again with the tokenizer of its folder", values)


def _both_sides(about: str, train: Scan, val: Scan, documents: dict[SplitName, Documents]) -> Finding:
    """The same document in training and validation makes the validation loss lie."""
    shared = np.flatnonzero(np.isin(train.digests, val.digests[val.lengths > 1]) & (train.lengths > 1))
    values: dict[str, Any] = {"documents": len(shared)}
    if not len(val.digests):
        return Finding(about, "split", "ok", "nothing is held out, so nothing is on both sides", values=values)
    if not len(shared):
        sides = f"{_many(len(train.digests), 'document')} to train on, {len(val.digests):,} held out"
        return Finding(about, "split", "ok", f"{sides}, none on both sides", values=values)
    first = int(shared[0])
    other = int(np.flatnonzero(val.digests == train.digests[first])[0])
    source, offset = documents["train"].place(first)
    twin, there = documents["val"].place(other)
    values |= {"example": {"train": {"source": source, "offset": offset}, "val": {"source": twin, "offset": there}}}
    sentence = (
        f"{_many(len(shared), 'training document')} also held out, word for word: such as {source} @{offset:,}, "
        f"which is {twin} @{there:,}"
    )
    return Finding(about, "split", "problem", sentence, "drop them, or prepare again: copies stay together", values)


def _again(about: str, train: Scan) -> Iterator[Finding]:
    """Documents that are empty, or not the first of their kind."""
    empty, total = int((train.lengths <= 1).sum()), len(train.digests)
    again = total - empty - len(np.unique(train.digests[train.lengths > 1]))
    values = {"documents": total, "empty": empty, "repeated": again}
    share = again / total if total else 0.0
    if share > MANY_AGAIN:
        remedy = "leave out the copies: they cost training time, and a model learns them by heart"
        yield Finding(
            about, "copies", "warning", f"{share:.0%} of the training documents repeat another", remedy, values
        )
    elif total:
        some = f"{_many(again, 'training document')} ({share:.2%}) the same as another"
        yield Finding(about, "copies", "ok", some if again else "no training document twice", values=values)
    if empty:
        sentence = f"{_many(empty, 'training document')} empty ({empty / total:.1%})"
        yield Finding(about, "empty", "warning", sentence, "prepare the data again: it leaves out what is empty")


def _held_out(about: str, manifest: Manifest) -> Finding:
    tokens, rule = manifest.splits["val"].tokens, manifest.split
    values = {"tokens": tokens, "rule": rule.rule, "val_fraction": rule.val_fraction}
    if tokens <= 1:
        remedy = "prepare with --val-fraction 0.1, to see when a model only learns by heart"
        return Finding(about, "held out", "warning", "nothing is, so no validation loss", remedy, values)
    if tokens < FEW:
        chance = 3 / tokens**0.5
        sentence = f"{tokens:,} tokens: a validation loss of so few is uncertain by about {chance:.2g} nats"
        return Finding(about, "held out", "warning", sentence, "give more text, or a larger --val-fraction", values)
    share = tokens / (tokens + manifest.splits["train"].tokens)
    return Finding(about, "held out", "ok", f"{tokens:,} tokens, {share:.1%} ({rule.rule})", values=values)


def _tokenizer(about: str, folder: Path, manifest: Manifest, whole: bool) -> Finding:
    """Whether the folder's tokenizer made its tokens, and gives back the text it got."""
    try:
        tokenizer = load_tokenizer(folder / "tokenizer")
        if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
            sentence = f"{folder / 'tokenizer'}: not the one that these tokens were made with"
            return Finding(about, "tokenizer", "problem", sentence, "put that one back, or prepare again")
        sentence = f"{tokenizer.name}, {tokenizer.n_vocab:,} ids"
        if tokenizer.lossy is not None:
            return Finding(about, "tokenizer", "ok", f"{sentence}; {tokenizer.lossy}")
        if whole and not _gives_back(tokenizer, Tokens.open(folder, "train")):
            sentence += ": text from these tokens, encoded and decoded again, is another"
            return Finding(about, "tokenizer", "problem", sentence, "prepare the data again")
    except GroundupError as error:
        return problem(about, "tokenizer", error)
    return Finding(about, "tokenizer", "ok", f"{sentence}; gives back the text it got")


def _gives_back(tokenizer: Tokenizer, tokens: Tokens) -> bool:
    ids: NDArray[np.int64] = tokens.read(0, min(PIECE, len(tokens)))
    text = tokenizer.decode(ids[ids != tokenizer.end_of_text].tolist()).rstrip("\N{REPLACEMENT CHARACTER}")
    return "\N{REPLACEMENT CHARACTER}" in text or tokenizer.decode(tokenizer.encode(text).tolist()) == text


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"


def _many(n: int, thing: str) -> str:
    return f"{n:,} {thing}" + ("" if n == 1 else "s")
