"""Command line. Only the chosen command's module is imported, so that help and errors appear at once.

Little is imported before `main`, which answers Ctrl-C.
"""

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

from groundup.cli.interrupts import INTERRUPTED, STATUS_INTERRUPTED, interruptible, terminable
from groundup.errors import FallbackWarning, GroundupError, UsageError
from groundup.ui.format import single_line
from groundup.ui.streams import printable_streams
from groundup.utils import ending_signal
from groundup.utils.ranks import is_rank_0

# Command -> (module, one line for --help). Of a module, add_arguments declares the options, and run executes the
# command and returns the exit status.
COMMANDS = {
    "quickstart": ("quickstart", "train a GPT on your text, and sample from it"),
    "prepare": ("prepare", "turn texts into tokens for training"),
    "corpora": ("corpora", "list the corpora that `groundup prepare` knows by name"),
    "tokenizer": ("tokenizer", "train a tokenizer, or show the tokens of a text"),
    "plan": ("plan", "estimate parameters, memory, time and disk of a run"),
    "tune": ("tune", "find a learning rate for your config and data"),
    "train": ("train", "train a GPT on prepared tokens"),
    "resume": ("resume", "resume an interrupted run, bit for bit"),
    "fsck": ("fsck", "check a run for damage, and name the newest good checkpoint"),
    "verify-resume": ("verify_resume", "prove on your config and machine that resuming is exact"),
    "evaluate": ("evaluate", "measure loss and tasks such as HellaSwag, with standard errors"),
    "compare": ("compare", "compare the losses of several runs, in a table and a plot"),
    "generate": ("generate", "generate text with a run or checkpoint"),
    "serve": ("serve", "serve models over the API of OpenAI, for programs"),
    "import": ("import_", "import a model of another program: GPT-2 from the hub, nanoGPT, llm.c"),
    "export": ("export", "write a model for transformers, llama.cpp, or a web page"),
    "push": ("push", "upload a model to the hub, as a repository for transformers"),
    "why": ("why", "show the documents behind any step of a run"),
    "doctor": ("doctor", "check this machine, runs and prepared data"),
    "presets": ("presets", "list the presets with their sizes"),
    "completion": ("completion", "print a script that lets bash, zsh or fish complete commands"),
}

MULTI_PROCESS = ("train", "resume", "evaluate", "doctor")  # commands that torchrun may start

FIRST = ("quickstart", "prepare", "plan", "train", "resume", "evaluate", "generate", "compare", "export")

# Words that other programs have for a command -> the command, or what to use instead.
OTHER_COMMANDS = {"sample": "generate", "eval": "evaluate", "pretrain": "train"}
COMMAND_ADVICE = {
    "chat": "a model trained here continues a text, also on a prompt line: groundup generate RUN",
    "convert": "that is groundup import MODEL --out DIR, or groundup export RUN --to hf --out DIR",
    "finetune": "that is groundup train --init-from RUN --data DIR --out RUN",
    "tokenize": "that is groundup prepare TEXTS --out DIR",
    "check": "that is groundup doctor, or groundup doctor RUN",
    "inspect": "that is groundup doctor RUN, or groundup why RUN STEP",
    "upload": "that is groundup push RUN OWNER/NAME",
    "download": "groundup import hf:OWNER/NAME --out DIR gets a model, groundup prepare NAME --out DIR a corpus",
    "list": "groundup presets lists presets, groundup corpora texts",
}

USAGE = """usage: groundup COMMAND [OPTION…]

Train GPTs from scratch on your own text.

{commands}

First steps:
  groundup quickstart                    # about 3 minutes, no download
  groundup prepare my-texts/ --out data/mine --tokenizer bpe:4096
  groundup train gpt2-micro --data data/mine --out runs/mine
  groundup generate runs/mine --prompt "Once"

`groundup COMMAND --help` explains a command.
"""

