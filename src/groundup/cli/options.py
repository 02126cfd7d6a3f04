"""Options that several commands share."""

from __future__ import annotations

import argparse


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Which of a run's checkpoints."""
    parser.add_argument(
        "--checkpoint",
        default="latest",
        metavar="NAME",
        help="latest, best (by validation loss), or such as step-00001000 [latest]",
    )


def add_source(parser: argparse.ArgumentParser) -> None:
    """Which model, and its licence: what `groundup push` asks as well."""
    parser.add_argument("path", metavar="RUN_OR_CHECKPOINT", help="folder written by `groundup train`")
    add_checkpoint(parser)
    parser.add_argument(
        "--license", default="", metavar="ID", help="of the model, such as mit or cc-by-4.0 [the card says: none given]"
    )
