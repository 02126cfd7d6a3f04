"""Command lines with one way to be wrong: a sentence, and exit status 2.

Options such as `--train.max_steps` are made from the fields of the config sections, and their values go through
`groundup.config.merge` like those of a YAML file: both are checked in the same place and refused in the same words.
"""

from __future__ import annotations

import argparse
import re
import types
import typing
from typing import Any, Literal, NoReturn

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from groundup.cli.aliases import HABITS
from groundup.config.merge import ConfigSource, did_you_mean
from groundup.config.presets import DEFAULT, PRESETS
from groundup.config.renamed import RENAMED_KEYS
from groundup.config.schema import Config
from groundup.errors import UsageError
from groundup.run.compose import compose_config

OPTION = re.compile(r"--[A-Za-z][\w.-]*")
# Other spellings of options that are asked for often.
SHORT = {("tracking", "backends"): ("--track",), ("train", "parallel"): ("--parallel",)}
UNKNOWN = re.compile(r"unrecognized arguments: (\S+)")


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError, suggests the nearest option, and never guesses abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Turn argparse's complaint into ours."""
        unknown = UNKNOWN.search(message)
        if unknown and unknown[1].startswith("-"):
            known = [
                option
                for option, action in self._option_string_actions.items()
                if option.startswith("--") and action.help != argparse.SUPPRESS
            ]
            option = unknown[1].split("=")[0]
            message = f"{option}: unknown option; {_suggest(option, known)}"
        elif unknown:
            message = f"{unknown[1]}: one argument too many; put text with spaces in quotes"
        raise UsageError(f"{message} (see `{self.prog} --help`)")


class Action(Parser):
    """The parser of a command within a command, which answers for its own options."""

    def parse_known_args(  # type: ignore[override]  # three overloads, of which argparse itself calls the first
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Like argparse's, but nothing stays unknown."""
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return parsed, rest


def _suggest(option: str, known: list[str]) -> str:
    """The nearest option, also by its last part alone: --n_layers means --model.n_layer; or what it is called here."""
    last = {name.removeprefix("--").rpartition(".")[2]: name for name in known if name != "--help"}
    word = option.lstrip("-")
    if word not in last and (here := HABITS.get(word)):
        (name,) = normalise([here.replace(",", " ").split()[0]])
        elsewhere = "generate" if name in ("--num_samples", "--max_tokens") else "train"
        return f"here that is {here}" + ("" if name in known or name[0] != "-" else f", of `groundup {elsewhere}`")
    for hint in (did_you_mean(option, last.values()), did_you_mean(option.lstrip("-").rpartition(".")[2], last)):
        if hint.startswith("did you mean"):
            found = hint.removeprefix("did you mean ").removesuffix("?")
            return f"did you mean {last.get(found, found)}?"
    return "there is none like it"


def normalise(argv: list[str]) -> list[str]:
    """Dashes inside option names become underscores, so that both spellings work; values stay as they are."""
    out: list[str] = []
    for i, word in enumerate(argv):
        if word == "--":
            return out + argv[i:]
        name, equals, value = word.partition("=")
        out.append("--" + name[2:].replace("-", "_") + equals + value if OPTION.fullmatch(name) else word)
    return out


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """A preset, `--data`, `--init-from`, `--config` files, and `--section.key` for every key."""
    parser.add_argument(
        "preset", nargs="?", metavar="PRESET", help=f"{', '.join(PRESETS)} [what a file names, or {DEFAULT}]"
    )
    parser.add_argument("--data", metavar="DIR", help="folder written by `groundup prepare`")
    add_files(parser)
    add_config_options(parser)


def add_files(parser: argparse.ArgumentParser) -> None:
    """What a config may begin with: a checkpoint, files, recipes."""
    parser.add_argument(
        "--init-from", "--init_from", metavar="FOLDER",
        help="checkpoint or run whose weights and dimensions to start with",
    )  # fmt: skip
    parser.add_argument("--init", dest="init", help=argparse.SUPPRESS)
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="YAML with sections, or a recipe; may be repeated"
    )
    parser.add_argument("--laptop", action="store_true", help="the small size that a recipe has for a laptop")


def config_of(args: argparse.Namespace) -> Config:
    """The config that a command line asks for. ConfigError, CheckpointError."""
    return preset_and_config(args)[1]


def preset_and_config(args: argparse.Namespace, options: dict[str, Any] | None = None) -> tuple[str, Config]:
    """The same, with the name of the preset below it; `options` are those of the command line."""
    given = config_overrides(args) | places(args) if options is None else options
    return compose_config(args.preset, args.config, ConfigSource("command line", given, typed=True), laptop=args.laptop)


def places(args: argparse.Namespace) -> dict[str, str]:
    """`--data` and `--init-from`, where they are given."""
    return {name: value for name in ("data", "init", "init_from") if (value := getattr(args, name)) is not None}


def add_config_options(parser: argparse.ArgumentParser, sections: tuple[str, ...] | None = None) -> None:
    """One `--section.key VALUE` for each field of the config, or of some of its sections."""
    for name, field in Config.model_fields.items():
        section = field.annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)) or (sections and name not in sections):
            continue
        group = parser.add_argument_group(name, (section.__doc__ or "").splitlines()[0])
        for key, inner in section.model_fields.items():
            group.add_argument(
                *SHORT.get((name, key), ()),
                f"--{name}.{key}",
                dest=f"{name}.{key}",
                metavar=_metavar(inner),
                default=argparse.SUPPRESS,
                help=f"{inner.description} [{_shown(name, key, inner.default)}]".replace("%", "%%"),
            )

    for old, new in RENAMED_KEYS.items():  # which stay readable, and are told their name of today
        if "." in old and (sections is None or new.partition(".")[0] in sections):
            parser.add_argument(f"--{old}", dest=old, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def config_overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The config options that were given, as nested sections; `none` means no value."""
    tree: dict[str, Any] = {}
    for dotted, value in vars(args).items():
        section, dot, key = dotted.partition(".")
        if dot:
            tree.setdefault(section, {})[key] = None if value.lower() in ("none", "null") else value
    return tree


def _metavar(field: FieldInfo) -> str:
    kinds = [field.annotation]
    if typing.get_origin(kinds[0]) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(kinds[0]) if kind is not type(None)]
    kind = kinds[0]
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        return "|".join(str(choice) for choice in typing.get_args(kind))
    return {int: "N", float: "X", bool: "true|false"}.get(typing.cast(type, kind), "TEXT")


def _shown(section: str, key: str, default: Any) -> str:
    if any(key in row.get(section, {}) for row in PRESETS.values()):
        return "by preset"
    return "none" if default is None else str(default).lower() if isinstance(default, bool) else str(default) or '""'
