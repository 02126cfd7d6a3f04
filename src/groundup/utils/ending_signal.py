"""The signal that ends this process by an exception of its handler.

Such an exception appears wherever the program is. C code of a library may replace it by one of its own, which says
nothing of the signal; so the handler also records the signal here, for whoever catches or reports the exception.
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
