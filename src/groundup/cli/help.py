"""The text of `--help` and `--help-all`: wrapped to the terminal, without broken words, at any width.

The config is imported where options are shown: the list of commands is printed without it, and at once.
"""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from groundup.ui.format import human_count

MAX_COLUMNS = 100  # longer lines are hard to read
NARROW = 60  # columns; below, the text of an option stands under its name
NAME_COLUMNS = 30
PAGE_COLUMNS, PAGE_LINES = 80, 24  # a help that fits has no second page
ARGUMENT = re.compile(r"""(?:-\S+ (?=[^-\s]))?(?:[^\s"']|"[^"]*"|'[^']*')+""")  # an option with its value is one
COMMAND = re.compile(r" {2}\S+( |$)(?! )")  # an example, not a row of a table


def help_page(parser: Any, *, everything: bool) -> str:
    """The help of a `cli.parsing.Parser`: its first page, or everything."""
    width = min(shutil.get_terminal_size().columns, MAX_COLUMNS)
    everything = everything or len(_lines(parser, PAGE_COLUMNS, everything=True)) <= PAGE_LINES
    return "\n".join(_lines(parser, width, everything=everything)) + "\n"


def _lines(parser: Any, width: int, *, everything: bool) -> list[str]:
    lines = list(_usage(parser, width))
    lines += ["", *wrapped(parser.description or "", width)]
    if parser.presets:
        lines += ["", *_preset_table(parser.preset_given(), width)]
    lines += _options(parser, width, everything=everything)
    examples = "\n".join(line for line in (parser.epilog or "").split("\n") if COMMAND.match(line))
    if text := parser.epilog if everything else "" if parser.presets else examples:
        lines += ["", *_block(text, width)]
    if not everything:
        lines += ["", *wrapped(f"{parser.note} All options: {parser.prog} --help-all".strip(), width)]
    return lines


def commands_page(text: str, commands: Mapping[str, str], others: Sequence[str]) -> str:
    """Help of the program: `text` with the table of `commands`, and the names of `others`."""
    width = min(shutil.get_terminal_size().columns, MAX_COLUMNS)
    before, _, after = text.partition("{commands}")
    rows = table(list(commands.items()), width)
    if others:
        rows += ["", *wrapped(f"also {', '.join(others)}: groundup --help-all", width, "     ", "")]
    return "\n".join([*_block(before.strip("\n"), width), "", *rows, *_block(after.rstrip("\n"), width)]) + "\n"


