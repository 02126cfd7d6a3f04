"""Command-line parsing: every mistake is one sentence and exit status 2.

Options such as `--train.max_steps` are made from the fields of the config sections, and their values go through
`groundup.config.merge` like those of a YAML file: both are validated once, with the same messages.
"""

import argparse
import os
import re
import shlex
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic.fields import FieldInfo

from groundup.cli.help import help_page
from groundup.config.aliases import ADVICE_FOR, ALIASES, ALIASES_IN_SECTIONS
from groundup.config.merge import ConfigSource, closest
from groundup.config.presets import DEFAULT, PRESETS
from groundup.config.renamed import RENAMED_KEYS
from groundup.config.schema import SECTIONS, Config, resume_rule
from groundup.config.types import OnResume, parse_whole
from groundup.errors import UsageError
from groundup.run.compose import compose_config
from groundup.sources.catalog import CORPORA
from groundup.utils.files import resolved

CONFIG_OPTION = re.compile(r"--[A-Za-z][\w-]*\.[\w.-]*")
NEGATIVE_NUMBER = re.compile(r"-\.?\d")  # as argparse has it from Python 3.14 on: -1e-3 is a value, not an option
SHORT = {("tracking", "backends"): ("--track",), ("train", "parallel"): ("--parallel",)}  # (section, key) -> options
TOKENIZERS = ("auto", "byte", "char", "gpt1", "gpt2", "bpe:4096")  # proposed by completion
COMMAND_OF = {"--prompt": "generate", "--num-samples": "generate", "--max-tokens": "generate", "--tasks": "evaluate"}


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError, suggests the nearest option, and never guesses abbreviations."""

    presets = False  # whether help begins with all presets
    first: tuple[str, ...] = ()  # arguments on the first page of help, by option or destination; none: all
    note = ""  # at the end of the first page

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, add_help=False, **options)
        self.add_argument("-h", "--help", action=_Help, help="show the first page of help")
        self.add_argument("--help-all", action=_Help, help="show all options and details")
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
            option = unknown[1].split("=")[0]
            message = f"{option}: unknown option; {_suggest(option, self._suggestions())}"
            if self.prog.endswith(" resume") and _is_key(option):
                message = f"{option}: cannot change when a run is resumed; start a new run with `groundup train`"
        elif unknown:
            message = f"{unknown[1]}: one argument too many; put text with spaces in quotes"
        raise UsageError(f"{message} (see `{self.prog} --help`)")

    def _suggestions(self) -> dict[str, str]:
        """Long options to suggest -> how they are called in a message; previous names are not among them."""
        found = {}
        for action in sorted(self._actions, key=lambda action: not isinstance(action, _Alias)):
            for name in action.option_strings:
                if isinstance(action, _Alias) and "." not in name:
                    found[name] = f"{name} (--{action.key})"
                elif action.help != argparse.SUPPRESS and name[:2] == "--":
                    found[name] = name
        return found

    def parse_known_args(  # type: ignore[override]  # three overloads, of which argparse itself calls the first
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Like argparse's, but `--max_tokens` is also `--max-tokens`; help shows the second."""
        self._given = sys.argv[1:] if args is None else list(args)
        for name, action in tuple(self._option_string_actions.items()):
            self._option_string_actions.setdefault(name[:2] + name[2:].replace("-", "_"), action)
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        """The complete help, as `--help-all` prints it."""
        return help_page(self, everything=True)

    def preset_given(self) -> str:
        """The preset on the command line, whose values help shows."""
        return next((word for word in self._given if word in PRESETS), DEFAULT)

    def option(self, spec: str, text: str, *, proposed: Iterable[str] = (), **options: Any) -> None:
        """Add an argument by its name and metavar, such as `--out DIR`, or a flag by its name; `text` is its help.

        `proposed`: values for the completion of a shell; others are accepted too.
        """
        name, _, metavar = spec.partition(" ")
        options |= {"metavar": metavar} if metavar else {"action": "store_true"}
        propose(self.add_argument(name, help=text, **options), proposed)


def propose(action: argparse.Action, values: Iterable[str]) -> None:
    """Note values of an argument, which `cli.completion` reads."""
    action.proposed = tuple(values)  # type: ignore[attr-defined]


