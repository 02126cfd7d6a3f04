"""`groundup doctor`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from groundup.errors import UsageError
from groundup.ui.format import visible

if TYPE_CHECKING:
    from groundup.diagnostics.finding import Finding

EPILOG = """Of the machine: cores, memory, Python and libraries, torch, GPU, the fastest type of number, the compiler
that train.compile needs, and the disk where the first folder lies, or here. Of prepared data, in one pass over it:
checksums, ids, documents on both sides of the split, copies, how much is held out, the tokenizer. Of a run: the
checksums of all its checkpoints, and whether its data is still the same. Exit status 1 where there is a problem.

  groundup doctor
  groundup doctor runs/mine data/mine

With --distributed, of the processes that torchrun or srun started, before hours are spent on them: whether all meet,
sums between them and their speed, clocks, and equal versions, GPUs and data on each; of RUN, room for it.

  torchrun --nproc-per-node 2 -m groundup doctor --distributed runs/mine --data data/mine"""

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}
NAME = 12  # columns
WIDEST = 110  # columns; longer lines are hard to read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = EPILOG
    parser.add_argument("paths", nargs="*", metavar="RUN_OR_DATA", help="runs, checkpoints and prepared folders")
    parser.add_argument("--data", metavar="DIR", help="prepared folder; also where that of the runs is now")
    parser.add_argument("--distributed", action="store_true", help="check the job that this process is part of")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds to wait for the job's other processes [60]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Check everything asked for, and print each finding as it comes."""
    data = Path(args.data) if args.data else None
    paths = [*map(Path, args.paths), *([data] if data else [])]
    if args.distributed:
        return _run_distributed(args, [path for path in paths if path != data], data)
    if args.timeout is not None:
        raise UsageError(f"--timeout {args.timeout:g}: how long to wait for other processes; give --distributed too")
    for path in paths:
        _kind(path)
    return int(tell(findings(paths, data, quiet=args.json), as_json=args.json))


def _run_distributed(args: argparse.Namespace, paths: list[Path], data: Path | None) -> int:
    """Examine the job; the first process tells what was found, and all end alike."""
    timeout = 60.0 if args.timeout is None else args.timeout
    if not 1 <= timeout <= 86_400:
        raise UsageError(f"--timeout {timeout:g}: must be between 1 and 86400 seconds")
    from groundup.diagnostics.distributed import examine, settled
    from groundup.diagnostics.rollcall import launched

    launched()
    found = examine(paths, data, timeout)
    if int(os.environ["RANK"]) == 0:
        return int(settled(tell(found, as_json=args.json)))
    return int(settled(sum(finding.status == "problem" for finding in found) > 0))  # to the last: all must meet


def tell(findings: Iterable[Finding], *, as_json: bool) -> bool:
    """Print each finding as it comes, or all as one object; whether there is a problem."""
    console = Console(highlight=False, soft_wrap=True, file=sys.stdout)
    found: list[Finding] = []
    for finding in findings:
        if not as_json:
            for line in shown(finding, found[-1] if found else None, _width(console)):
                console.print(line)
        found.append(finding)
    count: Counter[str] = Counter(finding.status for finding in found)
    if as_json:
        print(json.dumps({"ok": not count["problem"], "findings": [asdict(finding) for finding in found]}))
    else:
        console.print(Text(f"\n{_summary(count)}", style="bold"))
    sys.stdout.flush()
    return count["problem"] > 0


def findings(paths: list[Path], data: Path | None, *, quiet: bool) -> Iterator[Finding]:
    """The machine's, then those of each folder."""
    yield from machine_findings(paths[0] if paths else Path())
    from groundup.diagnostics.data_checks import check_data
    from groundup.diagnostics.trained import check_checkpoint, check_run
    from groundup.ui.progress import preparing

    for path in dict.fromkeys(paths):
        match _kind(path):
            case "data":
                with preparing(quiet=quiet) as watch:
                    found = list(check_data(path, watch))  # the bar is gone before anything is printed
                yield from found
            case "checkpoint":
                yield from check_checkpoint(path)
            case _:
                yield from check_run(path, data)


def machine_findings(place: Path) -> Iterator[Finding]:
    """What runs here, and how fast."""
    from groundup.diagnostics import machine, torch_checks

    yield machine.cores()
    yield machine.memory()
    yield from machine.libraries()
    usable = True
    for finding in torch_checks.torch_build():
        usable = usable and finding.status != "problem"
        yield finding
    if usable:
        yield torch_checks.precision()
        yield torch_checks.compiler()
    yield machine.disk(place)


def _kind(path: Path) -> str:
    """What a folder is; UsageError where it is nothing that can be checked."""
    if (path / "manifest.json").exists():
        return "data"
    if (path / "SHA256SUMS").exists():
        return "checkpoint"
    if (path / "config.yaml").exists():
        return "run"
    what = "neither a run, nor a checkpoint, nor prepared data" if path.exists() else "there is no such folder"
    raise UsageError(f"{path}: {what}; give one that `groundup train` or `groundup prepare` wrote")


def shown(finding: Finding, before: Finding | None, width: int | None) -> Iterator[Text]:
    """A finding in lines, under the name of what it is about where that is another than before."""
    if before is None or before.about != finding.about:
        yield Text(("\n" if before else "") + visible(finding.about), style="bold")
    mark, style = MARKS[finding.status]
    head = Text(f"{mark} ", style=style).append(f"{finding.name:<{NAME}}", style="not bold default")
    indent = " " * (NAME + 2)
    for i, line in enumerate(_wrapped(visible(finding.sentence), width)):
        yield head.append(line, style="not bold default") if i == 0 else Text(indent + line)
    for i, line in enumerate(_wrapped(visible(finding.remedy), width and width - 2) if finding.remedy else ()):
        yield Text(f"{indent}{'→' if i == 0 else ' '} {line}", style=style.removeprefix("bold "))


def _wrapped(text: str, width: int | None) -> list[str]:
    """Lines that leave room for the names; one line where nothing is to be wrapped."""
    if width is None:
        return [text.replace("\n", " ")]
    return textwrap.wrap(text, max(20, width - NAME - 2), break_on_hyphens=False) or [""]


def _width(console: Console) -> int | None:
    """Columns to write in; None where the output is no terminal, so that a line stays a line."""
    return min(WIDEST, shutil.get_terminal_size().columns) if console.is_terminal else None


def _summary(count: Counter[str]) -> str:
    parts = [f"{count[s]} {s}{'s' if count[s] != 1 else ''}" for s in ("problem", "warning") if count[s]]
    return " and ".join(parts) or "all is well"
