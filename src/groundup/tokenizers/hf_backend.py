"""Base class of tokenizers that run on the `tokenizers` library, and tests of what they do not preserve of a text."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from typing_extensions import override

import tokenizers
from groundup.errors import TokenizerError
from groundup.tokenizers.base import Ids, Tokenizer, raise_surrogate_error

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


class HFTokenizer(Tokenizer):
    """A tokenizer with the ids of a `tokenizers` engine, without ids added before or after the text.

    `files`: name -> contents of what a saved tokenizer is read from.
    """

    def __init__(
        self, engine: tokenizers.Tokenizer, pieces: Sequence[bytes], end_of_text: int, files: Mapping[str, str]
    ) -> None:
        super().__init__(pieces, end_of_text)
        engine.encode_special_tokens = True  # text that spells a special token is plain text
        self._engine, self._files = engine, files

    @override
    def encode(self, text: str) -> Ids:
        return encode_with(self._engine, text)

    @cached_property
    @override
    def lossy(self) -> str | None:
        lost = [name for name, text in LOSS_TESTS.items() if not self._preserves(text)]
        if self._same_ids("a", " a") or self._same_ids("a", "a "):
            lost.append("a space at its beginning or end")
        return f"decoding does not give back {', '.join(lost)}" if lost else None

    def _preserves(self, text: str) -> bool:
        try:
            return self.decode(self.encode(text)).strip(" ") == text
        except TokenizerError:
            return False

    def _same_ids(self, text: str, other: str) -> bool:
        try:
            return self.encode(text).tolist() == self.encode(other).tolist()
        except TokenizerError:
            return True

    @override
    def save(self, folder: Path) -> None:
        super().save(folder)
        for name, contents in self._files.items():
            (folder / name).write_text(contents, encoding="utf-8")


def encode_with(engine: tokenizers.Tokenizer, text: str) -> Ids:
    """The ids of `text`, shape (T,). Raises TokenizerError where it is not Unicode, or the engine cannot express it."""
    try:
        text.encode("utf-8")  # the library's own message would be about a type error
    except UnicodeEncodeError as error:
        raise_surrogate_error(error)
    with library_errors("this tokenizer cannot express the text"):
        # The fast form of encoding, which keeps no offsets, exists for batches only.
        [encoded] = engine.encode_batch_fast([text], add_special_tokens=False)
    return np.array(encoded.ids, dtype=np.uint32)


@contextmanager
def library_errors(problem: str) -> Iterator[None]:
    """Turn any exception of the library into a TokenizerError that begins with `problem`."""
    try:
        yield
    except TokenizerError:
        raise
    except BaseException as error:  # the library raises bare Exception, its Rust code a class that cannot be imported
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{problem} ({' '.join(str(error).split())}); use another tokenizer") from None


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
