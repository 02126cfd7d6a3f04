"""Ctrl-C and SIGTERM on the command line: at any moment one line and exit status 128 + n."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from groundup.utils import ending_signal

INTERRUPTED = "groundup: interrupted"
TERMINATED = "groundup: ended by SIGTERM"
STANDARD_ERROR = 2  # its descriptor: `sys.stderr` may be in the middle of a write
STATUS_INTERRUPTED = 128 + signal.SIGINT
IMPORTLIB = "<frozen importlib._bootstrap"  # how its code's file name starts


@contextmanager
def interruptible(*, until_exit: bool) -> Iterator[None]:
    """While entered, SIGINT raises KeyboardInterrupt, but ends the process at once while a module is imported.

    With `until_exit` it is ignored afterwards, while libraries clean up. No-op where SIGINT is handled otherwise, or
    ignored, as in a job in the background.
    """
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN if until_exit else previous)


@contextmanager
def terminable(*, quiet: bool) -> Iterator[None]:
    """While entered, SIGTERM raises SystemExit, after one line unless `quiet`; while training, see `StopSignals`.

    It ends the process at once while a module is imported, and when it comes again.
    """
    owner, again = os.getpid(), False

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker process, which its pool ends by this signal
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        nonlocal again
        if not (quiet or again):
            os.write(STANDARD_ERROR, f"{TERMINATED}\n".encode())
        if again or _is_importing(frame):
            os._exit(128 + number)
        again = True
        ending_signal.record(number)
        raise SystemExit(128 + number)  # so that temporary files are removed

    previous = signal.getsignal(signal.SIGTERM)
    if previous != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def noting_interrupts() -> Iterator[Callable[[], bool]]:
    """While entered, the first Ctrl-C is noted: the yielded function tells so. The next raises KeyboardInterrupt."""
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            ending_signal.record(number)
            raise KeyboardInterrupt
        noted = True

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, previous)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    if _is_importing(frame):
        os.write(STANDARD_ERROR, f"{INTERRUPTED}\n".encode())
        os._exit(STATUS_INTERRUPTED)
    ending_signal.record(number)
    raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported; C code can abort when that is broken off, and cannot be imported again."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(IMPORTLIB):
            return True
        frame = frame.f_back
    return False
