"""XML read element by element, without what makes it dangerous: entities of its own, other files, endless nesting."""

from collections.abc import Mapping
from typing import Protocol
from xml.parsers import expat

from groundup.errors import DataError

MAX_XML_DEPTH = 1000
CHUNK_BYTES = 1 << 16


class XmlHandler(Protocol):
    """What is called for each element and text of a document."""

    def start(self, tag: str, attributes: dict[str, str]) -> bool:
        """An element begins; False leaves it out, with all that is in it."""

    def end(self, tag: str) -> None:
        """An element ends that was not left out."""

    def data(self, text: str) -> None:
        """Text, of which adjacent pieces are joined."""


def parse_xml(data: bytes, name: str, namespaces: Mapping[str, str], handler: XmlHandler) -> None:
    """Call `handler` for all elements of `data`, whose names get the prefixes that `namespaces` gives, or else none.

    Raises DataError for what is not well-formed, declares entities, or is nested too deeply.
    """
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    names: dict[str, str] = {}  # as expat gives them -> with prefix
    depth, left_out = 0, 0  # depth at which an element is left out

    def named(full: str) -> str:
        if (short := names.get(full)) is None:
            uri, _, local = full.rpartition(" ")
            prefix = namespaces.get(uri)
            short = names[full] = f"{prefix}:{local}" if prefix else local
        return short

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, left_out
        depth += 1
        if depth > MAX_XML_DEPTH:
            raise DataError(f"{name}: elements nested more than {MAX_XML_DEPTH:,} deep, so it is not read")
        if not left_out and not handler.start(named(tag), {named(key): value for key, value in attributes.items()}):
            left_out = depth

    def end(tag: str) -> None:
        nonlocal depth, left_out
        if not left_out:
            handler.end(named(tag))
        elif left_out == depth:
            left_out = 0
        depth -= 1

    def text(piece: str) -> None:
        if not left_out:
            handler.data(piece)

    def refuse_entity(*_: object) -> None:
        raise DataError(f"{name}: declares entities of its own, which are not expanded; save it again without them")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.EntityDeclHandler = refuse_entity
    try:
        for at in range(0, len(data), CHUNK_BYTES):
            parser.Parse(data[at : at + CHUNK_BYTES])
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise DataError(
            f"{name}: not well-formed XML (line {error.lineno}: {expat.ErrorString(error.code)}); get a complete copy"
        ) from None


class _Collected:
    def __init__(self) -> None:
        self.elements: list[tuple[str, dict[str, str]]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> bool:
        self.elements.append((tag, attributes))
        return True

    def end(self, tag: str) -> None:
        pass

    def data(self, text: str) -> None:
        pass


def elements(data: bytes, name: str) -> list[tuple[str, dict[str, str]]]:
    """Names, without prefix, and attributes of all elements in document order."""
    collected = _Collected()
    parse_xml(data, name, {}, collected)
    return collected.elements
