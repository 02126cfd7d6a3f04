"""The two tokenizers that can be understood at a glance: one id a byte, one id a character."""

import sys
import unicodedata
from collections.abc import Iterable, Mapping
from typing import NoReturn

import numpy as np

from groundup.errors import TokenizerError
from groundup.tokenizers.base import END_OF_TEXT, Ids, PieceTokenizer, refuse_surrogate


class ByteTokenizer(PieceTokenizer):
    """One id for each byte of the text's UTF-8, and 256 for the end of a text. Every text can be expressed."""

    name = "byte"

    def __init__(self) -> None:
        super().__init__([bytes([byte]) for byte in range(256)] + [END_OF_TEXT.encode()], end_of_text=256)

    def encode(self, text: str) -> Ids:
        """The bytes of `text` as ids."""
        try:
            return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.uint32)
        except UnicodeEncodeError as error:
            refuse_surrogate(error)

    def definition(self) -> Mapping[str, str]:
        """Nothing: there is only one byte tokenizer."""
        return {}


class CharTokenizer(PieceTokenizer):
    """One id for each character that the corpus holds, in code point order; the last id ends a text."""

    name = "char"

    def __init__(self, characters: str) -> None:
        if not characters or list(characters) != sorted(set(characters)):
            raise TokenizerError("the characters of a char tokenizer must be distinct and in code point order")
        super().__init__([char.encode() for char in characters] + [END_OF_TEXT.encode()], end_of_text=len(characters))
        self.characters = characters
        # Code point -> id. The table ends one past the highest character, so that whatever lies beyond can be
        # clipped to a place that is surely unknown.
        self._unknown = len(characters) + 1
        self._table = np.full(ord(characters[-1]) + 2, self._unknown, dtype=np.uint32)
        self._table[_code_points(characters)] = np.arange(len(characters))

    @classmethod
    def learn(cls, texts: Iterable[str]) -> "CharTokenizer":
        """The tokenizer of exactly the characters that occur in `texts`."""
        seen = np.zeros(sys.maxunicode + 1, dtype=np.bool_)
        for text in texts:
            seen[_code_points(text)] = True
        return cls("".join(map(chr, np.flatnonzero(seen))))

    def encode(self, text: str) -> Ids:
        """The characters of `text` as ids. Raises TokenizerError, naming the character, for one never seen."""
        ids: Ids = self._table[np.minimum(_code_points(text), len(self._table) - 1)]
        unknown = ids == self._unknown
        if unknown.any():
            self._refuse(text[int(unknown.argmax())])
        return ids

    def definition(self) -> Mapping[str, str]:
        """The characters, in the order of their ids."""
        return {"characters": self.characters}

    def _refuse(self, char: str) -> NoReturn:
        raise TokenizerError(
            f"{char!r} (U+{ord(char):04X} {unicodedata.name(char, 'unnamed')}) is not among the "
            f"{len(self.characters)} characters of this tokenizer; leave it out, or prepare the data again "
            "with text that contains it or with a tokenizer that knows every text (byte, gpt2 or bpe:SIZE)"
        )


def _code_points(text: str) -> Ids:
    try:
        return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    except UnicodeEncodeError as error:
        refuse_surrogate(error)
