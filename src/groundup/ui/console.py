"""rich's console for text that others may have written."""

import os
import re
import textwrap
from collections.abc import Iterable
from typing import IO, Any

import rich.console
from rich.segment import Segment
from rich.text import Text
from typing_extensions import override

from groundup.ui.format import visible
from groundup.ui.streams import unescaped

LABEL = re.compile(r"(?:.* {2,})?")  # of a line: its columns before the last one


def can_redraw(console: rich.console.Console) -> bool:
    """Whether lines can be drawn over: on a terminal, whatever FORCE_COLOR says, and not by a job in the background."""
    return console.is_terminal and not console.is_dumb_terminal and is_foreground(console)


def is_foreground(console: rich.console.Console) -> bool:
    """Whether output is read on a terminal, and not written there by a job in the background."""
    if not console.file.isatty():
        return False
    try:
        return os.tcgetpgrp(console.file.fileno()) == os.getpgrp()
    except (OSError, AttributeError):  # not the terminal that controls this process; no such thing on Windows
        return True


class Console(rich.console.Console):
    """Console that reads no text as markup, and through which no control character of a text reaches the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, force_jupyter=False, **options)

    @property  # type: ignore[misc]  # rich can also set it
    def file(self) -> IO[str]:
        """Standard output or error, unescaped also while a live display of rich has replaced it."""
        return unescaped(super().file)

    @override
    def render(self, *args: Any, **options: Any) -> Iterable[Segment]:
        for segment in super().render(*args, **options):
            style = segment.style
            if style is not None and style.link is not None:  # the address may have control characters
                style = style.update_link(None)
            yield segment if segment.control else Segment(visible(segment.text), style)

    @override
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with status 1


def print_line(text: str, console: rich.console.Console | None = None, style: str = "") -> None:
    """Print a line; on a terminal it is broken between words only, and continues under its last column."""
    console, lines = console or Console(), [text]
    if console.is_terminal and len(text) > console.width:
        label = LABEL.match(text)
        indent = " " * min(label.end() if label else 0, console.width // 2)
        lines = textwrap.wrap(
            text, console.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    for line in lines:
        console.print(Text(line, style), soft_wrap=True)
