"""The command line. Only the chosen command's module is imported, so that help and mistakes answer at once."""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from importlib import import_module
from io import TextIOWrapper
from typing import Any

from groundup.cli.parsing import Parser, normalise
from groundup.config.merge import RenamedKeyWarning, did_you_mean
from groundup.errors import GroundupError, UsageError

# command -> (module, one line for --help)
COMMANDS = {
    "quickstart": ("quickstart", "train a GPT on your text, or on Python's documentation, and let it speak"),
    "prepare": ("prepare", "turn texts into tokens that training can read"),
    "corpora": ("corpora", "list the corpora that can be prepared by name"),
    "tokenizer": ("tokenizer", "train a tokenizer, or show how one cuts a text"),
    "plan": ("plan", "what a run would take: parameters, memory, time, disk"),
    "tune": ("tune", "find a learning rate for your config and data"),
    "train": ("train", "train a GPT on prepared tokens"),
    "resume": ("resume", "go on with an interrupted run, bit for bit"),
    "fsck": ("fsck", "look for damage in a run, and say where to go on"),
    "verify-resume": ("verify_resume", "prove on your config and machine that resuming is exact"),
    "evaluate": ("evaluate", "measure loss and tasks such as HellaSwag, with standard errors"),
    "compare": ("compare", "put the losses of several runs side by side, in a table and a picture"),
    "generate": ("generate", "let a run or checkpoint write"),
    "import": ("import_", "take over a model of another program: GPT-2 of the hub, nanoGPT, llm.c"),
    "export": ("export", "write a model for transformers or llama.cpp, or a page that runs it"),
    "push": ("push", "send a model to the hub, as a repository for transformers"),
    "why": ("trace_step", "the documents behind any step of a run"),
    "doctor": ("doctor", "check this machine, runs and prepared data"),
}

TOGETHER = ("train", "resume", "evaluate", "doctor")  # commands that torchrun may start

USAGE = """usage: groundup COMMAND [OPTION…]

Any text in, a GPT of your own out.

commands:
{commands}

`groundup COMMAND --help` tells all about a command. First steps:

  groundup quickstart                                    # about 3 minutes, no download
  groundup prepare my-texts/ --out data/mine --tokenizer bpe:4096
  groundup train gpt2-micro --data data/mine --out runs/mine
  groundup generate runs/mine --prompt "Once"
"""


AFTER_THE_FIRST = 1.0  # seconds
SPIN = "1000"  # times that an idle thread looks whether there is work, before it sleeps


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 training gave up, 2 a mistake in what was asked, 128 + n on signal n."""
    argv = sys.argv[1:] if argv is None else argv
    # Idle threads spin for some microseconds, then sleep: libgomp's default spins for milliseconds and, on a shared
    # machine, takes the core from the very thread it waits for. Must be set before torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks is shown escaped
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", RenamedKeyWarning)
            warnings.showwarning = _show_warning
            status = run(normalise(argv))
        _flush()
    except GroundupError as error:
        _tell(error)
        status = error.exit_status
    except KeyboardInterrupt:
        print("groundup: interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # `groundup generate … | head`
        sys.stderr.close()
        status = 141
    except Exception:  # a fault of ours
        _leave_together(1, traceback.format_exc())
        raise
    _leave_together(status)
    sys.exit(status)


def _leave_together(status: int, said: str = "") -> None:
    """End here where this is one of several processes that train together."""
    if "torch.distributed" in sys.modules:
        from groundup.distributed.launch import exit_process

        exit_process(status, said)


def _tell(error: GroundupError) -> None:
    """Print a mistake; of several processes that make the same one, the first speaks.

    The launcher ends the others meanwhile. Where it does not, the mistake is theirs alone and is told too.
    """
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    if rank != "0":
        time.sleep(AFTER_THE_FIRST)
    print(f"groundup: {error}", file=sys.stderr, flush=True)


def _show_warning(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
    """Print a warning in one line, without the place in our code; of several processes, the first does."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        print(f"groundup: {message}", file=sys.stderr, flush=True)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:  # the terminal was closed; what was asked for is done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(argv: list[str]) -> int:
    """Find the command and run it; returns the exit status."""
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
    if name not in TOGETHER and "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(f"{name}: runs in one process; only {', '.join(TOGETHER)} know what to do with several")
    module, summary = COMMANDS[name]
    command = import_module(f"groundup.cli.{module}")
    parser = Parser(prog=f"groundup {name}", description=summary[0].upper() + summary[1:] + ".")
    command.add_arguments(parser)
    return command.run(parser.parse_args(argv[1:]))
