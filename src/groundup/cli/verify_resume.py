"""`groundup verify-resume`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from groundup.cli.parsing import FIRST_KEYS, Parser, add_config_arguments, config_of, whole_number
from groundup.errors import TrainingError, UsageError
from groundup.ui.format import json_line

if TYPE_CHECKING:
    from groundup.diagnostics.verify_resume import Outcome

NOTHING_PROVED = 3  # exit status
STEPS = 8  # a kill after 4: optimizer state, averages and warm-up have begun to matter


def add_arguments(parser: Parser) -> None:
    parser.usage = "groundup verify-resume [PRESET] --data DIR [--steps N] [OPTION…]"
    parser.first = ("--data", "--steps", "--config", *FIRST_KEYS[3:], "--json")
    parser.epilog = (
        "Takes the arguments of `groundup train`. In a temporary folder it trains N steps, and again with SIGKILL\n"
        "half-way and a resume, each in a process of its own, and compares weights, optimizer state, averages, loss\n"
        "scaler and logged losses. Learning rates are those of the full run; a --train.max_time becomes the number of\n"
        "steps that would fit into it.\n"
        "Exit status: 0 bitwise identical, 1 not, 2 a mistake in the arguments, 3 a trial run failed, which proves\n"
        "nothing; with --json, `bitwise` is then null and `error` says why.\n\n"
        "  groundup verify-resume gpt2-mini --data data/book --model.dropout 0.1"
    )
    add_config_arguments(parser)
    parser.option("--steps N", f"steps of each run [{STEPS}]", type=whole_number, default=STEPS)
    parser.option("--json", "print one JSON object; progress goes to standard error")


def run(args: argparse.Namespace) -> int:
    config = config_of(args)
    if config.data is None:
        raise UsageError("--data: not given; give the folder of prepared tokens to train on")

    from groundup.diagnostics.verify_resume import verify_resume

    stream = sys.stderr if args.json else sys.stdout
    try:
        outcome = verify_resume(config, steps=args.steps, report=lambda line: print(line, file=stream, flush=True))
    except TrainingError as error:
        print(f"groundup: {error}", file=sys.stderr)
        if args.json:
            print(json_line({"bitwise": None, "error": str(error)}))
        return NOTHING_PROVED
    if args.json:
        previous_names = {"books": outcome.metadata}
        print(json_line({**asdict(outcome), **previous_names, "bitwise": outcome.bitwise}))
    else:
        print("\n".join(_lines(outcome)))
    return 0 if outcome.bitwise else 1


def _lines(outcome: Outcome) -> list[str]:
    if outcome.bitwise:
        steps = outcome.steps - outcome.killed_after
        return [f"bitwise identical: {outcome.tensors} tensors, and the losses of {steps} steps after the kill"]
    lines = ["not bitwise identical"]
    if not outcome.repeatable:
        lines.append(
            "the two runs differed before the kill: this machine does not compute the same twice with this config, "
            "so resuming is not to blame; try --train.deterministic true"
        )
    if outcome.difference:
        largest = outcome.difference.largest
        size = "missing, misshapen or not finite" if largest is None else f"{largest:.3g}"
        lines.append(f"largest difference: {size} in {outcome.difference.tensor} of {outcome.difference.file}")
    if outcome.losses_from:
        lines.append(f"logged losses differ from step {outcome.losses_from} on, after a kill at {outcome.killed_after}")
    if outcome.metadata:
        lines.append(f"progress.json differs in {', '.join(outcome.metadata)}")
    return lines