class _Help(argparse.Action):
    """`--help`, and `--help-all`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        print(help_page(parser, everything="--help-all" in self.option_strings), end="")
        parser.exit()


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


class _Alias(argparse.Action):
    """Option under a name of other trainers, which may be given once."""

    def __init__(self, option_strings: Sequence[str], dest: str, key: str, **options: Any) -> None:
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options)
        self.key = key

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if hasattr(namespace, self.dest):
            parser.error(f"{option}: given twice; give --{self.key} once")
        setattr(namespace, self.dest, values)


def _is_key(option: str) -> bool:
    """Whether an option names a key of the config."""
    key = option.removeprefix("--").replace("-", "_")
    try:
        return key in ALIASES or bool(resume_rule(key))
    except (KeyError, AttributeError):  # of a section, or of a value
        return False


def _suggest(option: str, known: dict[str, str]) -> str:
    """A hint for an unknown option: its name here, or the nearest option, also by its last part (--n_layers)."""
    last = {name.removeprefix("--").rpartition(".")[2].replace("-", "_"): name for name in known if name != "--help"}
    word = option.lstrip("-").replace("-", "_")
    if word not in last and (here := ADVICE_FOR.get(word)):
        (name,) = normalise([here.replace(",", " ").split()[0]])
        command = COMMAND_OF.get(name, "train")
        return f"here that is {here}" + ("" if name in known or name[0] != "-" else f", of `groundup {command}`")
    if option not in known and option in COMMAND_OF:
        return f"it is an option of `groundup {COMMAND_OF[option]}`"
    if word not in last and (key := ALIASES.get(word)):
        return f"--{key} is an option of `groundup train`"
    begun = sorted((name for name in last if name.startswith(word)), key=len) if word else []
    if begun:
        return f"did you mean {', '.join(known[last[name]] for name in begun[:3])}?"
    by_name, by_last = closest(option, last.values()), last.get(closest(word.rpartition(".")[2], last) or "")
    nearest = (by_last or by_name) if "." in word else (by_name or by_last)
    return f"did you mean {known[nearest]}?" if nearest else "no option is like it"


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


def number(text: str) -> float:
    """Type of an option that takes a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def utf8(word: str) -> str:
    """Type of an argument that is text: UTF-8 whatever the locale, as which Python may have decoded it otherwise."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"{word!r} is not UTF-8; give the text in that encoding") from None


def escaped(word: str) -> str:
    r"""Type of an option whose value may hold line ends and tabs, as `\n` and `\t`."""
    return utf8(word).replace("\\n", "\n").replace("\\t", "\t")


def none_or_text(word: str) -> str | None:
    """Type of a config option that is no text: `none` means no value."""
    return None if word.lower() in ("none", "null") else word


def call_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """All arguments but `--json` and `--quiet`, as keywords of the function that a command calls."""
    return {name: value for name, value in vars(args).items() if name not in ("json", "quiet")}


def add_model(parser: Parser, *, device: bool = False) -> None:
    """Add arguments that choose a model: a run or checkpoint, which of its checkpoints, and the `device` to use."""
    parser.option("path RUN_OR_CHECKPOINT", "folder written by `groundup train` or `groundup import`")
    parser.option(
        "--checkpoint NAME",
        "latest, best (by validation loss), or a name such as step-00001000 [latest]",
        default="latest",
        proposed=("latest", "best"),
    )
    if device:
        devices = ("auto", "cpu", "cuda", "mps")
        parser.option("--device DEVICE", "auto, cpu, cuda, cuda:N or mps [auto]", default="auto", proposed=devices)


def add_quantize(parser: Parser) -> None:
    """Add the option that packs the weights of a model."""
    parser.add_argument(
        "--quantize",
        choices=("none", "bf16", "int8"),
        default="none",
        help="weights of linear layers in bf16 (half of the memory) or, on a CPU, int8 (27 %%) [none]",
    )


def add_speculation(parser: Parser) -> None:
    """Add the option of speculative decoding."""
    parser.add_argument(
        "--speculation",
        choices=("auto", "on", "off"),
        default="auto",
        help="speculative decoding with n-gram drafts, same text; auto: at temperature 0 on a CPU [auto]",
    )


def add_source(parser: Parser) -> None:
    """Add arguments that choose a model to publish, and its licence."""
    add_model(parser)
    parser.option("--license ID", "of the model, such as mit or cc-by-4.0 [the card says: none given]", default="")


def add_text_fields(parser: Parser) -> None:
    """Add options on how text is read from files."""
    parser.option("--column NAME", "field of rows and tables that holds the text [text]", default="text")
    parser.add_argument(
        *("--as", "--read-as"),
        dest="read_as",
        choices=("text",),
        help="read every file as it is, markup included [by its format]",
    )
    parser.option(
        "--separator TEXT",
        r"divides plain texts into documents, such as '<|endoftext|>'; \n is a line end [a file is one]",
        type=escaped,
    )
    parser.option("--encoding NAME", "encoding of text files, such as cp1252 [utf-8]")
    parser.add_argument(
        "--errors",
        default="strict",
        choices=("strict", "replace"),
        help="invalid UTF-8: stop and report the position, or replace it by U+FFFD [strict]",
    )


def text_fields(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_text_fields`, as keywords of `open_sources`."""
    from groundup.sources.corpus import TEXT_OPTIONS

    return {name: getattr(args, name) for name in TEXT_OPTIONS}


