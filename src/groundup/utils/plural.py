"""Counts of things as text."""


def human_plural(n: int, noun: str, plural: str = "") -> str:
    """Format a count of things: `1 file`, `1,200 files`; `plural` where it is not the noun and an s."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
