"""Text of a document, put together from pieces of lines, and the gaps between them."""

SPACE, TAB, LINE, PARAGRAPH = range(1, 5)  # gaps, the narrow ones first
_GAPS = ("", " ", "\t", "\n", "\n\n")

# A no-break space looks like any other; a soft hyphen is seen only where a line ends.
_LAYOUT = str.maketrans({"\N{NO-BREAK SPACE}": " ", "\N{SOFT HYPHEN}": None})

_RAISED = dict(zip("0123456789+-−=()in", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁱⁿ", strict=True))
_LOWERED = dict(zip("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎", strict=True))


def superscript(text: str) -> str:
    """`text` in Unicode's superscripts, so that 10⁶ is not read as 106; unchanged if these lack a character of it."""
    return _shifted(text, _RAISED)


def subscript(text: str) -> str:
    """`text` in Unicode's subscripts; unchanged if these lack a character of it."""
    return _shifted(text, _LOWERED)


def _shifted(text: str, table: dict[str, str]) -> str:
    return "".join(table[char] for char in text) if table.keys() >= set(text) else text


class TextBlocks:
    """Pieces of text with gaps between them.

    A gap is written when text follows it, and of several in a row only the widest: empty paragraphs leave no trace.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._gap = 0  # before the next piece
        self._begins_cell = False  # no text since the beginning of a table's cell

    def write(self, text: str, indent: bool = False) -> None:
        """Add text as it is; white space is dropped where a line begins (unless an `indent`) and ends."""
        text = text.translate(_LAYOUT)
        begins_line = self._gap >= TAB or not self._pieces
        if begins_line and not (indent and text.strip()):
            text = text.lstrip()
        if not text:
            return
        if self._gap >= TAB:
            self._drop_trailing_space()
        if self._pieces and self._gap:
            self._pieces.append(_GAPS[self._gap])
        self._pieces.append(text)
        self._gap, self._begins_cell = 0, False

    def gap(self, gap: int) -> None:
        """Make the gap before the next text at least this wide; at the beginning of a cell it is not widened."""
        if not self._begins_cell:
            self._gap = max(self._gap, gap)

    def line_break(self) -> None:
        """Begin a line; a second one in a row leaves an empty line."""
        self.gap(PARAGRAPH if self._gap >= LINE else LINE)

    def cell(self, first: bool) -> None:
        """Begin a cell of a table, the first of its row or another one."""
        self._gap, self._begins_cell = max(self._gap, LINE) if first else TAB, True

    def end_row(self) -> None:
        """End a row of a table."""
        self._gap, self._begins_cell = LINE, False

    def text(self) -> str:
        """All that was written, without a line end."""
        self._drop_trailing_space()
        return "".join(self._pieces)

    def _drop_trailing_space(self) -> None:
        while self._pieces:
            if last := self._pieces[-1].rstrip():
                self._pieces[-1] = last
                return
            self._pieces.pop()
