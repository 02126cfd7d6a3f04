"""GPT-2's tokenizer, from the vocabulary inside the package: no network, no cache folder.

OpenAI published the tokenizer as 50,000 merges in order of rank (`vocab.bpe`; see NOTICE for its licence). Ids
follow from that file alone: first the 256 bytes in the order of the table below, then one id for each merge.
"""

import hashlib
import lzma
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

import numpy as np
import tiktoken
from typing_extensions import override

from groundup.errors import TokenizerError
from groundup.tokenizers.base import END_OF_TEXT, Ids, Tokenizer, raise_surrogate_error

MERGES_FILE = "vocab/gpt2-vocab.bpe.xz"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"  # of the file after decompression

# GPT-2's pattern as tiktoken writes it: it matches the same pieces but never backtracks over a word.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# The pattern does backtrack over runs of white space, and the regex engine fails somewhere below a million characters
# of it. All but the last character of a run before a word are a piece of their own, so cutting there changes no id.
_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # the pattern's \s
_LONG_SPACE = re.compile(f"(?<![{_SPACE}])([{_SPACE}]{{100000,}})(?=[{_SPACE}][^{_SPACE}])")


class GPT2Tokenizer(Tokenizer):
    """GPT-2's byte-level BPE: 50,257 ids, of which 50256 ends a text. Encodes every text."""

    name = "gpt2"

    def __init__(self) -> None:
        pieces = gpt2_pieces()
        super().__init__([*pieces, END_OF_TEXT.encode()], end_of_text=len(pieces))
        self._encoding = _encoding()

    @override
    def encode(self, text: str) -> Ids:
        return encode_by_rank(self._encoding, text)

    @override
    def definition(self) -> Mapping[str, str]:
        return {"merges_sha256": MERGES_SHA256}


def encode_by_rank(encoding: tiktoken.Encoding, text: str) -> Ids:
    """The ids of `text`, shape (T,), by an encoding with GPT-2's pattern. Raises TokenizerError for half surrogates."""
    try:
        return encoding.encode_to_numpy(text, disallowed_special=())
    except UnicodeEncodeError as error:
        raise_surrogate_error(error)
    except ValueError:  # the regex engine failed
        return _encode_parts(encoding, text)


def _encode_parts(encoding: tiktoken.Encoding, text: str) -> Ids:
    parts = _LONG_SPACE.split(text)
    return np.concatenate([encoding.encode_to_numpy(part, disallowed_special=()) for part in parts])


def byte_characters() -> dict[str, int]:
    """The visible character by which GPT-2 writes each byte: character -> byte, in the order of the bytes' ids.

    Bytes that are visible in Latin-1 keep their character; the others get those from U+0100 on.
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


@cache
def gpt2_pieces() -> tuple[bytes, ...]:
    """The bytes of ids 0 to 50,255. Raises TokenizerError if the packaged file is damaged."""
    byte_of = byte_characters()
    merged = (bytes(byte_of[char] for char in left + right) for left, right in gpt2_merges())
    return (*(bytes([byte]) for byte in byte_of.values()), *merged)


def gpt2_merges() -> list[tuple[str, str]]:
    """The 50,000 merges, best first, in visible characters. Raises TokenizerError if the packaged file is damaged."""
    packed = resources.files("groundup.tokenizers").joinpath(MERGES_FILE).read_bytes()
    try:
        merges = lzma.decompress(packed)
    except lzma.LZMAError:
        merges = b""
    if hashlib.sha256(merges).hexdigest() != MERGES_SHA256:
        raise TokenizerError(f"GPT-2's vocabulary in the package ({MERGES_FILE}) is damaged; install groundup again")
    return merge_pairs(merges.decode("utf-8"))


def merge_pairs(merges: str) -> list[tuple[str, str]]:
    """The merges that a file of OpenAI's lists, best first. The first line names the format's version."""
    lines = merges.split("\n")[1:]  # splitlines would cut at characters that are pieces of GPT-1
    return [(left, right) for line in lines if line.strip() for left, right in [line.rstrip("\r").split(" ")]]


@cache
def _encoding() -> tiktoken.Encoding:
    ranks = {piece: rank for rank, piece in enumerate(gpt2_pieces())}
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)})
