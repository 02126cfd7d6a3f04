"""rich's console for text that others may have written."""

from collections.abc import Iterable
from typing import Any

import rich.console
from rich.segment import Segment
from typing_extensions import override

from groundup.ui.format import visible


class Console(rich.console.Console):
    """Console that reads no text as markup, and through which no control character of a text reaches the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    @override
    def render(self, *args: Any, **options: Any) -> Iterable[Segment]:
        for segment in super().render(*args, **options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    @override
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with status 1
