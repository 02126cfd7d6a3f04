"""`groundup fsck`: what `groundup doctor` finds in a run, without the machine."""

import argparse
from pathlib import Path

from groundup.cli.doctor import print_findings
from groundup.cli.parsing import Parser
from groundup.ui.format import json_line


def add_arguments(parser: Parser) -> None:
    parser.usage = "groundup fsck RUN [--data DIR] [--json]"
    parser.epilog = (
        "The checks that `groundup doctor RUN` makes of a run, without the machine; changes nothing.\n"
        "Exit status: 0 no problems found, 1 damage or files of a newer groundup, 2 there is no run.\n\n"
        "  groundup fsck runs/book"
    )
    parser.option("run RUN", "folder written by `groundup train`")
    parser.option("--data DIR", "the run's prepared folder, if it has moved")
    parser.option("--json", "print one JSON object")


def run(args: argparse.Namespace) -> int:
    from groundup.diagnostics.run_checks import check_run

    report = check_run(Path(args.run), Path(args.data) if args.data else None)
    if args.json:
        print(json_line(report.to_json()))
    else:
        print_findings(report.findings(), as_json=False)
    return 0 if report.ok else 1
