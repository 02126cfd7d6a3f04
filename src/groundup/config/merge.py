"""Merge config sources (preset < files < options), validate once, and report mistakes in one sentence."""

import difflib
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from groundup.config.aliases import (
    ADVICE_FOR,
    ALIASES,
    BATCH_SIZE,
    GRAD_ACCUM,
    describe_aliases,
    resolve_aliases,
    set_batch_tokens,
)
from groundup.config.renamed import rename_keys
from groundup.config.schema import SECTIONS, Config, section_at
from groundup.config.sections import COOLDOWNS, RUN_LENGTHS, WARMUPS
from groundup.errors import ConfigError

# Keys that exclude each other: one given later replaces another given earlier.
BATCHES = tuple(("batch_tokens", key.partition(".")[2]) for key in (BATCH_SIZE, GRAD_ACCUM))
INTERVALS = ("every_steps", "every_epochs")
ALTERNATIVES = {
    "train": (RUN_LENGTHS, *BATCHES),
    "schedule": (WARMUPS, COOLDOWNS),
    "evaluate": (INTERVALS,),
    "checkpoint": (INTERVALS,),
}

MAX_SHOWN_CHARACTERS = 100  # of a value in a sentence


class ConfigSource(NamedTuple):
    """Values and where they come from: a preset's name, a file, `command line`."""

    origin: str
    values: dict[str, Any]
    typed: bool = False  # written by a user: a warning names renamed keys


class RenamedKeyWarning(FutureWarning):
    """A config key was given under its previous name."""


class AliasWarning(UserWarning):
    """Config keys were given under names that other trainers have; says what they were taken for."""


# pydantic's kinds of error, by how they start, in words.
MISTAKES = {
    "int": "is not a whole number",
    "float": "is not a number",
    "finite": "is not a number",
    "bool": "is neither true nor false",
    "tuple": "is not a list; write [one, two], or one, two",
    "string": "is not text",
}
# Numbers out of range, in words, and where pydantic keeps the bound.
BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def merge_and_validate(sources: Iterable[ConfigSource]) -> Config:
    """Merge `sources`, later ones taking precedence, and validate. ConfigError names place, key, value and remedy."""
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    aliases: dict[str, list[tuple[str, str, Any]]] = {}
    for source in sources:
        # A section without keys, such as one that is commented out, is empty.
        pairs = [(k, v) for k, v in flatten(_current_names(source)) if v is not None or k not in SECTIONS]
        values, used = resolve_aliases(pairs, source.origin)
        if used and source.typed:
            aliases[source.origin] = used
        for key, value in values:
            _check_text(value, f"{source.origin}: {key}")
            _drop_alternatives(merged, key, value)
        for key, value in values:
            _assign(merged, key, value)
            origins.pop(key, None)
            origins[key] = source.origin  # newest last: the one to name
    set_batch_tokens(merged, origins)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(describe_error(error, origins)) from None
    for origin, used in aliases.items():
        warnings.warn(f"{origin}: {describe_aliases(used, config)}", AliasWarning, stacklevel=2)
    return config


