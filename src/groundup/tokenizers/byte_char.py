"""The two simplest tokenizers: one id per byte, one id per character."""

import sys
import unicodedata
from collections.abc import Iterable, Mapping

import numpy as np
from typing_extensions import override

from groundup.errors import TokenizerError
from groundup.tokenizers.base import END_OF_TEXT, Ids, Tokenizer, raise_surrogate_error


class ByteTokenizer(Tokenizer):
    """One id for each byte of the text's UTF-8, and 256 for the end of a text. Encodes every text."""

    name = "byte"

    def __init__(self) -> None:
        super().__init__([bytes([byte]) for byte in range(256)] + [END_OF_TEXT.encode()], end_of_text=256)

    @override
    def encode(self, text: str) -> Ids:
        try:
            return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.uint32)
        except UnicodeEncodeError as error:
            raise_surrogate_error(error)

    @override
    def definition(self) -> Mapping[str, str]:
        return {}


class CharTokenizer(Tokenizer):
    """One id for each character of the corpus, in code point order; the last id ends a text.

    `encode` raises TokenizerError, naming the character, for one that is not in the corpus.
    """

    name = "char"

    def __init__(self, characters: str) -> None:
        if not characters or list(characters) != sorted(set(characters)):
            raise TokenizerError("the characters of a char tokenizer must be distinct and in code point order")
        super().__init__([char.encode() for char in characters] + [END_OF_TEXT.encode()], end_of_text=len(characters))
        self.characters = characters
        # Code point -> id. The table ends one past the highest character, so that higher ones can be clipped to an
        # entry that is unknown.
        self._unknown = len(characters) + 1
        self._table = np.full(ord(characters[-1]) + 2, self._unknown, dtype=np.uint32)
        self._table[_code_points(characters)] = np.arange(len(characters))

    @classmethod
    def train(cls, texts: Iterable[str]) -> "CharTokenizer":
        """The tokenizer of the characters that occur in `texts`."""
        seen = np.zeros(sys.maxunicode + 1, dtype=np.bool_)
        for text in texts:
            seen[_code_points(text)] = True
        return cls("".join(map(chr, np.flatnonzero(seen))))

    @override
    def encode(self, text: str) -> Ids:
        ids: Ids = self._table[np.minimum(_code_points(text), len(self._table) - 1)]
        unknown = ids == self._unknown
        if unknown.any():
            char = text[int(unknown.argmax())]
            raise TokenizerError(
                f"{char!r} (U+{ord(char):04X} {unicodedata.name(char, 'unnamed')}) is not among the "
                f"{len(self.characters)} characters of this tokenizer; leave it out, or prepare the data again "
                "with text that contains it or with a tokenizer that encodes every text (byte, gpt2 or bpe:SIZE)"
            )
        return ids

    @override
    def definition(self) -> Mapping[str, str]:
        return {"characters": self.characters}


def _code_points(text: str) -> Ids:
    try:
        return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    except UnicodeEncodeError as error:
        raise_surrogate_error(error)
