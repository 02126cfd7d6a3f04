"""`groundup tune`: find a learning rate by short runs."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from groundup.cli.parsing import FIRST_KEYS, Parser, SubcommandParser, add_config_arguments, config_of, whole_number
from groundup.ui.chart import Series, braille_chart
from groundup.ui.console import Console
from groundup.ui.display import PlainDisplay
from groundup.ui.format import columns, json_line

if TYPE_CHECKING:
    from groundup.run.lr_search import Tuned

CHART = (72, 12)  # cells, lines

EPILOG = """First a range test: one run in which the learning rate grows until the loss rises. Then eight learning rates
below that point, each half of the next, train for N/4 steps with the configured schedule scaled to them, and up to
four lower ones while the lowest is the best; the best four, by held-out loss, train again for N/2, the best two for N.
With Muon, all peaks are scaled alike. About 7 N steps in all; on a CPU, repeatable for the same --train.seed. Nothing
is compiled, and nothing is written to disk.

Short runs favour high learning rates: the longer your own run, the more a larger N is worth.

  groundup tune lr gpt2-micro --data data/mine --steps 200"""


def add_arguments(parser: Parser) -> None:
    what = parser.add_subparsers(dest="what", metavar="lr", required=True, parser_class=SubcommandParser)
    lr = what.add_parser(
        "lr", help="find a learning rate", description="Find a learning rate for your config and data.", epilog=EPILOG
    )
    lr.usage = "groundup tune lr [PRESET] --data DIR [--steps N] [OPTION…]"
    lr.first = ("--data", "--steps", "--config", *FIRST_KEYS[3:], "--json")
    add_config_arguments(lr)
    lr.option("--steps N", "steps of the longest of the short runs [100]", type=whole_number, default=100)
    lr.option("--json", "print one JSON object; progress goes to standard error")


def run(args: argparse.Namespace) -> int:
    """Validate the config, tune, and print the result; progress goes to standard error."""
    config = config_of(args)

    from groundup.run.lr_search import tune_learning_rate

    display = PlainDisplay(partial(print, file=sys.stderr, flush=True), config.train.log_every)
    tuned = tune_learning_rate(config, display, steps=args.steps)
    print(_as_json(tuned)) if args.json else _print(tuned)
    return 0


def _as_json(tuned: Tuned) -> str:
    curve = [{"learning_rate": rate, "loss": loss} for rate, loss in tuned.curve]
    values = {"learning_rate": tuned.learning_rate, "options": tuned.options, "peaks": tuned.peak_lrs}
    values |= {"diverged_at": tuned.diverged_at, "curve": curve, "rounds": [asdict(r) for r in tuned.rounds]}
    return json_line(values)


def _print(tuned: Tuned) -> None:
    console = Console()
    if tuned.curve and console.encoding.startswith("utf"):
        points = [(math.log10(rate), loss) for rate, loss in tuned.curve]
        edges = math.floor(points[0][0]), math.ceil(points[-1][0])
        print("smoothed loss over log10 of the learning rate")
        console.print(braille_chart([Series(points, "cyan")], min(CHART[0], console.width), CHART[1], edges))
    print(f"the loss rose at {tuned.diverged_at:.2g}\n" if tuned.diverged_at else "the loss never rose\n")
    print("\n".join(_table(tuned)))
    if tuned.at_the_edge:
        steps = tuned.rounds[-1].steps << (len(tuned.rounds) - 1)  # whose first round is as long as the last one here
        print(f"\nthe lowest learning rate was the best, so a lower one may be better: --steps {steps} tries it")
    print(f"\nfor the command line:\n{tuned.options}")


def _table(tuned: Tuned) -> list[str]:
    """Held-out losses: one row per learning rate, one column per round."""
    losses = [{trial.learning_rate: trial.loss for trial in round_.trials} for round_ in tuned.rounds]
    rows = [["learning rate", *(f"{round_.steps} steps" for round_ in tuned.rounds), ""]]
    for rate in losses[0]:
        cells = ["" if rate not in found else _loss(found[rate]) for found in losses]
        rows.append([f"{rate:g}", *cells, "best" if rate == tuned.learning_rate else ""])
    return columns(rows)


def _loss(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.4f}"