def wrapped(text: str, width: int, indent: str = "", first: str | None = None) -> list[str]:
    """Lines of at most `width` columns, broken between words."""
    before = indent if first is None else first
    return textwrap.wrap(
        text, width, initial_indent=before, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _usage(parser: Any, width: int) -> Iterator[str]:
    words = [parser.prog]
    for action in parser._actions:
        if not action.option_strings:
            name = action.metavar or action.dest
            words.append({"?": f"[{name}]", "*": f"[{name}…]", "+": f"{name}…"}.get(action.nargs, name))
        elif action.required:
            words.append(_name(action))
    usage = parser.usage or f"{' '.join(words)} [OPTION…]"
    for i, line in enumerate(usage.split("\n")):
        yield from wrapped(line.strip(), width, " " * 9, "usage: " if i == 0 else " " * 7)


def _options(parser: Any, width: int, *, everything: bool) -> list[str]:
    """The options, under the titles of their groups; those of the first page without titles."""
    preset = parser.preset_given() if parser.presets else None
    groups: dict[str, list[argparse.Action]] = {"": []}
    for group in parser._action_groups:
        plain = not everything or group.title in ("positional arguments", "options")
        title = "" if plain else f"{group.title}: {group.description}"
        groups.setdefault(title, []).extend(
            a for a in group._group_actions if _is_shown(a, parser, everything=everything)
        )
    if parser.first and not everything:
        groups[""].sort(key=lambda action: min(parser.first.index(name) for name in _names(action) & {*parser.first}))
    lines: list[str] = []
    for title, actions in groups.items():
        if actions:
            lines += ["", *wrapped(title, width, "  ", "")]
        lines += table([row for action in actions for row in _rows(action, preset, short=not everything)], width)
    return lines


def _is_shown(action: argparse.Action, parser: Any, *, everything: bool) -> bool:
    """Whether a page of help has this option."""
    if action.help == argparse.SUPPRESS or (parser.presets and action.dest == "preset"):
        return False
    if everything:
        return True
    return not {"--help", "--help-all"} & _names(action) and (
        not parser.first or bool(_names(action) & {*parser.first})
    )


def _names(action: argparse.Action) -> set[str]:
    return {action.dest, *action.option_strings}


def _rows(action: argparse.Action, preset: str | None, *, short: bool) -> Iterator[tuple[str, str]]:
    """An argument and its help; for commands within a command, each of them."""
    if isinstance(action, argparse._SubParsersAction):
        yield from ((inner.dest, inner.help or "") for inner in action._choices_actions)
    else:
        yield _name(action), _text(action, preset, short=short)


def _name(action: argparse.Action) -> str:
    """An option as it is typed, such as `--out DIR`."""
    metavar = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
    if not action.option_strings:
        return str(action.metavar or action.dest)
    return f"{', '.join(action.option_strings)} {metavar}".strip()


def _text(action: argparse.Action, preset: str | None, *, short: bool) -> str:
    """Help of an option; of one of the config with the value that it has with this preset."""
    from groundup.config.presets import PRESETS
    from groundup.config.schema import SECTIONS

    text = (action.help or "").replace("%%", "%")
    section, dot, key = action.dest.partition(".")
    if not dot or section not in SECTIONS:
        return text
    text = text.partition(";")[0] if short else text
    if preset is None:
        return text
    value = PRESETS[preset].get(section, {}).get(key, SECTIONS[section].model_fields[key].default)
    if value in (None, (), ""):
        return text
    shown = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
    return f"{text} [{shown}]"


def table(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Names in a column and texts next to them, or under them where the name or the terminal leaves no room."""
    longest = max((len(name) for name, _ in rows if len(name) <= NAME_COLUMNS), default=0)
    column = " " * (6 if width < NARROW else longest + 4)
    lines = []
    for name, text in rows:
        first = f"  {name}".ljust(len(column)) if len(name) + 4 <= len(column) and width >= NARROW else None
        if first is None or not text:
            lines.append(f"  {name}")
        lines += wrapped(text, width, column, first) if text else []
    return lines


def _preset_table(preset: str, width: int) -> list[str]:
    """All presets with their sizes, side by side."""
    from groundup.config.presets import PURPOSES
    from groundup.model.size import preset_parameters

    cells = [f"{name} {human_count(preset_parameters(name))}" for name in PURPOSES]
    column = max(map(len, cells)) + 2
    per_line = max(1, width // column)
    title = f"PRESET, with parameters (up to modern-mini without embeddings) [{preset}]:"
    lines = wrapped(title, width, "  ", "")
    for i in range(0, len(cells), per_line):
        lines.append(("  " + "".join(cell.ljust(column) for cell in cells[i : i + per_line])).rstrip())
    return lines


def _block(text: str, width: int) -> Iterator[str]:
    """Paragraphs wrapped, examples and rows of tables one by one."""
    for i, paragraph in enumerate(text.split("\n\n")):
        if i:
            yield ""
        prose: list[str] = []
        for line in [*paragraph.split("\n"), "  "]:
            if not line.startswith("  "):
                prose.append(line)
                continue
            yield from wrapped(" ".join(prose), width)
            prose = []
            if COMMAND.match(line):
                yield from _command(line.strip(), width)
            elif line.strip():
                name, _, rest = line.strip().partition("  ")
                yield from table([(name, rest.strip())], width)


def _command(command: str, width: int) -> Iterator[str]:
    """A command line, continued with backslashes where it is too long."""
    if len(command) + 2 <= width:
        yield f"  {command}"
        return
    line = " "
    words = [
        word for pair in ARGUMENT.findall(command) for word in ([pair] if len(pair) < width - 8 else pair.split(" "))
    ]
    for word in words:
        if len(line) + 1 + len(word) > width - 2 and line.strip():
            yield f"{line} \\"
            line = "   "
        line += f" {word}"
    yield line
