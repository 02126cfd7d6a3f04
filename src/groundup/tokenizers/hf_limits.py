"""Limits of what a `tokenizer.json` may ask of the `tokenizers` library, so that a small file takes no memory or time.

The library itself has few: a chain of replacements can double a text fifty times. The limits leave several times what
published tokenizers need. Regular expressions may be slow: the library gives up a match after ten million attempts in
one place, and no cheap check tells a slow expression from those that published tokenizers have.
"""

import base64
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tokenizers import Regex, normalizers

TYPES: Mapping[str, frozenset[str]] = {
    "normalizer": frozenset(
        "Sequence BertNormalizer ByteLevel Lowercase NFC NFD NFKC NFKD Nmt Precompiled Prepend Replace Strip "
        "StripAccents".split()
    ),
    "pre_tokenizer": frozenset(
        "Sequence BertPreTokenizer ByteLevel CharDelimiterSplit Digits FixedLength Metaspace Punctuation Split "
        "UnicodeScripts Whitespace WhitespaceSplit".split()
    ),
    "decoder": frozenset(
        "Sequence BPEDecoder ByteFallback ByteLevel CTC Fuse Metaspace Replace Strip WordPiece".split()
    ),
}
"""The known types of each part of a file."""
LISTS = ("normalizers", "pretokenizers", "decoders")  # in a Sequence

MAX_COMPONENTS = 1000
MAX_GROWTH = 128  # bytes of a text after all replacements, per byte; published files: 50, for one rare character
MAX_REGEX_CHARS = 1 << 13  # of all regular expressions; published files: 1000
MAX_AFFIX_BYTES = 64  # added before or after a text, a word or a piece of one
MAX_PIECE_CHARS = 1 << 16
MAX_ADDED_CHARS = 1 << 20  # of all added tokens
MAX_WORD_CHARS = 1000  # whose pieces are all looked up
_LOOKS_AROUND = re.compile(r"[\^$]|\(\?<?[=!]|\\[bBAzZGKyY]")
AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix", "unk_token")


def check_limits(contents: Mapping[str, Any], pieces: Iterable[str]) -> None:
    """An exception where the parsed file, with `pieces` in its vocabulary, is beyond the limits or no tokenizer."""
    growth, regex_chars = 1.0, 0
    for part in TYPES:
        components = list(_components(part, contents.get(part)))
        regex_chars += sum(len(step["pattern"]["Regex"]) for step in components if _has_regex(step))
        if regex_chars > MAX_REGEX_CHARS:
            raise ValueError(f"its regular expressions have more than {MAX_REGEX_CHARS:,} characters")
        part_growth = math.prod(map(_growth, components))
        growth = part_growth if part == "decoder" else growth * part_growth
        if growth > MAX_GROWTH or len(components) > MAX_COMPONENTS:
            raise ValueError(f"its {part} makes a text more than {MAX_GROWTH} times as long, or has too many steps")
    _check_model(contents["model"])
    if max(map(len, pieces)) > MAX_PIECE_CHARS:
        raise ValueError(f"its vocab has a piece of more than {MAX_PIECE_CHARS:,} characters")
    if sum(len(token["content"]) for token in contents["added_tokens"]) > MAX_ADDED_CHARS:
        raise ValueError(f"its added tokens have more than {MAX_ADDED_CHARS:,} characters")


def _components(part: str, value: Any) -> Iterator[Mapping[str, Any]]:
    todo = [] if value is None else [value]
    while todo:
        component = todo.pop()
        if component["type"] not in TYPES[part]:
            raise ValueError(f"its {part} has an unknown type {component['type']!r:.40}")
        yield component
        todo += [inner for name in LISTS for inner in component.get(name) or []]


def _has_regex(component: Mapping[str, Any]) -> bool:
    return "Regex" in (component.get("pattern") or ())


def _growth(component: Mapping[str, Any]) -> float:
    """How many times as long a text can become, in bytes."""
    match component["type"]:
        case "Replace":
            pattern, added = component["pattern"], len(component["content"].encode())
            is_regex = _has_regex(component)
            width = not _can_be_empty(pattern["Regex"]) if is_regex else len(pattern["String"].encode())
            return max(1.0, added / width if width else 1.0 + added)
        case "ByteLevel":
            return 2.0
        case "Precompiled":
            return float(_longest_replacement(base64.b64decode(component["precompiled_charsmap"])))
        case "Prepend" if len(component["prepend"].encode()) > MAX_AFFIX_BYTES:
            raise ValueError(f"it puts more than {MAX_AFFIX_BYTES} bytes before each text")
    return 1.0


def _can_be_empty(regex: str) -> bool:
    """Whether a match may have no characters, so that a replacement adds text without taking any away."""
    # Without parts that look around, this does not depend on the text: here one that goes on with a NUL.
    before_nul = Regex(rf"\A(?:{regex})(?=\x00)")
    return bool(_LOOKS_AROUND.search(regex)) or normalizers.Replace(before_nul, "x").normalize_str("\0") != "\0"


def _longest_replacement(charsmap: bytes) -> int:
    """Bytes of the longest text by which SentencePiece's table replaces a character: after a trie, zero-terminated."""
    (trie_bytes,) = struct.unpack_from("<I", charsmap)
    return max(1, *map(len, charsmap[4 + trie_bytes :].split(b"\0")))


def _check_model(model: Mapping[str, Any]) -> None:
    for name in AFFIXES:
        if len((model.get(name) or "").encode()) > MAX_AFFIX_BYTES:
            raise ValueError(f"its {name} has more than {MAX_AFFIX_BYTES} bytes")
    if (model.get("max_input_chars_per_word") or 0) > MAX_WORD_CHARS:
        raise ValueError(f"its max_input_chars_per_word is above {MAX_WORD_CHARS}")
