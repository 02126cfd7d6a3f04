"""Numbers and text for people: durations, counts, sizes, columns, and text that a terminal may print."""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from groundup.utils.plural import human_plural as human_plural

YEAR_SECONDS = 365 * 86_400

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


def human_duration(seconds: float) -> str:
    """Format an estimated duration by one or two figures: `45 s`, `12 min`, `2.5 h`, `12 days`, `3 years`."""
    units = (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 48 * 3600), ("days", 86_400, 2 * YEAR_SECONDS))
    name, size = next(((name, size) for name, size, limit in units if seconds < limit), ("years", YEAR_SECONDS))
    n = max(1, seconds / size)
    return f"{human_figures(n if n < 2.95 else round(n))} {name}"


def human_figures(x: float, figures: int = 2) -> str:
    """Format a number by its first figures, as far as it is known: `0.018`, `1.7`, `12`, `43,000`."""
    if not 1e-3 <= abs(x) < 1e15:
        return f"{x:.{figures}g}"
    places = figures - 1 - math.floor(math.log10(abs(x)))
    text = f"{round(x, places):,.{max(0, places)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def human_step(seconds: float) -> str:
    """Format a short time with three figures: `0.31 ms`, `289 ms`, `1.05 s`."""
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def human_count(n: float) -> str:
    """Format a count with three figures and the field's units: `812`, `10.1K`, `3.28M`, `1.02B`."""
    for unit in ("", "K", "M", "B"):
        if n < 999.5:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:,.3g}T"


def human_bytes(n: float, figures: int = 3) -> str:
    """Format a size by its first figures, in powers of 1000: `812 B`, `10.1 kB`, `3.28 MB`, `1.02 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 - 0.5 * 10 ** (3 - figures):
            return f"{human_figures(n, figures)} {unit}"
        n /= 1000
    return f"{n:.3g} TB" if n < 999.5 else f"{n:,.0f} TB"


def escaped(text: str) -> str:
    """Escape everything unprintable: controls, newlines, and spaces other than the usual one."""
    return "".join(c if c.isprintable() or _is_newer(c) else c.encode("unicode_escape").decode() for c in text)


def visible(text: str) -> str:
    """Escape what a terminal may obey or cannot show; newlines, spaces of all widths, and joiners stay."""
    if text.isprintable():  # most text is; the panel calls this for hundreds of pieces in each drawing
        return text
    return "".join(c if c in NOT_ESCAPED or unicodedata.category(c) == "Zs" else escaped(c) for c in text)


def single_line(text: str) -> str:
    """Like `visible`, and with a sign for each newline: a line that names something from elsewhere stays one line."""
    return visible(text).replace("\n", "⏎")


def _is_newer(char: str) -> bool:
    """Whether this Python does not know a character, such as a newer emoji, and it cannot be an invisible one."""
    return unicodedata.category(char) == "Cn" and not KEPT_FOR_INVISIBLE.match(char)


def columns(rows: Iterable[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """Rows as lines with aligned columns; those numbered in `right` are aligned to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:>{w}}" if i in right else f"{cell:<{w}}"
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def json_line(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """JSON on one line, in printable ASCII: the text is exact, and a terminal has nothing to obey."""
    return json.dumps(value, default=default).replace("\x7f", "\\u007f")
