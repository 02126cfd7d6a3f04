"""Mail: one message (.eml) or a mailbox of them (mbox). Each is a document: its subject, and its text as one reads it.

Of the forms of one text the plain one is read, or HTML where that is empty. Other headers and attachments are left out.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from email.errors import MessageError
from email.header import decode_header
from email.message import Message
from email.parser import BytesParser
from itertools import chain, pairwise
from typing import BinaryIO

from groundup.sources.documents.markup import ENCODINGS, html_text
from groundup.sources.documents.options import ReadOptions, count, read_bytes
from groundup.sources.text import REPLACED, REPLACEMENT

LINE_BYTES = 1 << 20  # read at a time, where a line is longer

MAX_FROM_BYTES = 300  # of a line that begins a message

# A line that begins a message of a mailbox ends in a date; where it does not, what follows must be one of the headers
# that programs write.
_DATED = re.compile(rb"From .*\b\d{1,2}:\d\d\b.*\b\d{4}\b|From .*\b\d{4}\b.*\b\d{1,2}:\d\d\b")
_HEADER = re.compile(rb"[!-9;-~]+:|>?From |\r?\n")
_MACHINE_HEADER = re.compile(rb"(received|return-path|delivered-to|message-id|mime-version|x-[\w-]+):", re.IGNORECASE)
_ESCAPED = re.compile(rb">+From ")

# The library takes a time that grows with the square of these.
MAX_SUBJECT_CHARS = 2000
_LONG_HEADER = re.compile(rb"^content-(?:type|disposition):(?:[^\n]|\n[ \t]){60000}", re.IGNORECASE | re.MULTILINE)

ATTACHMENTS = "attachments are left out"


def read_mbox(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """Each message of a mailbox. Those without text, or longer than `options.max_bytes`, are left out and counted."""
    for data in _messages(file, options.max_bytes, found):
        yield _document(data, name, options, found)


def read_eml(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """One message."""
    yield _document(read_bytes(file, name, options), name, options, found)


def _messages(file: BinaryIO, max_bytes: int, found: Counter[str]) -> Iterator[bytes]:
    """The messages of a mailbox, each without the line that begins it, and with `From ` in its text restored."""
    lines, length, is_start, after_blank = list[bytes](), 0, True, True
    pieces = iter(lambda: file.readline(LINE_BYTES), b"")
    for line, following in pairwise(chain(pieces, [b""])):
        if is_start and line.startswith(b"From "):
            if _begins_message(line, following, after_blank=after_blank):
                if lines:
                    yield b"".join(lines)
                lines, length = [], 0
                is_start, after_blank = line.endswith(b"\n"), False
                continue
            count(found, "lines begin with `From ` after a blank line and were read as text", after_blank)
        if is_start and _ESCAPED.match(line):
            line = line[1:]
        length += len(line)
        if length <= max_bytes:
            lines.append(line)
        elif lines:
            count(found, f"messages longer than {max_bytes:,} bytes are left out")
            lines = []
        after_blank = is_start and not line.strip()
        is_start = line.endswith(b"\n")
    if lines:
        yield b"".join(lines)


def _begins_message(line: bytes, following: bytes, *, after_blank: bool) -> bool:
    """Whether a line that starts with `From ` begins a message, and is not one of a text."""
    is_machine = bool(_MACHINE_HEADER.match(following))
    if _DATED.match(line[:MAX_FROM_BYTES]):
        return is_machine or (after_blank and (not following or bool(_HEADER.match(following))))
    return is_machine and after_blank


def _document(data: bytes, name: str, options: ReadOptions, found: Counter[str]) -> str:
    """The text of a message; empty, and counted, if there is none or it is damaged."""
    try:
        if _LONG_HEADER.search(data):
            raise ValueError("a header that is too long")
        text = _message_text(BytesParser().parsebytes(data), name, options, found)
    except (MessageError, ValueError, LookupError, AttributeError, TypeError, AssertionError, RecursionError):
        count(found, "damaged messages are left out")
        return ""
    count(found, "messages without text are left out", not text)
    return text


def _message_text(message: Message, name: str, options: ReadOptions, found: Counter[str]) -> str:
    """Subject and text of a message, empty if it has no text."""
    text = _body(message, name, options, found)
    subject = _subject(message)
    return f"{subject}\n\n{text}".lstrip("\n") if text else ""


def _body(part: Message, name: str, options: ReadOptions, found: Counter[str]) -> str:
    """The text of a part of a message and of the parts in it."""
    kind, inner = part.get_content_type(), part.get_payload()
    if part.get_content_disposition() == "attachment" or (part.get_filename() and not isinstance(inner, list)):
        count(found, ATTACHMENTS)
        return ""
    if isinstance(inner, list):
        parts = [each for each in inner if isinstance(each, Message)]
        if kind == "message/rfc822":
            return "\n\n".join(filter(None, (_message_text(each, name, options, found) for each in parts)))
        if kind == "multipart/alternative":  # forms of one text; the first with text is taken
            parts.sort(key=lambda each: each.get_content_type() != "text/plain")
            return next(filter(None, (_body(each, name, options, found) for each in parts)), "")
        return "\n\n".join(filter(None, (_body(each, name, options, found) for each in parts)))
    if kind not in ("text/plain", "text/html"):
        count(found, ATTACHMENTS)
        return ""
    payload = part.get_payload(decode=True)
    text = _decoded(payload if isinstance(payload, bytes) else b"", part.get_content_charset(), found)
    if kind == "text/html":
        return html_text(text, found).strip()
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if part.get_param("format") == "flowed":
        text = _unflowed(text, keeps_space=part.get_param("delsp") != "yes")
    return text.strip()


def _subject(message: Message) -> str:
    """The subject on one line."""
    subject = message.get("Subject", "")
    if isinstance(subject, str):
        subject = subject[:MAX_SUBJECT_CHARS]
    try:
        parts = decode_header(subject)
    except MessageError:
        parts = [(str(subject), None)]
    words = (_decoded(word, charset, Counter()) if isinstance(word, bytes) else word for word, charset in parts)
    return " ".join("".join(words).split())


def _decoded(data: bytes, charset: str | None, found: Counter[str]) -> str:
    """Bytes of a message as text. What is not in the encoding that it names is replaced, and counted."""
    try:
        encoding = ENCODINGS.get(codecs.lookup(charset or "ascii").name, "cp1252")
    except (LookupError, ValueError):
        charset, encoding = None, "cp1252"
    is_named = charset is not None and charset.lower() not in ("us-ascii", "ascii")
    for each in (encoding, "utf-8") if is_named else ("utf-8", encoding):
        with suppress(UnicodeDecodeError):
            return data.decode(each)
    text = data.decode(encoding, "replace")
    count(found, REPLACED, text.count(REPLACEMENT))
    return text


def _unflowed(text: str, *, keeps_space: bool) -> str:
    """A text of `format=flowed` (RFC 3676) with its lines joined to paragraphs."""
    lines, joins = list[str](), False
    for line in text.split("\n"):
        if joins and not line.startswith(">"):
            lines[-1] += line.removeprefix(" ")
        else:
            lines.append(line.removeprefix(" "))
        joins = line.endswith(" ") and not line.startswith(">") and line != "-- "
        if joins and not keeps_space:
            lines[-1] = lines[-1][:-1]
    return "\n".join(lines)
