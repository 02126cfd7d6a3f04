"""`groundup push`: a model to the Hugging Face hub."""

import argparse

from groundup.cli.export import print_check
from groundup.cli.parsing import Parser, add_source, call_arguments
from groundup.ui.format import json_line


def add_arguments(parser: Parser) -> None:
    parser.epilog = (
        "Exports as `groundup export --to hf` does, with its check, and uploads that in one commit. Needs a token:\n"
        "`hf auth login`, or HF_TOKEN.\n\n"
        "  groundup push runs/book me/book --private --license mit"
    )
    add_source(parser)
    parser.option("repository OWNER/NAME", "repository of the hub; created if it does not exist")
    parser.option("--private", "create a private repository; stop if it exists and is public")
    parser.option("--revision BRANCH", "branch to commit to [main]")
    parser.option("--message TEXT", "commit message [names the checkpoint]")
    parser.option("--json", "print one JSON object")


def run(args: argparse.Namespace) -> int:
    from groundup.interop.push import push

    done = push(**call_arguments(args))
    if args.json:
        print(json_line({"url": done.url, "commit": done.commit, "checkpoint": done.export.checkpoint}))
        return 0
    print_check(done.export)
    print(f"{done.export.checkpoint} is at {done.url} (commit {done.commit[:12]})")
    return 0
