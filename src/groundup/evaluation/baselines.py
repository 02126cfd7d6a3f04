"""Baselines: bits per byte of compressors and counting models on the same text, to judge a loss by.

Each compressor is measured on the validation text alone, and primed with the training text, as a language model is.
"""

import gzip
import lzma
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from groundup.data.shards import SplitName, Tokens
from groundup.errors import DataError
from groundup.tokenizers.base import Tokenizer

Counts = npt.NDArray[np.int64]

DEFLATE_WINDOW_BYTES = 32 * 1024  # deflate (RFC 1951) looks back no further
XZ_WINDOW_BYTES = 64 * 1024 * 1024  # the dictionary of xz's preset 9 (its manual page)
BYTE_VALUES = 256
CHUNK_BYTES = 1 << 20  # counted at a time; numpy needs 8 bytes of memory for each


@dataclass(frozen=True)
class Baseline:
    """A simple model, its bits per byte of the validation text, and exactly how they were computed."""

    name: str
    bits_per_byte: float
    how: str


def baselines(train: bytes, val: bytes) -> list[Baseline]:
    """Measure every baseline on `val`, primed with or fitted to `train` where its description says so.

    Memory beyond the texts is bounded: xz takes up to 674 MiB (its manual page). It reads up to 64 MiB twice, which
    takes most of the time. Raises DataError if there is no validation text.
    """
    if not val:
        raise DataError("the validation text is empty, so there is nothing to measure: hold out at least one byte")
    return [*_compressors(train, val), *_counting_models(train, val)]


def split_text(data: Path, split: SplitName, tokenizer: Tokenizer, limit: int, step: int = 1_000_000) -> bytes:
    """Decoded text of a prepared split, documents joined: the last `limit` bytes or a little more."""
    tokens, pieces, size = Tokens.open(data, split), [], 0
    for stop in range(len(tokens), 0, -step):
        start = max(0, stop - step)
        ids = tokens.read(start, stop - start)
        pieces.append(tokenizer.decode_bytes(ids[ids != tokenizer.end_of_text].tolist()))
        size += len(pieces[-1])
        if size >= limit:
            break
    return b"".join(reversed(pieces))


def _compressors(train: bytes, val: bytes) -> list[Baseline]:
    seen = train[max(0, len(train) + min(0, len(val) - XZ_WINDOW_BYTES)) :]
    window = f"{XZ_WINDOW_BYTES >> 20} MiB"
    cut = "" if len(seen) == len(train) else f" (its last {len(seen):,} bytes: both fit into xz's window of {window})"
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS, zdict=train[-DEFLATE_WINDOW_BYTES:])  # minus: no header
    sizes = {
        "gzip -9": (
            len(gzip.compress(val, compresslevel=9, mtime=0)),
            "Size of the .gz file of the validation text alone, header included (zlib, level 9, no file name stored).",
        ),
        "xz -9": (
            _xz_size(val),
            "Size of the .xz file of the validation text alone, header included (liblzma, preset 9).",
        ),
        "gzip -9, primed": (
            len(deflate.compress(val)) + len(deflate.flush()),
            f"Size of the raw deflate stream (zlib, level 9) of the validation text, with the last "
            f"{DEFLATE_WINDOW_BYTES:,} bytes of the training text, as far as deflate looks back, as its dictionary.",
        ),
        "xz -9, primed": (
            _xz_size(seen, val) - _xz_size(seen),
            f"Size of the .xz file (liblzma, preset 9) of the training text{cut} followed by the validation text, "
            "minus the size of the .xz file of the training text alone.",
        ),
    }
    return [Baseline(name, 8 * size / len(val), how) for name, (size, how) in sizes.items()]


def _xz_size(*texts: bytes) -> int:
    xz = lzma.LZMACompressor(preset=9)
    return sum(len(xz.compress(text)) for text in texts) + len(xz.flush())


def _counting_models(train: bytes, val: bytes) -> list[Baseline]:
    train_pairs, val_pairs = _count_pairs(train), _count_pairs(val)  # (256, 256): previous byte, byte
    unigram = _bits(_count_bytes(train, train_pairs))  # (256,)
    bigram = _bits(train_pairs)  # (256, 256)
    unigram_bits = _count_bytes(val, val_pairs) @ unigram
    bigram_bits = unigram[val[0]] + (val_pairs * bigram).sum()
    how = "Each byte is predicted by how often it occurs in the training text, every count increased by one."
    how_pairs = (
        "Each byte is predicted by how often it follows the byte before it in the training text, every count "
        "increased by one; the first byte of the validation text is predicted by the unigram model."
    )
    return [
        Baseline("unigram", float(unigram_bits) / len(val), how),
        Baseline("bigram", float(bigram_bits) / len(val), how_pairs),
    ]


def _count_pairs(text: bytes) -> Counts:
    """(256, 256) counts of adjacent bytes; the row is the previous byte."""
    codes = np.frombuffer(text, dtype=np.uint8)
    counts = np.zeros(BYTE_VALUES * BYTE_VALUES, dtype=np.int64)
    for start in range(0, len(codes) - 1, CHUNK_BYTES):
        piece = codes[start : start + CHUNK_BYTES + 1].astype(np.int64)  # one more: the pair across the border
        counts += np.bincount(piece[:-1] * BYTE_VALUES + piece[1:], minlength=len(counts))
    return counts.reshape(BYTE_VALUES, BYTE_VALUES)


def _count_bytes(text: bytes, pairs: Counts) -> Counts:
    """(256,) counts of bytes. Every byte ends one pair, except the first of the text."""
    counts: Counts = pairs.sum(axis=0)
    if text:
        counts[text[0]] += 1
    return counts


def _bits(counts: Counts) -> npt.NDArray[np.float64]:
    """Bits per outcome, add-one smoothed along the last axis."""
    total = counts.sum(axis=-1, keepdims=True) + BYTE_VALUES
    return np.log2(total) - np.log2(counts + 1)
