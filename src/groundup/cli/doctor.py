"""`groundup doctor`."""

import argparse
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from rich.text import Text

from groundup.cli.parsing import Parser
from groundup.diagnostics.finding import Finding
from groundup.errors import UsageError
from groundup.ui.console import Console
from groundup.ui.format import human_plural, json_line, visible
from groundup.utils.ranks import is_rank_0

EPILOG = """Checks the machine: cores, memory, Python and libraries, torch, GPU, the fastest precision, the C++ kernels,
the compiler of train.compile, and the disk of the first folder, or of this one. Of prepared data, in one pass over it:
checksums, ids, documents on both sides of the split, copies, how much is held out, the tokenizer. Of a run:
config, log, links, free disk, checksums and numbers of each checkpoint, whether each is the one that the next
continued from, and whether the data is the run's own. It changes nothing. Exit status 1 if there is a problem.

  groundup doctor
  groundup doctor runs/mine data/mine

With --distributed, checks the processes that torchrun or srun started, before hours are spent on them: whether all of
them join, with equal versions and data, and one GPU each.

  torchrun --nproc-per-node 2 -m groundup doctor --distributed --data data/mine"""

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}
NAME_COLUMNS, MAX_COLUMNS = 12, 110  # longer lines are hard to read
JOIN_SECONDS, MAX_JOIN_SECONDS = 60.0, 86_400.0


def add_arguments(parser: Parser) -> None:
    parser.epilog = EPILOG
    parser.option("paths RUN_OR_DATA", "runs, checkpoints and prepared folders", nargs="*")
    parser.option("--data DIR", "prepared folder; also the data of the runs, if it has moved")
    parser.option("--distributed", "check the job that this process is part of")
    parser.option("--timeout S", "seconds to wait for the job's other processes [60]", type=float)
    parser.option("--json", "print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Check everything asked for, and print each finding as it comes."""
    data = Path(args.data) if args.data else None
    paths = [Path(path) for path in args.paths]
    if args.distributed:
        return _run_distributed(args, paths, data)
    if args.timeout is not None:
        raise UsageError(f"--timeout {args.timeout:g}: how long to wait for other processes; give --distributed too")
    paths += [data] if data else []
    for path in paths:
        _kind(path)
    return int(print_findings(all_findings(paths, data, quiet=args.json), as_json=args.json))


def _run_distributed(args: argparse.Namespace, paths: list[Path], data: Path | None) -> int:
    """Check the job; the first process prints the findings, and all end with the same status."""
    timeout = JOIN_SECONDS if args.timeout is None else args.timeout
    if not 1 <= timeout <= MAX_JOIN_SECONDS:
        raise UsageError(f"--timeout {timeout:g}: must be between 1 and {MAX_JOIN_SECONDS:.0f} seconds")
    from groundup.diagnostics.distributed import check_job

    findings = list(check_job(paths, data, timeout))
    if is_rank_0():
        return int(print_findings(findings, as_json=args.json))
    return int(any(finding.status == "problem" for finding in findings))


def print_findings(findings: Iterable[Finding], *, as_json: bool) -> bool:
    """Print each finding as it comes, or all as one JSON object; return whether there is a problem."""
    console = Console(soft_wrap=True)
    # None where the output is no terminal, so that a line stays a line.
    width = min(MAX_COLUMNS, shutil.get_terminal_size().columns) if console.is_terminal else None
    found: list[Finding] = []
    for finding in findings:
        if not as_json:
            for line in _lines(finding, found[-1] if found else None, width):
                console.print(line)
        found.append(finding)
    count: Counter[str] = Counter(finding.status for finding in found)
    if as_json:
        print(json_line({"ok": not count["problem"], "findings": [asdict(finding) for finding in found]}))
    else:
        parts = [human_plural(count[status], status) for status in ("problem", "warning") if count[status]]
        console.print(Text(f"\n{' and '.join(parts) or 'no problems found'}", style="bold"))
    sys.stdout.flush()
    return count["problem"] > 0


def all_findings(paths: list[Path], data: Path | None, *, quiet: bool) -> Iterator[Finding]:
    """The machine's findings, then those of each folder."""
    yield from machine_findings(paths[0] if paths else Path())
    from groundup.diagnostics.data_checks import check_data
    from groundup.diagnostics.run_checks import check_lone_checkpoint, check_run
    from groundup.ui.progress import byte_progress

    for path in dict.fromkeys(paths):
        match _kind(path):
            case "data":
                with byte_progress(quiet=quiet) as progress:
                    found = list(check_data(path, progress))  # the bar is gone before anything is printed
                yield from found
            case "checkpoint":
                yield check_lone_checkpoint(path)
            case _:
                yield from check_run(path, data).findings()


def machine_findings(folder: Path) -> Iterator[Finding]:
    """Findings on this machine, and on the disk of `folder`."""
    from groundup.diagnostics import machine

    yield machine.cores()
    yield machine.memory()
    yield from machine.libraries()
    found = list(machine.torch_build())
    yield from found
    if all(finding.status != "problem" for finding in found):
        yield machine.precision()
        yield machine.kernels()
        yield machine.compiler()
    yield machine.disk(folder)


def _kind(path: Path) -> str:
    """Data, checkpoint or run; UsageError for a folder that is none of them."""
    if (path / "manifest.json").exists():
        return "data"
    if (path / "SHA256SUMS").exists():
        return "checkpoint"
    if (path / "config.yaml").exists() or (path / "checkpoints").exists():
        return "run"
    what = "neither a run, nor a checkpoint, nor prepared data" if path.exists() else "there is no such folder"
    raise UsageError(f"{path}: {what}; give one that `groundup train` or `groundup prepare` wrote")


def _lines(finding: Finding, before: Finding | None, width: int | None) -> Iterator[Text]:
    """A finding in lines, under a heading if it is about something else than the one before it."""
    if before is None or before.about != finding.about:
        yield Text(("\n" if before else "") + visible(finding.about), style="bold")
    mark, style = MARKS[finding.status]
    head = Text(f"{mark} ", style=style).append(f"{finding.name:<{NAME_COLUMNS}}", style="not bold default")
    indent = " " * (NAME_COLUMNS + 2)
    for i, line in enumerate(_wrapped(visible(finding.sentence), width)):
        yield head.append(line, style="not bold default") if i == 0 else Text(indent + line)
    for i, line in enumerate(_wrapped(visible(finding.remedy), width and width - 2) if finding.remedy else ()):
        yield Text(f"{indent}{'→' if i == 0 else ' '} {line}", style=style.removeprefix("bold "))


def _wrapped(text: str, width: int | None) -> list[str]:
    """Lines that leave columns for the names; a single line if `width` is None."""
    if width is None:
        return [text.replace("\n", " ")]
    return textwrap.wrap(text, max(20, width - NAME_COLUMNS - 2), break_on_hyphens=False) or [""]
