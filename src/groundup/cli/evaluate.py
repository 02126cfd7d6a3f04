"""`groundup evaluate`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = "Losses are in nats a token, over non-overlapping windows of the model's context, in fp32."
    parser.add_argument("path", metavar="RUN_OR_CHECKPOINT", help="folder written by `groundup train`")
    parser.add_argument("--data", metavar="DIR", help="prepared folder [the run's own]")
    parser.add_argument("--split", choices=("train", "val"), default="val", help="which part of it [val]")
    parser.add_argument("--tokens", type=int, metavar="N", help="score about N tokens, spread evenly [all]")
    parser.add_argument("--window", type=int, metavar="N", help="score in windows of N tokens [the model's context]")
    parser.add_argument(
        "--checkpoint",
        default="latest",
        metavar="NAME",
        help="latest, best (by validation loss), or such as step-00001000 [latest]",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps [auto]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    from groundup.api import evaluate

    result = evaluate(
        args.path,
        data=args.data,
        split=args.split,
        tokens=args.tokens,
        window=args.window,
        checkpoint=args.checkpoint,
        device=args.device,
    )
    if args.json:
        print(json.dumps(asdict(result)))
    else:
        print(f"{result.split} loss    {result.loss:.4f} nats a token over {result.tokens:,} tokens")
        print(f"perplexity  {result.perplexity:.2f}")
        print(f"bits/byte   {result.bits_per_byte:.4f}")
    return 0
