"""`groundup fsck`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groundup.diagnostics.run_checks import CheckpointReport, RunReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.usage = "groundup fsck RUN [--data DIR] [--json]"
    parser.epilog = (
        "Reads every file of a run: config, log, checksums and numbers of each checkpoint, whether each is the one\n"
        "that the next went on from, links, scraps, free disk; of the data, whether it is the run's own, and the\n"
        "sizes of its files (`groundup doctor` reads them). It changes nothing.\n"
        "Exit status: 0 all is well, 1 something is damaged or of a newer groundup, 2 there is no run.\n\n"
        "  groundup fsck runs/book"
    )
    parser.add_argument("run", metavar="RUN", help="folder written by `groundup train`")
    parser.add_argument("--data", metavar="DIR", help="the prepared folder, where it has moved")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Examine the run and print what was found."""
    from groundup.diagnostics.run_checks import check_run

    findings = check_run(Path(args.run), Path(args.data) if args.data else None)
    print(_as_json(findings) if args.json else "\n".join(_lines(findings)))
    return 0 if findings.ok else 1


def _lines(findings: RunReport) -> list[str]:
    lines = []
    for checkpoint in findings.checkpoints:
        first, *others = checkpoint.problems or ("",)
        lines.append(f"{_state(checkpoint):<9}{checkpoint.name}  {first}".rstrip())
        lines += [f"{'':<9}{'':<{len(checkpoint.name)}}  {problem}" for problem in others]
    lines += [f"{'problem':<9}{problem}" for problem in findings.problems]
    lines += [f"{'note':<9}{note}" for note in findings.notes]
    good = sum(checkpoint.ok for checkpoint in findings.checkpoints)
    damaged = findings.problems or any(not (found.ok or found.newer) for found in findings.checkpoints)
    verdict = "damaged" if damaged else "all is well" if findings.ok else "written by a newer groundup"
    lines.append(f"{findings.run}: {verdict}, {good} good checkpoints")
    if findings.update:
        lines.append("next: update groundup")
    elif findings.command:
        start = f"from {findings.resume_from}" if findings.resume_from else "from the start"
        lines.append(f"next: {findings.command}  # {start}")
    elif findings.resume_from:
        lines.append("next: mend what is damaged above")
    else:
        lines.append("next: start a new run; no checkpoint is whole")
    return lines


def _state(checkpoint: CheckpointReport) -> str:
    return "ok" if checkpoint.ok else "newer" if checkpoint.newer else "damaged"


def _as_json(findings: RunReport) -> str:
    checkpoints = [{**asdict(checkpoint), "ok": checkpoint.ok} for checkpoint in findings.checkpoints]
    values = {**asdict(findings), "run": findings.run.as_posix(), "checkpoints": checkpoints, "ok": findings.ok}
    return json.dumps(values)
