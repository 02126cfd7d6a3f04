"""Command line. Only the chosen command's module is imported, so that help and errors appear at once."""

import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from io import TextIOWrapper
from typing import Any

from groundup.cli.parsing import Parser, normalise
from groundup.config.merge import RenamedKeyWarning, did_you_mean
from groundup.errors import GroundupError, UsageError

# Command -> (module, one line for --help). Of a module, add_arguments declares the options, and run executes the
# command and returns the exit status.
COMMANDS = {
    "quickstart": ("quickstart", "train a GPT on your text, or on Python's documentation, and sample from it"),
    "prepare": ("prepare", "turn texts into tokens for training"),
    "corpora": ("corpora", "list the corpora that can be prepared by name"),
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
    "import": ("import_", "import a model of another program: GPT-2 from the hub, nanoGPT, llm.c"),
    "export": ("export", "write a model for transformers or llama.cpp, or a page that runs it"),
    "push": ("push", "upload a model to the hub, as a repository for transformers"),
    "why": ("why", "show the documents behind any step of a run"),
    "doctor": ("doctor", "check this machine, runs and prepared data"),
}

MULTI_PROCESS = ("train", "resume", "evaluate", "doctor")  # commands that torchrun may start

USAGE = """usage: groundup COMMAND [OPTION…]

Train GPTs from scratch on your own text.

commands:
{commands}

`groundup COMMAND --help` explains a command. First steps:

  groundup quickstart                                    # about 3 minutes, no download
  groundup prepare my-texts/ --out data/mine --tokenizer bpe:4096
  groundup train gpt2-micro --data data/mine --out runs/mine
  groundup generate runs/mine --prompt "Once"
"""

RANK_DELAY_SECONDS = 1.0  # other ranks wait so long before they print an error, as rank 0 may print the same one
GOMP_SPIN_COUNT = "1000"  # iterations that an idle thread spins before it sleeps


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 training gave up, 2 a user's mistake, 128 + n after signal n."""
    argv = sys.argv[1:] if argv is None else argv
    # By default libgomp's idle threads spin for milliseconds and, on a shared machine, take the core from the thread
    # that they wait for. Must be set before torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPIN_COUNT)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # escape characters that the terminal's encoding lacks
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", RenamedKeyWarning)
            warnings.showwarning = partial(_show_warning, warnings.showwarning)
            status = run(normalise(argv))
        _flush()
    except GroundupError as error:
        if _rank() != "0":  # the launcher ends the other ranks if rank 0 fails with the same error
            time.sleep(RANK_DELAY_SECONDS)
        print(f"groundup: {error}", file=sys.stderr, flush=True)
        status = error.exit_status
    except KeyboardInterrupt:
        print("groundup: interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # `groundup generate … | head`
        sys.stderr.close()
        status = 141
    except Exception:  # a bug of groundup
        _exit_distributed(1, traceback.format_exc())
        raise
    _exit_distributed(status)
    sys.exit(status)


def _exit_distributed(status: int, message: str = "") -> None:
    """Exit here if this is one of several training processes."""
    if "torch.distributed" in sys.modules:
        from groundup.distributed.launch import exit_process

        exit_process(status, message)


def _rank() -> str:
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))


def _show_warning(show: Callable[..., None], message: Warning | str, category: type[Warning], *rest: Any) -> None:
    """Print a RenamedKeyWarning on one line, without its position in our code, and only on rank 0."""
    if not issubclass(category, RenamedKeyWarning):
        show(message, category, *rest)
    elif _rank() == "0":
        print(f"groundup: {message}", file=sys.stderr, flush=True)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:  # the terminal was closed, after the command was done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(argv: list[str]) -> int:
    """Run the command that `argv` names; returns the exit status."""
    name = argv[0] if argv else "--help"
    if name in ("--help", "-h", "help"):
        commands = "\n".join(f"  {name:<15}{line}" for name, (_, line) in COMMANDS.items())
        print(USAGE.format(commands=commands), end="")
        return 0
    if name in ("--version", "-V"):
        from groundup import __version__

        print(f"groundup {__version__}")
        return 0
    if name not in COMMANDS:
        raise UsageError(f"{name}: there is no such command; {did_you_mean(name, COMMANDS)}")
    if name not in MULTI_PROCESS and "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(f"{name}: runs in one process; only {', '.join(MULTI_PROCESS)} can use several")
    module, summary = COMMANDS[name]
    command = import_module(f"groundup.cli.{module}")
    parser = Parser(prog=f"groundup {name}", description=summary[0].upper() + summary[1:] + ".")
    command.add_arguments(parser)
    return command.run(parser.parse_args(argv[1:]))
