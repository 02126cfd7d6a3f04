"""Encodings of text other than UTF-8: the one that a user names, and the one that a file looks like.

A guess is offered in a message and never applied. It is made from the complete file: bytes of one line cannot tell a
text of another encoding from one of UTF-8 with a damaged line.
"""

import codecs
import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, TypeAlias

from typing_extensions import override

from groundup.errors import DataError, UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Errors: TypeAlias = Literal["strict", "replace"]

# Encodings that a guess is made among, the likelier first: of a short text many are the same.
COMMON = (
    *("cp1252", "cp1250", "cp1251", "koi8_r", "cp932", "euc_jp", "gb18030", "big5", "euc_kr", "cp1253", "cp1254"),
    *(
        "cp1255",
        "cp1256",
        "cp1257",
        "cp1258",
        "cp874",
        "iso8859_2",
        "iso8859_5",
        "cp866",
        "cp850",
        "cp437",
        "mac_roman",
    ),
)

# Bytes of lines that are not ASCII, from all over a file, which a guess is made from.
SAMPLE_BYTES = 128 << 10
LINE_BYTES = 1 << 16  # a longer line is judged in parts of this size

# Words that are not ASCII, with some before and after them.
_NOT_ASCII = re.compile(rb"[ -~]{0,60}[\x80-\xff][^ \r\n]{0,2000} ?[ -~]{0,60}")

# Codecs that are no encodings of texts that people own, or that take a time that grows with the square of the text.
_NO_TEXT = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"}

MARKS = {  # UTF-32 first, as its mark begins with that of UTF-16
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


def parse_encoding(name: str | None) -> str | None:
    """The codec that a user names; None for UTF-8, which is read without one. Raises UsageError for no such."""
    if name is None:
        return None
    try:
        info = codecs.lookup(name)
        "".encode(name)  # LookupError for rot13 and others that are not of text
        known = info.name.replace("-", "_") not in _NO_TEXT
    except (LookupError, ValueError):
        known = False
    if not known:
        raise UsageError(
            f"encoding: {name!r} is no encoding of text that is known here; cp1252, latin-1, cp1251, shift_jis, "
            "gb18030 and utf-16 are some"
        )
    return None if info.name in ("utf-8", "utf-8-sig") else info.name


class Recoded(io.RawIOBase):
    """The bytes of a file in another encoding, as UTF-8 without a byte order mark.

    Raises DataError, with the place in the file as it is on disk, for what is not valid in that encoding.
    """

    def __init__(
        self,
        file: io.BufferedIOBase,
        start: bytes,
        encoding: str,
        errors: Errors,
        label: str,
        count_replaced: Callable[[int], None],
    ) -> None:
        """Read `start`, which was taken from `file`, and then the rest of it."""
        self._file, self._start, self._encoding, self._label = file, start, encoding, label
        self._count_replaced = count_replaced if errors == "replace" else lambda n: None
        self._decoder = codecs.getincrementaldecoder(encoding)(errors)
        self._ready, self._is_first, self._at_end = b"", True, False
        self._offset, self._line = 0, 1  # of the next block

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: "WriteableBuffer") -> int:
        while not self._ready and not self._at_end:
            block, self._start = self._start or self._file.read(1 << 16), b""
            text = self._decode(block)
            self._count_replaced(text.count("\N{REPLACEMENT CHARACTER}"))
            if self._is_first and text:
                text, self._is_first = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"), False
            self._ready, self._at_end = text.encode("utf-8", "surrogatepass"), not block
        view = memoryview(buffer).cast("B")
        n = min(len(view), len(self._ready))
        view[:n], self._ready = self._ready[:n], self._ready[n:]
        return n

    def _decode(self, block: bytes) -> str:
        pending = self._decoder.getstate()[0]
        try:
            text = self._decoder.decode(block, final=not block)
        except UnicodeError as error:
            at = getattr(error, "start", 0)
            line = self._line + (pending + block).count(b"\n", 0, at)
            raise DataError(
                f"{self._label}: byte {self._offset - len(pending) + at} (line {line}) is not valid in "
                f"{self._encoding} ({getattr(error, 'reason', error)}); give the right name with --encoding, or "
                "replace what is not valid with --errors replace"
            ) from None
        self._offset, self._line = self._offset + len(block), self._line + text.count("\n")
        return text


def mark_of(start: bytes) -> str | None:
    """`utf-16` or `utf-32` if a text begins with the byte order mark of one, else None."""
    return next((codec for codec, marks in MARKS.items() if start.startswith(marks)), None)


def utf16_without_mark(block: bytes) -> str | None:
    """`utf-16-le` or `utf-16-be` if the beginning of a text has NULs where Latin letters have them, else None."""
    for codec, zero, other in (("utf-16-le", block[1::2], block[::2]), ("utf-16-be", block[::2], block[1::2])):
        if 4 * zero.count(0) > len(zero) and 20 * other.count(0) <= len(other):
            return codec
    return None


def offer(encoding: str) -> str:
    """What to do about a text that looks like `encoding`."""
    return f"this looks like {encoding}: add --encoding {encoding}"


def advice(opened: Callable[[], AbstractContextManager[Iterable[bytes]]]) -> str:
    """What to do about a file that is not UTF-8, from all of it. `opened` gives its bytes, in pieces of any size."""
    with opened() as pieces:
        good, bad, sample = _survey(_parts(pieces))
    guess = _guess(sample)
    if good < bad:
        return offer(guess) if guess else "name its encoding with --encoding, such as cp1252"
    lines, them = ("this line", "it") if bad == 1 else (f"{bad:,} lines", "them")
    if not guess:
        return f"{lines} cannot be read, while {good:,} others are UTF-8: fix {them}"
    return f"{lines} could be {guess}, but {good:,} others are UTF-8, which --encoding {guess} would spoil: fix {them}"


def _parts(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines, long ones in parts that no character is cut by."""
    held = b""
    for piece in pieces:
        *lines, held = (held + piece).split(b"\n")
        yield from lines
        while len(held) > LINE_BYTES:
            cut = LINE_BYTES
            while cut > LINE_BYTES - 4 and held[cut] & 0xC0 == 0x80:  # in the middle of a character
                cut -= 1
            yield held[:cut]
            held = held[cut:]
    yield held


def _survey(parts: Iterable[bytes]) -> tuple[int, int, bytes]:
    """How many lines are UTF-8 and more than ASCII, how many are not UTF-8, and words of the latter that show why."""
    good = bad = 0
    sample = bytearray()
    for part in parts:
        if part.isascii():
            continue
        try:
            part.decode()
            good += 1
        except UnicodeDecodeError:
            bad += 1
            if len(sample) < SAMPLE_BYTES:
                sample += b"\n".join(_NOT_ASCII.findall(part)) + b"\n"
    return good, bad, bytes(sample)


def _guess(sample: bytes) -> str | None:
    """The encoding that a sample looks like, None if nothing fits."""
    from charset_normalizer import from_bytes

    matches = from_bytes(sample, cp_isolation=list(COMMON))
    best = matches.best()
    if best is None:
        return None
    alike = {best.encoding, *best.could_be_from_charset}
    for each in matches:
        if each.chaos <= best.chaos and each.coherence >= best.coherence:
            alike |= {each.encoding, *each.could_be_from_charset}
            alike |= {codec for codec in COMMON[:1] if _reads_alike(sample, codec, str(each))}
    return next((codec for codec in COMMON if codec in alike), best.encoding)


def _reads_alike(sample: bytes, codec: str, text: str) -> bool:
    try:
        return sample.decode(codec) == text
    except UnicodeError:
        return False
