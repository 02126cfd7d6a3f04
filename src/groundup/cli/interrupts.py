"""Ctrl-C on the command line: at any moment one line and exit status 130."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED = "groundup: interrupted"
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


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    while frame is not None:
        # C code whose import was broken off can abort, and cannot be imported again.
        if frame.f_code.co_filename.startswith(IMPORTLIB):
            os.write(STANDARD_ERROR, f"{INTERRUPTED}\n".encode())
            os._exit(STATUS_INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
