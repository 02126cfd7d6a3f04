"""Command-line parsing: every mistake is one sentence and exit status 2.

Options such as `--train.max_steps` are made from the fields of the config sections, and their values go through
`groundup.config.merge` like those of a YAML file: both are validated once, with the same messages.
"""

import argparse
import os
import re
import sys
import types
import typing
from typing import Any, Literal, NoReturn

from pydantic.fields import FieldInfo

from groundup.cli.aliases import ALIASES
from groundup.config.merge import ConfigSource, did_you_mean
from groundup.config.presets import DEFAULT, PRESETS
from groundup.config.renamed import RENAMED_KEYS
from groundup.config.schema import SECTIONS, Config, resume_rule
from groundup.config.types import parse_whole
from groundup.errors import UsageError
from groundup.run.compose import compose_config

CONFIG_OPTION = re.compile(r"--[A-Za-z][\w-]*\.[\w.-]*")
NEGATIVE_NUMBER = re.compile(r"-\.?\d")  # as argparse has it from Python 3.14 on: -1e-3 is a value, not an option
SHORT = {("tracking", "backends"): ("--track",), ("train", "parallel"): ("--parallel",)}  # (section, key) -> options
COMMAND_OF = {"--num-samples": "generate", "--max-tokens": "generate", "--tasks": "evaluate"}


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError, suggests the nearest option, and never guesses abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._given: list[str] = []
        self._negative_number_matcher = NEGATIVE_NUMBER
        self.color = False  # Python 3.14 colours help on a terminal, and these codes would be escaped

    def error(self, message: str) -> NoReturn:
        """Raise UsageError, with a suggestion for an unknown option."""
        dashed = [word for word in self._given if word.startswith("-") and os.path.lexists(word)]
        if dashed and message.startswith("the following arguments are required"):
            message = f"{dashed[0]}: taken for an option; a file of that name is given as ./{dashed[0]}"
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if unknown and unknown[1].startswith("-"):
            shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
            known = [name for action in shown for name in action.option_strings if name[:2] == "--"]
            option = unknown[1].split("=")[0]
            message = f"{option}: unknown option; {_suggest(option, known)}"
            if self.prog.endswith(" resume") and _is_key(option):
                message = f"{option}: cannot change when a run is resumed; start a new run with `groundup train`"
        elif unknown:
            message = f"{unknown[1]}: one argument too many; put text with spaces in quotes"
        raise UsageError(f"{message} (see `{self.prog} --help`)")

    def parse_known_args(  # type: ignore[override]  # three overloads, of which argparse itself calls the first
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Like argparse's, but `--max_tokens` is also `--max-tokens`; help shows the second."""
        self._given = sys.argv[1:] if args is None else list(args)
        for name, action in tuple(self._option_string_actions.items()):
            self._option_string_actions.setdefault(name[:2] + name[2:].replace("-", "_"), action)
        return super().parse_known_args(args, namespace)

    def option(self, spec: str, text: str, **options: Any) -> None:
        """Add an argument by its name and metavar, such as `--out DIR`, or a flag by its name; `text` is its help."""
        name, _, metavar = spec.partition(" ")
        options |= {"metavar": metavar} if metavar else {"action": "store_true"}
        self.add_argument(name, help=text, **options)


class SubcommandParser(Parser):
    """Parser of a command within a command; it reports its own unknown options."""

    def parse_known_args(  # type: ignore[override]
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Like Parser's, but an unknown option is an error."""
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return parsed, rest


def _is_key(option: str) -> bool:
    """Whether an option names a key of the config."""
    try:
        return bool(resume_rule(option.removeprefix("--").replace("-", "_")))
    except (KeyError, AttributeError):  # of a section, or of a value
        return False


def _suggest(option: str, known: list[str]) -> str:
    """A hint for an unknown option: its name here, or the nearest option, also by its last part (--n_layers)."""
    last = {name.removeprefix("--").rpartition(".")[2].replace("-", "_"): name for name in known if name != "--help"}
    word = option.lstrip("-").replace("-", "_")
    if word not in last and (here := ALIASES.get(word)):
        (name,) = normalise([here.replace(",", " ").split()[0]])
        command = COMMAND_OF.get(name, "train")
        return f"here that is {here}" + ("" if name in known or name[0] != "-" else f", of `groundup {command}`")
    for hint in (did_you_mean(option, last.values()), did_you_mean(word.rpartition(".")[2], last)):
        if hint.startswith("did you mean"):
            found = hint.removeprefix("did you mean ").removesuffix("?")
            return f"did you mean {last.get(found, found)}?"
    return "no option is like it"


def normalise(argv: list[str]) -> list[str]:
    """Replace dashes in config keys by underscores, so that both spellings work; values stay as they are."""
    out: list[str] = []
    for i, word in enumerate(argv):
        if word == "--":
            return out + argv[i:]
        name, equals, value = word.partition("=")
        out.append("--" + name[2:].replace("-", "_") + equals + value if CONFIG_OPTION.fullmatch(name) else word)
    return out


def check_words(argv: list[str]) -> None:
    """UsageError for a word that can be neither a path nor a text."""
    for word in argv:
        if "\0" in word:
            raise UsageError(f"{word}: has a NUL character; leave it out")


def whole_number(text: str) -> int:
    """Type of an option that takes a whole number, also as `1e3`."""
    try:
        return int(parse_whole(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def utf8(word: str) -> str:
    """Type of an argument that is text: UTF-8 whatever the locale, as which Python may have decoded it otherwise."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"{word!r} is not UTF-8; give the text in that encoding") from None


def none_or_text(word: str) -> str | None:
    """Type of a config option that is no text: `none` means no value."""
    return None if word.lower() in ("none", "null") else word


def call_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """All arguments but `--json`, as keywords of the function that a command calls."""
    return {name: value for name, value in vars(args).items() if name != "json"}


def add_model(parser: Parser, *, device: bool = False) -> None:
    """Add arguments that choose a model: a run or checkpoint, which of its checkpoints, and the `device` to use."""
    parser.option("path RUN_OR_CHECKPOINT", "folder written by `groundup train` or `groundup import`")
    parser.option(
        "--checkpoint NAME",
        "latest, best (by validation loss), or a name such as step-00001000 [latest]",
        default="latest",
    )
    if device:
        parser.option("--device DEVICE", "auto, cpu, cuda, cuda:N or mps [auto]", default="auto")


def add_source(parser: Parser) -> None:
    """Add arguments that choose a model to publish, and its licence."""
    add_model(parser)
    parser.option("--license ID", "of the model, such as mit or cc-by-4.0 [the card says: none given]", default="")


def add_text_fields(parser: Parser) -> None:
    """Add options on how text is read from files."""
    parser.option("--column NAME", "field of .jsonl and .parquet that holds the text [text]", default="text")
    parser.add_argument(
        "--errors",
        default="strict",
        choices=("strict", "replace"),
        help="invalid UTF-8: stop and report the position, or replace it by U+FFFD [strict]",
    )


def add_config_arguments(parser: Parser) -> None:
    """Add a preset, `--data`, `--init-from`, `--config` files, and `--section.key` for every key."""
    parser.option("preset PRESET", f"{', '.join(PRESETS)} [the one a file names, or {DEFAULT}]", nargs="?")
    parser.option("--data DIR", "folder written by `groundup prepare`")
    add_config_files(parser)
    add_config_options(parser)


def add_config_files(parser: Parser) -> None:
    """Add options that name what a config starts from: a checkpoint, files, recipes."""
    parser.option("--init-from FOLDER", "checkpoint or run whose weights and dimensions to start with")
    parser.add_argument("--init", help=argparse.SUPPRESS)
    parser.option("--config FILE", "YAML with sections, or a recipe; may be repeated", action="append", default=[])
    parser.option("--laptop", "use the recipe's size for a laptop")


def config_of(args: argparse.Namespace) -> Config:
    """The config that a command line asks for. ConfigError, CheckpointError."""
    return preset_and_config(args)[1]


def preset_and_config(args: argparse.Namespace, options: dict[str, Any] | None = None) -> tuple[str, Config]:
    """Name of the preset, and the config; `options` replace those of the command line."""
    given = config_overrides(args) if options is None else options
    return compose_config(args.preset, args.config, ConfigSource("command line", given, typed=True), laptop=args.laptop)


def add_config_options(parser: argparse.ArgumentParser, sections: tuple[str, ...] | None = None) -> None:
    """Add one `--section.key VALUE` for each field of the config, or of some sections; previous names are hidden."""
    for name, section in SECTIONS.items():
        if sections and name not in sections:
            continue
        group = parser.add_argument_group(name, (section.__doc__ or "").splitlines()[0])
        for key, inner in section.model_fields.items():
            group.add_argument(
                *SHORT.get((name, key), ()),
                f"--{name}.{key}",
                dest=f"{name}.{key}",
                metavar=_metavar(inner),
                type=utf8 if key == "prompt" else str if inner.annotation is str else none_or_text,
                default=argparse.SUPPRESS,
                help=f"{inner.description} [{_shown(name, key, inner.default)}]".replace("%", "%%"),
            )

    for old, new in RENAMED_KEYS.items():
        if "." in old and (sections is None or new.partition(".")[0] in sections):
            parser.add_argument(
                f"--{old}", dest=old, type=none_or_text, default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )


def config_overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The config options that were given, as nested sections, and paths."""
    tree: dict[str, Any] = {}
    for dotted, value in vars(args).items():
        section, dot, key = dotted.partition(".")
        if dot:
            tree.setdefault(section, {})[key] = value
        elif dotted in ("data", "init", "init_from") and value is not None:
            tree[dotted] = value
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
    if default in (None, ()):
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default) or '""'
