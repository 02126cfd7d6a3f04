"""Loss of a tokenizer: properties of a text that encoding and decoding do not preserve, found by trying."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

from groundup.errors import TokenizerError
from groundup.tokenizers.base import Ids

# Every control character, every first and every later byte of UTF-8, all over Unicode.
_PLANES = [*range(0x800, 0xD800, 0x800), *range(0xE000, 0x110000, 0x1000)]  # surrogates left out
_RARE = "".join(map(chr, [*range(0x100), *range(0x100, 0x800, 0x40), *_PLANES]))

# Property that may get lost -> a text that shows it. None begins or ends with a space: that is tested separately.
LOSS_TESTS = {
    "upper case": "aB",
    "accents": "é",
    "how a character is composed": "a\N{COMBINING RING ABOVE} \N{ANGSTROM SIGN} \N{LATIN SMALL LIGATURE FI}",
    "runs of spaces": "a  b   c",
    "line ends and tabs": "a\nb\r\nc\td",
    "whether spaces stand around punctuation": "it's a-b , c.",
    "rare characters": _RARE,
}
OUTER_SPACE = "a space at its beginning or end"


def describe_loss(encode: Callable[[str], Ids], decode: Callable[[Iterable[int]], str]) -> str | None:
    """The properties of a text that encoding and decoding do not preserve, as a sentence; None if there are none."""

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

    lost = [name for name, text in LOSS_TESTS.items() if not survives(text)]
    if same("a", " a") or same("a", "a "):
        lost.append(OUTER_SPACE)
    return f"decoding does not give back {', '.join(lost)}" if lost else None


def known_characters(text: str, decoded: str) -> tuple[int, int]:
    """Number of characters in `text`, and how many of them are in `decoded`, in any order.

    Letters are compared without case and accents, spaces and control characters not at all: many tokenizers drop these
    on purpose.
    """
    expected, found = Counter(_plain(text)), Counter(_plain(decoded))
    return expected.total(), (expected & found).total()


def _plain(text: str) -> str:
    """The letters, digits and marks of a text, in their simplest form."""
    simple = unicodedata.normalize("NFKD", text).casefold()
    return "".join(char for char in simple if unicodedata.category(char)[0] not in "CMZ")
