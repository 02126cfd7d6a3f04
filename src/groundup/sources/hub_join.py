"""From the rows of a table to documents."""

import re
from collections.abc import Callable, Iterator
from itertools import chain, islice, pairwise
from typing import TypeAlias

from groundup.sources.catalog import ARTICLES
from groundup.sources.document import Document
from groundup.sources.text import cut_text

Row: TypeAlias = tuple[str, int, str]  # the file, the row's number in it, its text

_TITLE = re.compile(r" = [^=](.*[^=])? = \n?")


def join(joined: int | str, rows: Callable[[int], Iterator[Row]], skip: int) -> Iterator[Document]:
    """Documents from the `skip`-th on: of `joined` rows each, one to a line, or of whole ARTICLES.

    `rows(n)` are the rows from the n-th on. One row that holds no text is a document without chunks.
    """
    if joined == ARTICLES:
        # Where the n-th article begins, only those before it can tell.
        return islice(_articles(rows(0)), skip, None)
    return _runs(rows(skip * int(joined)), int(joined))


def _runs(rows: Iterator[Row], length: int) -> Iterator[Document]:
    for name, number, text in rows:
        following = (line for _, _, line in islice(rows, length - 1))
        yield _document(name, number, "\n".join(chain([text], following)))


def _articles(rows: Iterator[Row]) -> Iterator[Document]:
    """WikiText's lines, an article each. It begins with a line ` = Title = ` that stands between empty ones.

    The hub's copy has an empty row where the original has an empty line; here it is a line end again.
    """
    held: list[Row] = []
    before = ""
    for (name, number, text), (_, _, after) in pairwise(chain(rows, [("", 0, "")])):
        begins = _TITLE.fullmatch(text) and not before.strip() and not after.strip()
        if begins and any(line.strip() for _, _, line in held):
            yield _article(held)
            held = []
        held.append((name, number, text or "\n"))
        before = text
    if held:
        yield _article(held)


def _article(lines: list[Row]) -> Document:
    name, number, _ = lines[0]
    return _document(name, number, "".join(line for _, _, line in lines))


def _document(name: str, number: int, text: str) -> Document:
    return Document(name, number, lambda: cut_text(text))
