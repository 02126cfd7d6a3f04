"""Cleaning of text before it becomes tokens, as some recipes of the first GPTs did it.

    lowercase      every character in lower case, as Python's `str.lower` has it
    digits         decimal digits of all scripts are dropped (Unicode category Nd)
    punctuation    punctuation of all scripts is dropped (Unicode categories P…), and ASCII's $+<=>^`|~

Dropped characters are not replaced: `Don't!` becomes `Dont`, `1,024` nothing at all.
"""

import string
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache

from groundup.errors import UsageError
from groundup.sources.text import Document, rechunk

STEPS = ("lowercase", "digits", "punctuation")


def parse_cleaning_steps(steps: str | Iterable[str]) -> tuple[str, ...]:
    """Parse steps (`lowercase,digits`, or a list) into the order of the table above. Raises UsageError."""
    names = [name.strip() for name in (steps.split(",") if isinstance(steps, str) else steps)]
    for name in names:
        if name and name not in STEPS:
            raise UsageError(f"clean: {name!r} is not one of {', '.join(STEPS)}; name some, with commas between them")
    return tuple(step for step in STEPS if step in names)


def clean_document(document: Document, steps: tuple[str, ...]) -> Document:
    """Apply `steps` to a document."""
    if not steps:
        return document
    # A good position to cut may have lost the visible character before it, so cut again.
    return Document(
        document.source, document.offset, lambda: rechunk(clean_text(chunk, steps) for chunk in document.chunks())
    )


def clean_text(text: str, steps: tuple[str, ...]) -> str:
    """Apply `steps` to a text."""
    lowered = text.lower() if "lowercase" in steps else text
    return lowered.translate(_dropped(steps)) if steps != ("lowercase",) else lowered


@cache
def _dropped(steps: tuple[str, ...]) -> Mapping[int, None]:
    """A translation table that deletes code points."""
    categories = tuple(c for step, c in (("digits", "Nd"), ("punctuation", "P")) if step in steps)
    points = {
        p for p in range(sys.maxunicode + 1) if categories and unicodedata.category(chr(p)).startswith(categories)
    }
    return dict.fromkeys(points | set(map(ord, string.punctuation if "punctuation" in steps else "")))
