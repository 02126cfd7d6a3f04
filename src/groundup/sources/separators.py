"""Texts that hold several documents with a separator between them, such as `<|endoftext|>`."""

import re
from collections import Counter
from collections.abc import Iterator
from io import BufferedIOBase
from typing import NamedTuple

BLOCK_BYTES = 1 << 20
MAX_HELD_BYTES = 16 << 20  # a longer document is read again from the file, in blocks

LINE_ENDS = b"\r\n"

# What other programs write between documents.
_SPELLED_OUT = re.compile(
    r"<\|(?:end_?of_?(?:text|document|doc)|eo[tsd]|eo[tsd]_id|im_end|end|doc|sep)\|>|</s>|<eo[sdt]>|\[(?:EOS|SEP|EOT)\]",
    re.IGNORECASE,
)
SPELLED_OUT_BYTES = 1 << 16  # of a text are searched
MIN_SPELLED_OUT = 2  # in the beginning of a text, before a message


class Span(NamedTuple):
    """A document in a file: its first byte, the byte after its last, its first line, and its content if held."""

    start: int
    stop: int
    line: int
    data: bytes | None

    def blocks(self, file: BufferedIOBase, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
        """The document in blocks, read from the `file` that it is in, without line ends at both ends."""
        position = file.seek(self.start) if file.seekable() else 0
        while position < self.start and (block := file.read(min(self.start - position, block_bytes))):
            position += len(block)
        held, is_first = b"", True  # line ends, which may be the last
        while position < self.stop and (block := file.read(min(self.stop - position, block_bytes))):
            position += len(block)
            text = held + block
            text = text.lstrip(LINE_ENDS) if is_first else text
            is_first = is_first and not text
            bare = text.rstrip(LINE_ENDS)
            held = text[len(bare) :]
            if bare:
                yield bare


def spans(file: BufferedIOBase, separator: bytes) -> Iterator[Span]:
    """The documents between separators, without the line ends next to these; none for white space alone.

    At most `MAX_HELD_BYTES` of a document are held in memory.
    """
    held, start, line = b"", 0, 1  # of the current document, which `held` is the end of
    dropped = lines = 0  # bytes of it that are no longer held, and the line ends in them
    has_text = False  # in what was dropped
    while True:
        block = file.read(BLOCK_BYTES)
        first, search = 0, max(len(held) - len(separator) + 1, 0)  # the document's first byte in `held`
        held += block
        while (at := held.find(separator, search)) >= 0:
            if span := _span(held[first:at], start, line, dropped, lines, has_text):
                yield span
            line += lines + held.count(b"\n", first, at) + separator.count(b"\n")
            start += dropped + at - first + len(separator)
            first = search = at + len(separator)
            dropped, lines, has_text = 0, 0, False
        held = held[first:]
        if not block:
            break
        if len(held) > MAX_HELD_BYTES or dropped:
            keep = len(separator) - 1
            gone, held = held[: len(held) - keep], held[len(held) - keep :]
            dropped, lines, has_text = dropped + len(gone), lines + gone.count(b"\n"), has_text or bool(gone.strip())
    if span := _span(held, start, line, dropped, lines, has_text):
        yield span


def _span(held: bytes, start: int, line: int, dropped: int, lines: int, has_text: bool) -> Span | None:
    if dropped:
        return Span(start, start + dropped + len(held), line, None) if has_text or held.strip() else None
    if not held.strip():
        return None
    text = held.lstrip(LINE_ENDS)
    skipped = len(held) - len(text)
    return Span(start + skipped, start + len(held), line + held.count(b"\n", 0, skipped), text.rstrip(LINE_ENDS))


def spelled_out(start: str) -> str | None:
    """The separator that the beginning of a text spells out again and again, None if there is none."""
    counts = Counter(match[0] for match in _SPELLED_OUT.finditer(start))
    frequent = counts.most_common(1)
    return frequent[0][0] if frequent and frequent[0][1] >= MIN_SPELLED_OUT else None