def describe_error(error: ValidationError, origins: dict[str, str] | None = None) -> str:
    """The first error of a config as `origin: key: what; remedy`. `origins`: key -> the file or preset that set it."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    dotted = ".".join(path)
    set_by = reversed((origins or {}).items())
    origin = next((o for key, o in set_by if key == dotted or key.startswith(dotted + ".")), "")
    place = f"{origin}: " if origin else ""
    kind, value = first["type"], first.get("input")
    if kind == "extra_forbidden":
        section = section_at(path[:-1])
        shown = repr(dotted)[1:-1]  # spaces of other kinds, as copied from a page, are escaped
        if here := ALIASES.get(path[-1]) or ADVICE_FOR.get(dotted) or ADVICE_FOR.get(path[-1]):
            return f"{place}{shown}: unknown key; here that is {here}"
        close = closest(path[-1], [*section.model_fields, *(ALIASES if len(path) == 1 else ())])
        hint = f"did you mean {close}?" if close else f"known: {', '.join(section.model_fields)}"
        return f"{place}{shown}: unknown key; {hint}"
    if kind == "value_error":
        message = str(first["ctx"]["error"])
        shown = f" {_shown(value)}:" if not isinstance(value, dict | BaseModel) else ""
        return f"{place}{dotted + ':' if dotted else ''}{shown} {message}".strip()
    if kind.startswith("string_pattern"):
        expected = section_at(path[:-1]).model_fields[path[-1]].description
        return f"{place}{dotted}: {_shown(value)} is not valid; expected: {expected}"
    return f"{place}{dotted}: {_what(kind, value, first)}"


def rename_source(source: ConfigSource) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """`rename_keys` of a source's values; ConfigError names the source."""
    try:
        return rename_keys(source.values)
    except ConfigError as error:
        raise ConfigError(f"{source.origin}: {error}") from None


def _current_names(source: ConfigSource) -> dict[str, Any]:
    """The values of a source under today's keys; RenamedKeyWarning where a user gave a previous name."""
    values, renamed = rename_source(source)
    for old, new in renamed if source.typed else ():
        warnings.warn(f"{source.origin}: {old} is called {new} now", RenamedKeyWarning, stacklevel=2)
    return values


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested mapping; dashes in keys read as underscores."""
    for key, value in values.items():
        name = prefix + str(key).replace("-", "_")
        if isinstance(value, dict):
            yield from flatten(value, name + ".")
        else:
            yield name, value


def closest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` may be a typing error of; None where none is close."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)), None)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`did you mean X?` with the closest name, or `known: …` with all of them."""
    names = list(names)
    close = closest(name, names)
    return f"did you mean {close}?" if close else f"known: {', '.join(names)}"


def diff(before: BaseModel, after: BaseModel, prefix: str = "") -> list[str]:
    """Dotted keys in which two configs of one type differ."""
    keys = []
    for name in type(before).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if isinstance(old, BaseModel) and isinstance(new, BaseModel):
            keys += diff(old, new, f"{prefix}{name}.")
        elif old != new:
            keys.append(prefix + name)
    return keys


def get(config: Config, dotted: str) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for name in path:
        if not isinstance(tree.setdefault(name, {}), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = value


def _check_text(value: Any, place: str) -> None:
    """ConfigError for text that is neither UTF-8 nor a path; bytes of a path that are not UTF-8 may stay."""
    for text in value if isinstance(value, list | tuple) else [value]:
        if isinstance(text, str) and ("\0" in text or re.search("[\ud800-\udc7f\udd00-\udfff]", text)):
            raise ConfigError(f"{place}: {_shown(text)} has a NUL or half of a surrogate pair; leave that out")


def _drop_alternatives(tree: dict[str, Any], dotted: str, value: Any) -> None:
    section, _, name = dotted.partition(".")
    if value is None or not isinstance(tree.get(section), dict):
        return
    for keys in ALTERNATIVES.get(section, ()):
        for other in keys:
            if name in keys and other != name:
                tree[section].pop(other, None)


def _what(kind: str, value: Any, error: Any) -> str:
    context, shown = error.get("ctx", {}), _shown(value)
    if kind == "literal_error":
        return f"{shown} is not one of {context['expected']}"
    if kind in BOUNDS:
        name, bound = BOUNDS[kind]
        return f"{shown} is out of range; it must be {name} {context[bound]:g}"
    if kind.startswith("model"):
        return f"{shown} is not a section; write `{error['loc'][-1]}:` and indented keys under it"
    mistake = next((words for start, words in MISTAKES.items() if kind.startswith(start)), None)
    return f"{shown} {mistake}" if mistake else f"{shown}: {error['msg']}"


def _shown(value: Any) -> str:
    """A value as a sentence has it: as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "…"
