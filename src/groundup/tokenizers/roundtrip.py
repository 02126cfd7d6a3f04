"""What a tokenizer does not give back, found by asking it."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

from groundup.errors import TokenizerError
from groundup.tokenizers.base import Ids

# Every control character, every first and every later byte of UTF-8, all over Unicode.
_PLANES = [*range(0x800, 0xD800, 0x800), *range(0xE000, 0x110000, 0x1000)]  # surrogates left out
_RARE = "".join(map(chr, [*range(0x100), *range(0x100, 0x800, 0x40), *_PLANES]))

# What may get lost -> a text that shows it. None begins or ends with a space: that is looked at apart.
PROBES = {
    "upper case": "aB",
    "accents": "é",
    "how a character is composed": "a\N{COMBINING RING ABOVE} \N{ANGSTROM SIGN} \N{LATIN SMALL LIGATURE FI}",
    "runs of spaces": "a  b   c",
    "line ends and tabs": "a\nb\r\nc\td",
    "whether spaces stand around punctuation": "it's a-b , c.",
    "rare characters": _RARE,
}
ENDS = "a space at its beginning or end"


def what_is_lost(encode: Callable[[str], Ids], decode: Callable[[Iterable[int]], str]) -> str | None:
    """Which properties of a text do not survive encoding and decoding, in a sentence; None where all do."""

    def survives(text: str) -> bool:
        try:
            return decode(encode(text)).strip(" ") == text
        except TokenizerError:
            return False

    def same(one: str, other: str) -> bool:
        try:
            return encode(one).tolist() == encode(other).tolist()
        except TokenizerError:
            return True

    lost = [name for name, text in PROBES.items() if not survives(text)]
    if same("a", " a") or same("a", "a "):
        lost.append(ENDS)
    return f"decoding does not give back {', '.join(lost)}" if lost else None


def known_characters(text: str, decoded: str) -> tuple[int, int]:
    """How many characters of `text` there are, and how many of them came back in `decoded`, in whatever order.

    Letters are compared without case and accents, spaces and control characters not at all: what a tokenizer drops of
    these on purpose does not count as lost.
    """
    there, back = Counter(_plain(text)), Counter(_plain(decoded))
    return there.total(), (there & back).total()


def _plain(text: str) -> str:
    """The letters, digits and marks of a text, in their simplest form."""
    simple = unicodedata.normalize("NFKD", text).casefold()
    return "".join(char for char in simple if unicodedata.category(char)[0] not in "CMZ")
