"""Numbers and text for people: durations, counts, sizes, and text that a terminal may print."""

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

# Newline, and the format characters that words are written with: zero-width space (Khmer, Thai), non-joiner (Persian),
# joiner (Indic scripts, emoji), and the Arabic end of verse. Those that change the direction are not among them.
NOT_ESCAPED = "\n\u200b\u200c\u200d\u06dd"

# Where Unicode will put new invisible characters (unassigned ones that are "default ignorable").
KEPT_FOR_INVISIBLE = re.compile("[\u2065\ufff0-\ufff8\U000e0000-\U000e0fff]")


def human_time(seconds: float) -> str:
    """Format a duration by its two largest units: `2d 03h`, `1h 02m`, `2m 05s` or `9s`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02}h"
    if hours:
        return f"{h}h {m:02}m"
    return f"{m}m {s:02}s" if minutes else f"{s}s"


def human_count(n: float) -> str:
    """Format a count with three figures and the field's units: `812`, `10.1K`, `3.28M`, `1.02B`."""
    for unit in ("", "K", "M", "B"):
        if n < 999.5:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:,.3g}T"


def human_plural(n: int, noun: str) -> str:
    """Format a count of things: `1 file`, `1,200 files`."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def human_bytes(n: float) -> str:
    """Format a size with three figures, in powers of 1000: `812 B`, `10.1 kB`, `3.28 MB`, `1.02 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 999.5:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB" if n < 999.5 else f"{n:,.0f} TB"


def escaped(text: str) -> str:
    """Escape everything unprintable: controls, newlines, and spaces other than the usual one."""
    return "".join(c if c.isprintable() or _is_newer(c) else c.encode("unicode_escape").decode() for c in text)


def visible(text: str) -> str:
    """Escape what a terminal may obey or cannot show; newlines, spaces of all widths, and joiners stay."""
    return "".join(c if c in NOT_ESCAPED or unicodedata.category(c) == "Zs" else escaped(c) for c in text)


def single_line(text: str) -> str:
    """Like `visible`, and with a sign for each newline: a line that names something from elsewhere stays one line."""
    return visible(text).replace("\n", "⏎")


def _is_newer(char: str) -> bool:
    """Whether this Python does not know a character, such as a newer emoji, and it cannot be an invisible one."""
    return unicodedata.category(char) == "Cn" and not KEPT_FOR_INVISIBLE.match(char)


def json_line(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """JSON on one line, in printable ASCII: the text is exact, and a terminal has nothing to obey."""
    return json.dumps(value, default=default).replace("\x7f", "\\u007f")
