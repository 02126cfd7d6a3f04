"""Versions of libraries, as numbers: which groundup asks for, and whether one is among them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

NEEDED = re.compile(r"([\w.-]+)(?:\[[^]]*\])?\s*([^;]*)(?:;.*extra\s*==\s*['\"](\w+)['\"])?")


class Needed(NamedTuple):
    """A library that groundup, or one of its extras, asks for."""

    name: str
    spec: str  # such as `<3,>=2.12`
    extra: str | None


def needed() -> Iterator[Needed]:
    """All of them, as the installed package lists them."""
    for line in metadata.requires("groundup") or ():
        if match := NEEDED.match(line):
            yield Needed(match[1], match[2].strip(), match[3])


def installed(name: str) -> str | None:
    """The version of a library, or None where it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def own_version() -> str:
    """The version of groundup."""
    return installed("groundup") or "0+checkout"  # on PYTHONPATH, never installed


def satisfies(have: str, spec: str) -> bool:
    """Whether a version such as 2.13.0+cpu meets every part of a constraint such as `<3,>=2.12`."""
    for part in filter(None, (part.strip() for part in spec.split(","))):
        match = re.fullmatch(r"(>=|<)\s*([\d.]+)", part)
        if match and (_numbers(have) >= _numbers(match[2])) != (match[1] == ">="):
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", text)
    numbers = [int(number) for number in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:  # 3.0 is not more than 3
        numbers.pop()
    return tuple(numbers)
