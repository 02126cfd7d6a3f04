"""Corpora of the Hugging Face hub, and those known by name."""

from collections.abc import Iterator

from groundup.data.document import Document


def is_named(source: str) -> bool:
    """Whether `source` names a corpus of the hub: `hf:…`, or a row of the table of known corpora."""
    return False


def hub_documents(source: str, column: str, skip: int = 0) -> Iterator[Document]:
    """The documents of a named corpus from the `skip`-th on (counted from 0), in a fixed order."""
    raise NotImplementedError
