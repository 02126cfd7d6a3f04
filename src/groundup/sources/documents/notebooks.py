"""Notebooks: the text of Markdown and code cells, without outputs."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from groundup.sources.documents.json_stream import JsonStream
from groundup.sources.documents.options import ReadOptions, count, join


def read_notebook(stream: JsonStream, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """A notebook of format 3 or 4 as Markdown: text as it is, code in fences that name its language.

    Outputs and raw cells are left out and counted.
    """
    cells, language = list[tuple[str, str]](), ""
    for name in stream.members():
        if name == "cells":
            cells += _cells(stream, found)
        elif name == "worksheets":  # format 3
            for _ in stream.items():
                for inner in stream.members():
                    if inner == "cells":
                        cells += _cells(stream, found)
                    else:
                        stream.skip()
        elif name == "metadata":
            language = _language(stream.value())
        else:
            stream.skip()
    texts = (_fenced(text, language) if kind == "code" else text for kind, text in cells)
    yield join((part for text in texts for part in (text, "\n\n")), stream.name, options).rstrip("\n")


def _cells(stream: JsonStream, found: Counter[str]) -> Iterator[tuple[str, str]]:
    """Type and text of each cell that has any."""
    for _ in stream.items():
        cell = stream.value()
        if not isinstance(cell, dict):
            continue
        kind = cell.get("cell_type")
        outputs = cell.get("outputs")
        count(found, "outputs of cells are left out", len(outputs) if isinstance(outputs, list) else 0)
        text = _joined(cell.get("source", cell.get("input"))).strip("\n")
        if kind == "heading":  # format 3
            text = f"{'#' * min(max(_number(cell.get('level')), 1), 6)} {text}"
        if kind not in ("code", "markdown", "heading"):
            count(found, "raw cells are left out", bool(text))
        elif text.strip():
            yield kind, text


def _joined(source: Any) -> str:
    """The text of a cell, which is a string or a list of lines."""
    lines = source if isinstance(source, list) else [source]
    return "".join(line for line in lines if isinstance(line, str))


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 1


def _language(metadata: Any) -> str:
    """The language of the code, from the notebook's metadata."""
    for key, name in (("language_info", "name"), ("kernelspec", "language")):
        language = metadata.get(key) if isinstance(metadata, dict) else None
        if isinstance(language, dict) and isinstance(language.get(name), str):
            return language[name].strip().split("\n")[0]
    return ""


def _fenced(code: str, language: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`{3,}", code)), default=0))
    return f"{fence}{language}\n{code}\n{fence}"
