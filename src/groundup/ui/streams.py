"""Standard streams of the command line: text is escaped, and output that cannot be written does not end the work."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, TextIO

from groundup.ui.format import visible

DESCRIPTORS = (0, 1, 2)  # standard input, output and error


class Output:
    """Text stream that calls `on_error` with the first error of writing to `stream`, and ignores further ones."""

    def __init__(self, stream: TextIO, on_error: Callable[[OSError], None] = lambda error: None) -> None:
        self._stream, self._on_error = stream, on_error
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def isatty(self) -> bool:
        return bool(getattr(self._stream, "isatty", bool)())  # a program's replacement may have `write` alone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, call: Callable[..., object], *args: str) -> None:
        try:
            call(*args)
        except OSError as error:
            if self.error is None:
                self.error = error
                self._on_error(error)


class EscapedOutput:
    """Text stream whose text passes through `visible` on its way to `output`."""

    def __init__(self, output: Output) -> None:
        self.rich_proxied_file = output  # rich's consoles write to this one: they escape text, but not their own codes

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(visible(text))
        return len(text)

    def isatty(self) -> bool:
        """False: a library that sees a terminal would colour its lines, and these codes would be escaped."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def unescaped(stream: IO[str]) -> IO[str]:
    """The stream under an `EscapedOutput`; any other stream as it is."""
    return getattr(stream, "rich_proxied_file", stream)


@contextmanager
def printable_streams() -> Iterator[Output]:
    """While entered, `sys.stdout` and `sys.stderr` escape control characters; yields standard output.

    Output that cannot be written, such as to a full disk, is mentioned on standard error, and the yielded stream has
    the `error`. A pipe without a reader raises BrokenPipeError once. Standard error that cannot be written is ignored.
    """
    _reserve_descriptors()
    before = sys.stdout, sys.stderr
    streams = Output(_opened(sys.stdout), _report_lost_output), Output(_opened(sys.stderr))
    sys.stdout, sys.stderr = (EscapedOutput(stream) for stream in streams)
    try:
        yield streams[0]
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            _discard_rest(stream)


def _reserve_descriptors() -> None:
    """Open closed standard streams as the null device: a file with descriptor 1 would receive what C code prints."""
    for descriptor in DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free descriptor: this one


def _opened(stream: TextIO | None) -> TextIO:
    """The stream, or the null device where it was closed before Python started."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # escape characters that the terminal's encoding lacks
    return stream


def _report_lost_output(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        raise error
    print(f"groundup: standard output cannot be written ({error.strerror}); continuing without it", file=sys.stderr)


def _discard_rest(stream: Output) -> None:
    """Flush; what cannot be written is discarded, as Python would complain about it at exit."""
    with suppress(BrokenPipeError):
        stream.flush()
    if stream.error is not None:
        with suppress(OSError, ValueError):  # a stream of a test, without a descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