# Keys of the config on the first page of help: length, learning rate, batch, context, device, seed.
FIRST_KEYS = (
    "train.max_steps", "train.max_time", "optimizer.learning_rate", "train.batch_tokens", "model.block_size",
    "train.device", "train.seed",
)  # fmt: skip
SHORT_NAMES = "Short: --max-steps, --minutes, --lr, --batch-size (sequences), --block-size, --device, --seed."


def add_config_arguments(parser: Parser) -> None:
    """Add a preset, `--data`, `--init-from`, `--config` files, and `--section.key` for every key."""
    add_preset(parser)
    parser.option("--data DIR", "folder written by `groundup prepare`")
    add_config_files(parser)
    add_config_options(parser)


def add_preset(parser: Parser) -> None:
    """Add a preset; help lists all of them."""
    parser.presets, parser.note = True, SHORT_NAMES
    parser.option("preset PRESET", "a preset; `groundup presets` lists them", nargs="?", proposed=PRESETS)


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
    _refuse_path(args.preset)
    given = config_overrides(args) if options is None else options
    return compose_config(args.preset, args.config, ConfigSource("command line", given, typed=True), laptop=args.laptop)


def _refuse_path(word: str | None) -> None:
    """UsageError, with the commands to use, for a text, a run, data or a config where a preset belongs."""
    if word is None or word in PRESETS or not (word in CORPORA or os.path.lexists(word)):
        return
    path, quoted = Path(word), shlex.quote(word)
    name = shlex.quote(resolved(path).name.partition(".")[0] or "mine")
    if (path / "manifest.json").exists():
        remedy = f"it is prepared data: groundup train {DEFAULT} --data {quoted} --out runs/{name}"
    elif (path / "SHA256SUMS").exists():
        remedy = f"it is a checkpoint: groundup train --init-from {quoted} --data DIR --out RUN"
    elif (path / "config.yaml").exists():
        remedy = f"it is a run: groundup resume {quoted}"
    elif path.suffix in (".yaml", ".yml"):
        remedy = f"it is a config: groundup train --config {quoted} --data DIR --out RUN"
    else:
        remedy = (
            f"to train on its text: groundup quickstart {quoted}; or in two steps: groundup prepare {quoted} --out "
            f"data/{name}, and groundup train {DEFAULT} --data data/{name} --out runs/{name}"
        )
    raise UsageError(f"{word}: is not a preset; {remedy}")


def add_config_options(parser: Parser, sections: tuple[str, ...] | None = None) -> None:
    """Add one `--section.key VALUE` for each field of the config, or of some `sections`, as for a run to resume.

    Other names, previous names, and keys that cannot change when a run is resumed are not in the help.
    """
    for name, section in SECTIONS.items():
        if sections and name not in sections:
            continue
        group = parser.add_argument_group(name, (section.__doc__ or "").splitlines()[0])
        for key, inner in section.model_fields.items():
            metavar, choices = _metavar(inner)
            hidden = sections and resume_rule(f"{name}.{key}") is OnResume.FIXED
            text = f"{inner.description} ({', '.join(choices)})" if metavar == "NAME" else f"{inner.description}"
            action = group.add_argument(
                *SHORT.get((name, key), ()),
                f"--{name}.{key}",
                dest=f"{name}.{key}",
                metavar=metavar,
                type=utf8 if key == "prompt" else str if inner.annotation is str else none_or_text,
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS if hidden else text.replace("%", "%%"),
            )
            propose(action, choices)

    for name, key in (ALIASES | ALIASES_IN_SECTIONS).items():
        if sections is None or key.partition(".")[0] in sections:
            option = name if "." in name else name.replace("_", "-")
            parser.add_argument(f"--{option}", dest=name, key=key, action=_Alias, type=none_or_text)

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
        elif dotted in ALIASES or (dotted in ("data", "init", "init_from") and value is not None):
            tree[dotted] = value
    return tree


def _metavar(field: FieldInfo) -> tuple[str, list[str]]:
    """How help names the value of a field, and the values to choose from, where these are few."""
    kinds = [field.annotation]
    if typing.get_origin(kinds[0]) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(kinds[0]) if kind is not type(None)]
    kind = kinds[0]
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        return "NAME", [str(choice) for choice in typing.get_args(kind)]
    choices = ["true", "false"] if kind is bool else []
    return {int: "N", float: "X", bool: "true|false"}.get(typing.cast(type, kind), "TEXT"), choices
