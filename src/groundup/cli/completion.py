"""`groundup completion`, and the completion of a command line for the shells."""

import argparse
import os
from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from groundup.cli.parsing import Parser

SHELLS = ("bash", "zsh", "fish")

# Metavars of arguments that are files or folders.
PATHS = {"DIR", "RUN", "FILE", "FOLDER", "PATH", "RUN_OR_CHECKPOINT", "RUN_OR_DATA", "SOURCE", "TASK,…"}


def add_arguments(parser: Parser) -> None:
    parser.epilog = (
        "Tab then completes commands, presets, options and files. Add the line of your shell to ~/.bashrc, to\n"
        "~/.zshrc (after compinit), or to ~/.config/fish/config.fish.\n\n"
        '  eval "$(groundup completion bash)"\n'
        '  eval "$(groundup completion zsh)"\n'
        "  groundup completion fish | source"
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["groundup"], shell=args.shell))
    return 0


def complete(commands: Mapping[str, tuple[str, str]]) -> None:
    """Answer a shell that asks what may follow on its command line, and exit; no torch is imported.

    `commands`: the module and the summary of each.
    """
    from argcomplete import autocomplete

    autocomplete(build_parser(commands, os.environ.get("COMP_LINE", "").split()), always_complete_options=False)


def build_parser(commands: Mapping[str, tuple[str, str]], words: list[str]) -> argparse.ArgumentParser:
    """A parser of all commands, with the options of the one in `words`."""
    root = Parser(prog="groundup")
    parsers = root.add_subparsers(metavar="COMMAND", parser_class=Parser)
    for name, (module, summary) in commands.items():
        command = parsers.add_parser(name, help=summary)
        if name in words:
            import_module(f"groundup.cli.{module}").add_arguments(command)
            _complete_values(command)
    return root


def _complete_values(parser: argparse.ArgumentParser) -> None:
    """Let values and files complete what takes them, and nothing what is a number, say."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _complete_values(inner)
        elif not action.choices:
            is_path = action.metavar in PATHS or "--tokenizer" in action.option_strings
            action.completer = partial(_values, getattr(action, "proposed", ()), is_path)  # type: ignore[attr-defined]


def _values(proposed: Iterable[str], is_path: bool, prefix: str, **options: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return [*proposed, *(FilesCompleter()(prefix, **options) if is_path else ())]
