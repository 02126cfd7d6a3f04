"""The commands of the prompt line, such as `/temperature 0.8`: their syntax, values and completion."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from typing import Any

from groundup.cli.generation_options import GENERATION_OPTIONS, GenerationOption, Values
from groundup.config.merge import did_you_mean
from groundup.errors import UsageError

ACTIONS = {
    "again": "continue the same beginning, with the next seed",
    "settings": "show the options that hold now, and the command that gives the last text",
    "help": "show this list",
    "quit": "leave, as Ctrl-D does",
}
OPTIONS = {option.name: option for option in GENERATION_OPTIONS}
COMMAND = re.compile(r"/([\w-]+)(?:\s+|=|$)(.*)", re.DOTALL)


def is_command(text: str) -> bool:
    """Whether a typed text is a command: one line that begins with a single /."""
    return text.startswith("/") and not text.startswith("//") and "\n" not in text


def parse_command(text: str) -> tuple[str, str]:
    """Name and value of a command, such as `top-k` and `40`. UsageError."""
    found = COMMAND.fullmatch(text)
    name, value = (found[1].replace("_", "-"), found[2].strip()) if found else (text[1:], "")
    if name in OPTIONS:
        return name, value
    if name not in ACTIONS:
        hint = did_you_mean(f"/{name}", [f"/{known}" for known in (*ACTIONS, *OPTIONS)])
        hint = f"{hint} " if hint.endswith("?") else ""
        raise UsageError(f"/{name}: there is no such command; {hint}/help lists them, and // begins a text with /")
    if value:
        raise UsageError(f"/{name}: takes no value; leave out {value}")
    return name, ""


def changed(values: Values, option: GenerationOption, word: str) -> Values:
    """The values after a command; one more for an option that may be given several times. UsageError."""
    if word == option.off != "":
        return {**values, option.key: option.default}
    try:
        value = option.type(_unquoted(word))
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"/{option.name}: {error}") from None
    return {**values, option.key: [*values[option.key], value] if option.is_list else value}


def described(option: GenerationOption, value: Any) -> str:
    """A value as one would type it."""
    if value == option.default and option.off:
        return option.off
    written = [option.written(each) for each in (value if option.is_list else [value])]
    return ", ".join(_quoted(word) if option.key == "stop" else word for word in written)


def help_rows() -> Iterator[tuple[str, str]]:
    """All commands with their meaning."""
    for name, meaning in ACTIONS.items():
        yield f"/{name}", meaning
    for option in GENERATION_OPTIONS:
        off = f"|{option.off}" if option.off else ""
        yield f"/{option.spec}{off}", option.text.partition(" [")[0]


def propose(typed: str) -> Iterator[tuple[str, int, str]]:
    """Words that complete a command: each with the number of characters that it replaces, and its meaning."""
    if not is_command(typed):
        return
    name, space, value = typed[1:].partition(" ")
    if not space:
        for command, meaning in ACTIONS.items():
            if command.startswith(name):
                yield f"/{command}", len(typed), meaning
        for option in GENERATION_OPTIONS:
            if option.name.startswith(name.replace("_", "-")):
                yield f"/{option.name} ", len(typed), option.text.partition(" [")[0]
    elif name in OPTIONS:
        for word in (*OPTIONS[name].proposed, OPTIONS[name].off):
            if word.startswith(value) and word:
                yield word, len(value), ""


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _unquoted(word: str) -> str:
    r"""A value; one in double quotes is a JSON string, in which \n is a line end."""
    if len(word) < 2 or word[0] != '"' or word[-1] != '"':
        return word
    try:
        return str(json.loads(word, strict=False))
    except ValueError:
        raise argparse.ArgumentTypeError(
            rf"{word} is no text in double quotes; write \\ for \ and \" for a quote"
        ) from None
