"""The signal that ends this process by an exception of its handler.

Such an exception appears wherever the program is. C code of a library may replace it by one of its own, which says
nothing of the signal; so the handler also records the signal here, for whoever reports the exception.
"""

_number = 0


def record(number: int) -> None:
    """Call before a signal handler raises an exception that is to end the process."""
    global _number  # as handlers belong to a process
    _number = number


def recorded() -> int:
    """Number of the last recorded signal; 0: none."""
    return _number


def forget() -> None:
    """Call where the exception is caught and the process goes on."""
    record(0)
