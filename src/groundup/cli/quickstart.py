"""`groundup quickstart`."""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.cli.generation_options import DEFAULTS
from groundup.cli.parsing import TOKENIZERS, Parser, add_text_fields, text_fields
from groundup.cli.prompt_line import can_talk, talk
from groundup.errors import UsageError
from groundup.sources.catalog import CORPORA
from groundup.sources.shakespeare import SHAKESPEARE
from groundup.ui.format import json_line
from groundup.ui.progress import byte_progress

TALK_MAX_TOKENS = 200  # of a text at the prompt line

if TYPE_CHECKING:
    from groundup.first_model.existing import ExistingRun
    from groundup.first_model.report import Report


def add_arguments(parser: Parser) -> None:
    parser.epilog = (
        "Looks at the text and the machine, chooses tokenizer, model, context, batch and run length, and says why.\n"
        "Without a text, it uses Tiny Shakespeare, which comes with groundup: no download.\n\n"
        "  groundup quickstart\n"
        "  groundup quickstart my-book.txt --minutes 10\n"
        "  groundup quickstart my-book.txt --minutes 60 --continue"
    )
    parser.first = (
        *("sources", "--minutes", "--out", "--continue", "--fresh", "--tokenizer", "--encoding", "--verbose"),
        *("--explain", "--json"),
    )
    parser.option("sources SOURCE", "texts, as for `groundup prepare` [Tiny Shakespeare]", nargs="*", proposed=CORPORA)
    parser.option("--minutes X", "time to train [3]", type=float, default=3.0)
    parser.option("--out RUN", "folder for data and run [runs/NAME, after the text]")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--continue", dest="longer", action="store_true", help="train the run in the folder longer")
    where.add_argument(
        "--fresh", action="store_true", help="start another run, in the next free folder, such as NAME-2"
    )
    parser.option("--tokenizer NAME", "as for `groundup prepare` [by the text]", proposed=TOKENIZERS)
    add_text_fields(parser)
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print all choices with their reasons, and the plan"
    )
    parser.option("--explain", "print how each figure of the report was computed")
    parser.option("--json", "print one JSON object; progress goes to standard error")


def run(args: argparse.Namespace) -> int:
    if not 0 < args.minutes < float("inf"):
        raise UsageError(f"--minutes {args.minutes}: must be more than 0")
    from groundup.cli.quickstart_report import show
    from groundup.first_model.existing import ExistingRun, free_folder, run_folder
    from groundup.first_model.workflow import quickstart, train_longer
    from groundup.ui.watch import watching

    sources = args.sources or [SHAKESPEARE]
    out = Path(args.out) if args.out else run_folder(sources)
    existing = None if args.fresh else ExistingRun.find(out)
    if args.longer and not existing:
        raise UsageError(f"--continue: there is no run in {out}; leave it out")
    longer = args.longer or (existing is not None and _wants_longer(existing, args, sources))
    text_options = text_fields(args)
    say = partial(print, file=sys.stderr if args.json else sys.stdout, flush=True)
    show_run = partial(watching, plain=args.json)
    if existing and longer:
        found = train_longer(
            sources,
            existing,
            existing.seconds(args.minutes * 60),
            tokenizer=args.tokenizer,
            text_options=text_options,
            say=say,
            watching=show_run,
        )
    else:
        found = quickstart(
            sources,
            free_folder(out) if args.fresh or existing else out,
            minutes=args.minutes,
            tokenizer=args.tokenizer,
            text_options=text_options,
            verbose=args.verbose,
            say=say,
            reading=partial(byte_progress, quiet=args.json),
            watching=show_run,
        )
    if args.json:
        print(json_line(_as_json(found)))
    else:
        show(found, explain=args.explain)
        if can_talk() and not found.result.signal:
            from groundup.generation.completion import engine_for

            command = ["groundup", "generate", str(found.result.run)]
            talk(found.model, partial(engine_for, found.model, 1), command, DEFAULTS | {"max_tokens": TALK_MAX_TOKENS})
    return 128 + found.result.signal if found.result.signal else 0


def _as_json(found: Report) -> dict[str, Any]:
    return {
        "run": str(found.result.run),
        "steps": found.result.step,
        "checkpoint": found.checkpoint,
        "val_loss": found.loss,
        "bits_per_byte": found.bits_per_byte,
        "untrained_bits_per_byte": found.untrained,
        "how": found.how,
        "baselines": [asdict(baseline) for baseline in found.baselines],
        "samples": [sample.text for sample in found.samples],
        "prompts": [sample.prompt for sample in found.samples],
        "held_out_continuation": found.truth,
        "growth": [{"step": step, "text": text} for step, text in found.growth],
        "overlap": found.overlap.as_json(),
    }


def _wants_longer(existing: ExistingRun, args: argparse.Namespace, sources: list[str]) -> bool:
    """Whether to train an existing run longer, rather than another one, as answered on a terminal.

    UsageError without a terminal.
    """
    from groundup.first_model.existing import free_folder

    seconds = existing.seconds(args.minutes * 60)
    path, minutes = existing.folder.path, seconds / 60
    holds = f"{path}: holds a run of {existing.planned / 60:g} minutes already, at step {existing.step:,}"
    if args.json or not can_talk():
        command = ["groundup", "quickstart", *sources, *(["--out", args.out] if args.out else []), *_given_words(args)]
        more, fresh = (shlex.join([*command, "--minutes", f"{n:g}", option]) for n, option in (
            (minutes, "--continue"), (args.minutes, "--fresh")
        ))  # fmt: skip
        raise UsageError(f"{holds}; train it for {minutes:g} minutes in all: `{more}`, or start another: `{fresh}`")
    rises = "; the learning rate rises again" if existing.longer(seconds) else ""
    print(f"{holds}\n  c  continue: train it for {minutes:g} minutes in all{rises}")
    print(f"  f  fresh: start another run in {free_folder(path)}; nothing is deleted\n  q  quit", flush=True)
    with suppress(EOFError):
        while (answer := input("c, f or q? ").strip().lower()) != "q":
            if answer in ("c", "f"):
                return answer == "c"
    raise SystemExit(0)


def _given_words(args: argparse.Namespace) -> list[str]:
    """The options on the text and its tokenizer that were given, as words of a command."""
    from groundup.first_model.existing import given_options

    options = given_options(text_fields(args)) | ({"tokenizer": args.tokenizer} if args.tokenizer else {})
    names = {"read_as": "as"}
    words = [(f"--{names.get(key, key)}", str(value)) for key, value in options.items()]
    return [word.replace("\n", "\\n").replace("\t", "\\t") for pair in words for word in pair]
