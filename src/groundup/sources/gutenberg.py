"""The text between what Project Gutenberg puts before and after its books: a header, names of helpers, a licence."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

FINDING = "boilerplate of Project Gutenberg is left out; --as text keeps it"

MAX_HEADER_CHARS = 1 << 15  # before the first mark
MAX_MARK_CHARS = 2048  # with the names of helpers after it
MAX_SPACE_CHARS = 1 << 16  # before the second mark

# A mark takes up to three lines. The oldest books have another one, at the end of their small print.
_START = re.compile(
    r"^[ \t]*(?:\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG E(?:BOOK|TEXT)[^*]{0,300}\*\*\*"
    r"|\*END\*? ?THE SMALL PRINT!?[^\n]*)[ \t]*\r?$",
    re.IGNORECASE | re.MULTILINE,
)
_END = re.compile(
    r"^[ \t]*(?:\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG E(?:BOOK|TEXT)"
    r"|End of (?:the |this )?Project Gutenberg(?:'s|’s)? [^\n]{0,200})",
    re.IGNORECASE | re.MULTILINE,
)
_HELPERS = re.compile(
    r"\s*(?:(?:Produced|Prepared|E-?text prepared|Transcribed|This e-?text was \w+) (?:by|from)\b"
    r".{0,800}?\r?\n\s*\r?\n)?\s*",
    re.IGNORECASE | re.DOTALL,
)


def without_boilerplate(pieces: Iterable[str], found: Callable[[str, int], None]) -> Iterator[str]:
    """The text of a book of Project Gutenberg, or of several after one another; any other text as it is.

    `pieces` may end anywhere. What is left out is told to `found`, as a clause with a number.
    """
    pieces, first, length = iter(pieces), list[str](), 0
    for piece in pieces:
        first.append(piece)
        length += len(piece)
        if length >= MAX_HEADER_CHARS:
            break
    if not _START.search("".join(first), 0, MAX_HEADER_CHARS):
        return chain(first, pieces)
    found(FINDING, 1)
    return _books(chain(first, pieces))


def _books(pieces: Iterable[str]) -> Iterator[str]:
    """What stands between the marks."""
    inside, has_text, text = False, False, ""  # of the current book
    for piece in chain(pieces, [None]):
        text += piece or ""
        # A mark that begins further on may not be complete; white space there may stand before a mark.
        safe = len(text) if piece is None else max(len(text) - MAX_MARK_CHARS, 0)
        position = 0
        while (mark := (_END if inside else _START).search(text, position)) and mark.start() < safe:
            if inside and ((part := text[position : mark.start()].rstrip()) or has_text):
                yield part + "\n"
            inside, has_text, position = not inside, False, mark.end()
            if inside and (helpers := _HELPERS.match(text, position)):
                position = helpers.end()
        end = max(position, safe if piece is None else len(text[:safe].rstrip()), safe - MAX_SPACE_CHARS)
        if inside and position < end:
            yield text[position:end]
            has_text = True
        text = text[end if inside else max(position, safe) :]
