"""Wording of messages for Python: options of the command line as arguments, commands as calls."""

import re
import shlex
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from groundup.errors import GroundupError

P = ParamSpec("P")
R = TypeVar("R")

FLAGS = ("overwrite", "laptop", "private", "fresh")
# An option, and the space before its value: something with a digit, a capital, a quote or a slash, or a known word.
OPTION = re.compile(
    r"(?<![\w-])--([a-z][\w-]*(?:\.\w+)*)( (?=[^\s;,]*[\d/:'\"A-Z]|(?:hf|gguf|space|replace|strict|none)\b))?"
)
# A command of a shell, to be copied as it is.
COMMAND = re.compile(r"((?:(?<=: )groundup|\bpip install) [^;]*)")
CALLS = ("compare", "evaluate", "export", "generate", "plan", "prepare", "push", "quickstart", "resume", "train")


def worded_for_python(message: str) -> str:
    """`give another --out` as `give another out=`, `--train.max_steps 5` as `train.max_steps 5`.

    A command in backticks becomes a call where it is a name and paths alone, and stays as it is with options; so does
    one after a colon, and what installs a library.
    """
    parts = message.split("`")
    if len(parts) % 2 == 0:  # a backtick without another
        return _outside_commands(message)
    words = [_call(part) if i % 2 else _outside_commands(part) for i, part in enumerate(parts)]
    return "`".join(words)


def _outside_commands(text: str) -> str:
    parts = COMMAND.split(text)
    return "".join(part if i % 2 else OPTION.sub(_argument, part) for i, part in enumerate(parts))


def _argument(found: re.Match[str]) -> str:
    name, space = found[1], found[2] or ""
    if "." in name:
        return name + space
    return f"{name.replace('-', '_')}={'True' if name in FLAGS else ''}"


def _call(command: str) -> str:
    try:
        program, name, *paths = shlex.split(command)
    except ValueError:  # no shell command
        return command
    if program != "groundup" or name not in CALLS or any(path.startswith("-") for path in paths):
        return command
    return f"groundup.{name}({', '.join(map(repr, paths))})" if paths else f"groundup.{name}"


def raises_for_python(function: Callable[P, R]) -> Callable[P, R]:
    """The function with errors whose messages speak of arguments."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except GroundupError as error:
            error.args = (worded_for_python(str(error)), *error.args[1:])
            raise

    return call
