"""What simple models need for the same text: the numbers that tell whether a loss is good.

Compressors and language models are measured alike, in bits for a byte of the validation text. Each compressor stands
here twice: alone, knowing nothing of the training text, and primed with it, as a language model is.
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

DEFLATE_WINDOW = 32 * 1024  # bytes; how far deflate (RFC 1951) can look back
XZ_WINDOW = 64 * 1024 * 1024  # bytes; the dictionary of xz's preset 9 (its manual page)
OUTCOMES = 256  # values of a byte
CHUNK = 1 << 20  # bytes counted at a time; numpy needs 8 bytes of memory for each


@dataclass(frozen=True)
class Baseline:
    """A simple model, the bits it needs for a byte of the validation text, and exactly how they were counted."""

    name: str
    bits_per_byte: float
    how: str


def baselines(train: bytes, val: bytes) -> list[Baseline]:
    """Measure every simple model on `val`, primed with or fitted to `train` where its description says so.

    Memory beyond the texts stays bounded, however long they are: xz takes up to 674 MiB (its manual page), and reads
    up to 64 MiB twice, which is most of the time this takes. Raises DataError if there is no validation text.
    """
    if not val:
        raise DataError("the validation text is empty, so there is nothing to measure: hold out at least one byte")
    return [*_compressors(train, val), *_counting_models(train, val)]


def split_text(data: Path, split: SplitName, tokenizer: Tokenizer, limit: int, step: int = 1_000_000) -> bytes:
    """The text of a prepared split again, documents joined: the last `limit` bytes or a little more."""
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
    n = len(val)
    room = max(0, XZ_WINDOW - n)
    seen = train[max(0, len(train) - room) :]
    window = f"{XZ_WINDOW >> 20} MiB"
    cut = "" if len(seen) == len(train) else f" (its last {len(seen):,} bytes: both fit into xz's window of {window})"
    return [
        Baseline(
            "gzip -9",
            8 * len(gzip.compress(val, compresslevel=9, mtime=0)) / n,
            "Size of the .gz file of the validation text alone, header included (zlib, level 9, no file name stored).",
        ),
        Baseline(
            "xz -9",
            8 * _xz_size(val) / n,
            "Size of the .xz file of the validation text alone, header included (liblzma, preset 9).",
        ),
        Baseline(
            "gzip -9, primed",
            8 * _primed_deflate_size(train, val) / n,
            f"Size of the raw deflate stream (zlib, level 9) of the validation text, with the last {DEFLATE_WINDOW:,} "
            "bytes of the training text, all that deflate can look back on, as its dictionary.",
        ),
        Baseline(
            "xz -9, primed",
            8 * (_xz_size(seen, val) - _xz_size(seen)) / n,
            f"Size of the .xz file (liblzma, preset 9) of the training text{cut} followed by the validation text, "
            "less the size of the .xz file of the former alone.",
        ),
    ]


def _xz_size(*texts: bytes) -> int:
    xz = lzma.LZMACompressor(preset=9)
    return sum(len(xz.compress(text)) for text in texts) + len(xz.flush())


def _primed_deflate_size(train: bytes, val: bytes) -> int:
    deflate = zlib.compressobj(level=9, wbits=-zlib.MAX_WBITS, zdict=train[-DEFLATE_WINDOW:])  # negative: no header
    return len(deflate.compress(val)) + len(deflate.flush())


def _counting_models(train: bytes, val: bytes) -> list[Baseline]:
    train_pairs, val_pairs = _count_pairs(train), _count_pairs(val)  # (256, 256): previous byte, byte
    unigram = _bits(_count_bytes(train, train_pairs))  # (256,)
    bigram = _bits(train_pairs)  # (256, 256)
    unigram_bits = _count_bytes(val, val_pairs) @ unigram
    bigram_bits = unigram[val[0]] + (val_pairs * bigram).sum()
    return [
        Baseline(
            "unigram",
            float(unigram_bits) / len(val),
            "Each byte is predicted by how often it occurs in the training text, every count increased by one.",
        ),
        Baseline(
            "bigram",
            float(bigram_bits) / len(val),
            "Each byte is predicted by how often it follows the byte before it in the training text, every count "
            "increased by one; the first byte of the validation text is predicted by the unigram model.",
        ),
    ]


def _count_pairs(text: bytes) -> Counts:
    """How often each byte follows each other one: (256, 256), rows the byte before."""
    codes = np.frombuffer(text, dtype=np.uint8)
    counts = np.zeros(OUTCOMES * OUTCOMES, dtype=np.int64)
    for start in range(0, len(codes) - 1, CHUNK):
        piece = codes[start : start + CHUNK + 1].astype(np.int64)  # one more: the pair across the border
        counts += np.bincount(piece[:-1] * OUTCOMES + piece[1:], minlength=len(counts))
    return counts.reshape(OUTCOMES, OUTCOMES)


def _count_bytes(text: bytes, pairs: Counts) -> Counts:
    """How often each byte occurs: (256,). Every byte ends one pair, except the first of the text."""
    counts: Counts = pairs.sum(axis=0)
    if text:
        counts[text[0]] += 1
    return counts


def _bits(counts: Counts) -> npt.NDArray[np.float64]:
    """The bits that each outcome costs, add-one smoothed along the last axis."""
    total = counts.sum(axis=-1, keepdims=True) + OUTCOMES
    cost: npt.NDArray[np.float64] = np.log2(total) - np.log2(counts + 1)
    return cost
