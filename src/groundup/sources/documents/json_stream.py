"""A JSON document read in pieces: arrays and objects are entered, and only one value at a time is in memory."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from groundup.errors import DataError
from groundup.sources.text import MAX_ROW_BYTES, MAX_ROW_VALUES, has_too_many_values

MAX_SKIPPED_DEPTH = 1000  # arrays and objects in each other; about what the library parses
MAX_CUT_CHARS = 1 << 10  # at the end of a piece, where an error may only mean that the piece ends; before, it is one

_SPACE = re.compile(r"[ \t\r\n]*")
# What is looked at in a value that is skipped: an array without others and texts in it, another bracket, or a text.
_SKIPPED = re.compile(r'\[[^\[\]{}"]*+\]|[\[\]{}]|"(?:[^"\\]++|\\.)*+("?)', re.DOTALL)
_CLOSING = {"[": "]", "{": "}"}
_BRACKETS = frozenset("[]{}")
_NUMBER_END = re.compile(r"[-+.eE\d]*")  # of a number that the end of a piece cuts
_DECODER = json.JSONDecoder()


class JsonStream:
    """Cursor over the text of one JSON document. Its errors are DataError with the line.

    At each step of `items` and `members` the cursor stands before a value, which the caller reads with `value`, `skip`
    or by entering it in turn.
    """

    def __init__(self, pieces: Iterable[str], name: str) -> None:
        self.name = name
        self._pieces, self._is_end = iter(pieces), False
        self._text, self._at = "", 0
        self._line, self._counted = 1, 0  # the line at position `_counted`

    @property
    def label(self) -> str:
        """Name and line, for messages."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return f"{self.name}, line {self._line}"

    def peek(self) -> str:
        """The first character of the next value or sign; empty at the end."""
        while True:
            if match := _SPACE.match(self._text, self._at):
                self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill(1):
                return ""

    def value(self) -> Any:
        """Parse the next value as a whole; at most about `MAX_ROW_BYTES` characters and `MAX_ROW_VALUES`."""
        self.peek()
        while True:
            held = len(self._text) - self._at
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - MAX_CUT_CHARS
                if is_cut and held > MAX_ROW_BYTES:
                    raise DataError(
                        f"{self.label}: a value of more than {MAX_ROW_BYTES:,} characters; split it"
                    ) from None
                if is_cut and has_too_many_values(self._text[self._at :].encode("utf-8", "surrogatepass")):
                    raise DataError(
                        f"{self.label}: more than {MAX_ROW_VALUES:,} values in a row; split it, or leave out what is "
                        "not its text"
                    ) from None
                if not (is_cut and self._fill(min(held, MAX_ROW_BYTES - held + 1))):
                    self._at = min(error.pos, len(self._text))
                    raise self.error(error.msg) from None
            except (ValueError, RecursionError) as error:
                raise self.error(str(error)) from None
            else:
                is_number = isinstance(value, int | float) and _NUMBER_END.fullmatch(self._text, end)
                if not (is_number and self._fill(held)):
                    self._at = end
                    return value

    def items(self) -> Iterator[None]:
        """Enter an array: one step for each element."""
        self._take("[")
        if self.peek() != "]":
            yield
            while self.peek() == ",":
                self._at += 1
                yield
        self._take("]")

    def members(self) -> Iterator[str]:
        """Enter an object: the name of each member."""
        self._take("{")
        while self.peek() == '"':
            name = self.value()
            self._take(":")
            yield name
            if self.peek() != ",":
                break
            self._at += 1
        self._take("}")

    def skip(self) -> None:
        """Read over the next value, of any length. Of arrays and objects only texts and brackets are looked at."""
        if self.peek() in _CLOSING:
            self._at += 1
            self._skip_to(_CLOSING[self._text[self._at - 1]])
        else:
            self.value()

    def skip_items(self) -> None:
        """Read over the rest of the array that `items` entered, and its end."""
        self._skip_to("]")

    def _skip_to(self, end: str) -> None:
        """Move the cursor behind the bracket `end`, which closes what was entered last."""
        closing = [end]
        while True:
            at = len(self._text)  # of what is not complete
            for match in _SKIPPED.finditer(self._text, self._at):
                sign = match[0]
                if sign in _CLOSING:
                    closing.append(_CLOSING[sign])
                    if len(closing) > MAX_SKIPPED_DEPTH:
                        self._at = match.start()
                        raise self.error(f"nested more than {MAX_SKIPPED_DEPTH:,} deep")
                elif sign in _BRACKETS:
                    self._at = match.end()
                    if sign != closing.pop():
                        raise self.error(f"Unexpected '{sign}'")
                    if not closing:
                        return
                elif match[1] == "":  # a text that the end of the piece cuts
                    at = match.start()
                    break
            self._at, held = at, len(self._text) - at
            if held > MAX_ROW_BYTES:
                raise DataError(f"{self.label}: a text of more than {MAX_ROW_BYTES:,} characters; split it")
            if not self._fill(max(held, 1)):
                raise self.error(f"Expecting '{closing[-1]}'")

    def finish(self) -> None:
        """Raise DataError unless the document ends here."""
        if self.peek():
            raise DataError(f"{self.label}: JSON that goes on after its end; write one object on each line")

    def error(self, reason: str) -> DataError:
        """The error of what stands at the cursor."""
        return DataError(f"{self.label}: not valid JSON ({reason}); fix it, or get a complete copy of the file")

    def _take(self, sign: str) -> None:
        if self.peek() != sign:
            raise self.error(f"Expecting '{sign}'")
        self._at += 1

    def _fill(self, least: int) -> bool:
        """Drop what was read, and get at least so many further characters; False if there are none."""
        self._line += self._text.count("\n", self._counted, self._at)
        held, got = [self._text[self._at :]], 0
        while got < least and not self._is_end:
            piece = next(self._pieces, None)
            self._is_end = piece is None
            held.append(piece or "")
            got += len(piece or "")
        self._text, self._at, self._counted = "".join(held), 0, 0
        return got > 0
