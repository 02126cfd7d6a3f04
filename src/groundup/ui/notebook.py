"""Output in the cells of a notebook: one that is replaced while work goes on, and tables."""

import io
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib import import_module
from typing import Any

from rich.console import RenderableType

from groundup.ui.console import Console
from groundup.ui.format import visible

REDRAW_SECONDS = 1.0  # between two drawings
WIDTH, HEIGHT = 100, 30  # of a drawing, in characters
PRE = '<pre style="line-height: 1.2; white-space: pre; font-family: monospace">{code}</pre>'


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython: Any = sys.modules.get("IPython")  # a kernel has imported it
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


class CellOutput:
    """An output of the running cell that is drawn again at times: HTML, and plain text for other readers.

    Drawn by the thread that calls: a thread of its own might draw into another cell.
    """

    def __init__(self, *, delay: float = 0.0) -> None:
        """The first drawing is made after `delay` seconds."""
        self._handle: Any = None
        self._last = time.monotonic() + delay - REDRAW_SECONDS

    @property
    def is_shown(self) -> bool:
        return self._handle is not None

    def draw(self, contents: Callable[[], tuple[str, str]], *, now: bool = False) -> None:
        """Draw the HTML and the text that `contents` returns, if it is time or `now`."""
        if not now and time.monotonic() - self._last < REDRAW_SECONDS:
            return
        html, text = contents()
        data = {"text/html": html, "text/plain": text}
        if self._handle is None:
            self._handle = import_module("IPython.display").display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
        self._last = time.monotonic()


def as_html(renderable: RenderableType) -> tuple[str, str]:
    """What rich would draw on a terminal, as HTML and as plain text."""
    console = Console(
        file=io.StringIO(), record=True, width=WIDTH, height=HEIGHT, force_terminal=True, color_system="truecolor"
    )
    console.print(renderable)
    text = console.export_text(clear=False)
    return console.export_html(inline_styles=True, code_format=PRE), text


def html_table(rows: Iterable[Sequence[str]], *, header: Sequence[str] = (), numbers_from: int = 1) -> str:
    """A table; columns from `numbers_from` on are aligned to the right."""

    def cell(tag: str, i: int, text: str) -> str:
        side = "left" if i < numbers_from else "right"
        return f'<{tag} style="text-align: {side}">{escape(visible(text))}</{tag}>'

    head = "".join(cell("th", i, text) for i, text in enumerate(header))
    body = "".join(f"<tr>{''.join(cell('td', i, text) for i, text in enumerate(row))}</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
