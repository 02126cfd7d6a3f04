"""`groundup push`: a model to the Hugging Face hub."""

from __future__ import annotations

import argparse
import json

from groundup.cli.export import print_check
from groundup.cli.parsing import add_source, call_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""

    parser.epilog = (
        "Exports as `groundup export --to hf` does, with its check, and sends that in one commit. It needs a token of\n"
        "the hub: `hf auth login`, or HF_TOKEN.\n\n"
        "  groundup push runs/book me/book --private --license mit"
    )
    add_source(parser)
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository of the hub; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create it as a private one; refuse one that is public")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to commit to [main]")
    parser.add_argument("--message", metavar="TEXT", help="commit message [names the checkpoint]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Push, and print the address."""
    from groundup.interop.push import push

    done = push(**call_arguments(args))
    if args.json:
        print(json.dumps({"url": done.url, "commit": done.commit, "checkpoint": done.export.checkpoint}))
        return 0
    print_check(done.export)
    print(f"{done.export.checkpoint} is at {done.url} (commit {done.commit[:12]})")
    return 0
