"""`groundup push`."""

from __future__ import annotations

import argparse
import json

from groundup.cli.export import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from groundup.cli.parsing import add_source

    parser.epilog = (
        "Exports as `groundup export --to hf` does, checks that, and sends it in one commit. The hub must know you:\n"
        "`hf auth login`, or HF_TOKEN.\n\n"
        "  groundup push runs/book me/book --private --license mit"
    )
    add_source(parser)
    parser.add_argument("repository", metavar="OWNER/NAME", help="where to; created if there is none")
    parser.add_argument("--private", action="store_true", help="create it for its owner alone; a public one is refused")
    parser.add_argument("--revision", metavar="B", help="branch to commit to [main]")
    parser.add_argument("--message", metavar="M", help="of the commit [which checkpoint it is]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Push, and say where it is."""
    from groundup.interop.push import push

    done = push(
        args.path,
        args.repository,
        private=args.private,
        revision=args.revision,
        message=args.message,
        checkpoint=args.checkpoint,
        license=args.license,
    )
    if args.json:
        print(json.dumps({"url": done.url, "commit": done.commit, "checkpoint": done.export.checkpoint}))
        return 0
    tell(done.export)
    print(f"{done.export.checkpoint} is at {done.url} (commit {done.commit[:12]})")
    return 0