RANK_DELAY_SECONDS = 1.0  # other ranks wait so long before they print an error, as rank 0 may print the same one
OUTPUT_LOST, READER_GONE = 74, 141  # exit status: EX_IOERR of sysexits.h; what a shell reports after SIGPIPE
STOPPED = 143  # exit status of training that SIGTERM stopped; a display whose reader is gone stops it so
MAX_ERROR_CHARACTERS = 2000
GOMP_SPIN_COUNT = "1000"  # iterations that an idle thread spins before it sleeps


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit.

    Exit status: 0 done, 1 training gave up, 2 a user's mistake, 74 done, but output was lost, 141 the reader of the
    output is gone, 128 + n after signal n.
    """
    if "_ARGCOMPLETE" in os.environ:  # a shell asks, as `groundup completion` tells it to
        from groundup.cli.completion import complete

        complete(COMMANDS)
    # By default libgomp's idle threads spin for milliseconds and, on a shared machine, take the core from the thread
    # that they wait for. Must be set before torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPIN_COUNT)
    with printable_streams() as output:
        status = _run_and_report(sys.argv[1:] if argv is None else argv, until_exit=argv is None)
        with suppress(BrokenPipeError):
            output.flush()
        if isinstance(output.error, BrokenPipeError) and status in (0, STOPPED):
            status = READER_GONE
        elif output.error is not None and status == 0:
            status = OUTPUT_LOST
        _exit_distributed(status)
    sys.exit(status)


def _run_and_report(argv: list[str], *, until_exit: bool) -> int:
    """Run the command, with errors in one sentence on standard error; returns the exit status."""
    ending_signal.forget()
    try:
        with interruptible(until_exit=until_exit), terminable(quiet=not is_rank_0()):
            return run(argv)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or ending_signal.recorded() == signal.SIGINT:
            print(INTERRUPTED, file=sys.stderr, flush=True)
            return STATUS_INTERRUPTED
        if number := ending_signal.recorded():  # whatever the exception of its handler became
            return 128 + number
        return _report(error)


def _report(error: BaseException) -> int:
    """Print what ended the command; returns the exit status."""
    if isinstance(error, GroundupError):
        _print_error(error)
        return error.exit_status
    if isinstance(error, BrokenPipeError):  # `groundup generate … | head`
        return READER_GONE
    if isinstance(error, SystemExit):  # after `--help`
        return int(error.code or 0)
    if isinstance(error, OSError) and error.filename is not None:
        _print_error(f"{os.fsdecode(error.filename)}: {error.strerror}; name another, or make this one usable")
        return UsageError.exit_status
    traceback.print_exception(error)  # a bug of groundup
    return 1


def _print_error(message: object) -> None:
    if not is_rank_0():  # the launcher ends the other ranks if rank 0 fails with the same error
        time.sleep(RANK_DELAY_SECONDS)
    line = single_line(str(message))
    if len(line) > MAX_ERROR_CHARACTERS:  # of a text that a file holds; the place stands before it, the remedy after it
        line = f"{line[: MAX_ERROR_CHARACTERS // 2]} … {line[-MAX_ERROR_CHARACTERS // 2 :]}"
    print(f"groundup: {line}", file=sys.stderr, flush=True)


def _exit_distributed(status: int) -> None:
    """Exit here if this is one of several training processes."""
    if launch := sys.modules.get("groundup.distributed.launch"):  # not imported for this: that takes a second
        launch.exit_process(status)


def run(argv: list[str]) -> int:
    """Run the command that `argv` names; returns the exit status."""
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name == "help" and rest:
        name, *rest = [*rest, "--help"]
    if name in ("--help", "-h", "help", "--help-all"):
        _print_usage(everything=name == "--help-all")
        return 0
    if name in ("--version", "-V"):
        from groundup import __version__

        print(f"groundup {__version__}")
        return 0
    if name in OTHER_COMMANDS:
        print(f"groundup: {name} is groundup {OTHER_COMMANDS[name]}", file=sys.stderr)
        name = OTHER_COMMANDS[name]
    if name not in COMMANDS:
        from groundup.config.merge import did_you_mean

        advice = COMMAND_ADVICE.get(name) or did_you_mean(name, COMMANDS)
        raise UsageError(f"{name}: there is no such command; {advice}")
    if name not in MULTI_PROCESS and "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(f"{name}: runs in one process; only {', '.join(MULTI_PROCESS)} can use several")
    from groundup.cli.parsing import Parser, check_words, normalise
    from groundup.config.merge import AliasWarning, RenamedKeyWarning

    check_words(argv)
    module, summary = COMMANDS[name]
    command = import_module(f"groundup.cli.{module}")
    parser = Parser(prog=f"groundup {name}", description=summary[0].upper() + summary[1:] + ".")
    command.add_arguments(parser)
    with warnings.catch_warnings():
        for category in (AliasWarning, FallbackWarning, RenamedKeyWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = partial(_show_warning, warnings.showwarning)
        return command.run(parser.parse_args(normalise(rest)))


def _print_usage(*, everything: bool) -> None:
    from groundup.cli.help import commands_page

    names = list(COMMANDS) if everything else list(FIRST)
    others = [] if everything else [name for name in COMMANDS if name not in FIRST]
    print(commands_page(USAGE, {name: COMMANDS[name][1] for name in names}, others), end="")


def _show_warning(show: Callable[..., None], message: Warning | str, category: type[Warning], *rest: Any) -> None:
    """Print a warning of ours on one line, without its position in our code, and only on rank 0."""
    from groundup.config.merge import AliasWarning, RenamedKeyWarning

    if not issubclass(category, AliasWarning | FallbackWarning | RenamedKeyWarning):
        show(message, category, *rest)
    elif is_rank_0():
        print(f"groundup: {single_line(str(message))}", file=sys.stderr, flush=True)
