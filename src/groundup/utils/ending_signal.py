"""Number of the signal whose handler has raised an exception, such as KeyboardInterrupt, to end this process.

A library's C code may replace that exception by another, such as a ValueError. Code that catches exceptions compares
with the number recorded here to tell a signal from an error.
"""

import time

SECONDS = 60.0  # an exception that is caught later than this after a signal has another cause

_number, _time = 0, 0.0


def record(number: int) -> None:
    """Call before a signal handler raises an exception that is to end the process."""
    global _number, _time  # as handlers belong to a process
    _number, _time = number, time.monotonic()


def recorded() -> int:
    """Number of the signal that was recorded within the last `SECONDS`; 0: none."""
    return _number if time.monotonic() - _time < SECONDS else 0


def forget() -> None:
    """Call where the exception is caught and the process goes on."""
    record(0)
