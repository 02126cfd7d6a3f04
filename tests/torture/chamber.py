"""Runs the torture test of each config, and prints its report."""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import torch
import yaml
from attempts import PHASES, SOFT, Tally, Torture, run_forked, torture
from configs import CONFIGS, STEPS

import groundup
from groundup.checkpoint.run_folder import RunFolder
from groundup.cli import main as groundup_main

WORDS = "the a small model reads words and learns what comes next after some time it writes lines of its own".split()


def main() -> int:
    """Interrupt, compare and print the report; exit status 0 if every promise holds."""
    args = arguments()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="groundup-torture-"))
    names = args.only or list(CONFIGS)
    data = prepare(folder)
    tallies, started = {}, time.monotonic()
    print(f"seed {args.seed}", file=sys.stderr)
    for name, share in zip(names, shares(args.kills, len(names)), strict=True):
        case = Torture(CONFIGS[name], folder / name.replace(" ", "-").replace(",", ""), data)
        set_up(case)
        tally = tallies[name] = torture(case, share, f"{args.seed} {name}", args.run)
        line = f"{name}: {tally.signals} signals, {tally.runs} runs equal, {len(tally.failures)} failures"
        print(f"{line}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        for failure in tally.failures:
            number = failure.split()[1].rstrip(":")
            command = f"python tests/torture --seed {args.seed} --only '{name}' --run {number}"
            print(f"FAILED {name}: {failure}\n  repeat: {command}")
    print("\n".join(table(tallies)))
    print(", ".join(f"{n} {name}" for name, n in sorted(_sum(tallies).soft.items())))
    if args.json:
        args.json.write_text(json.dumps(as_json(args, tallies), indent=2) + "\n")
    if _sum(tallies).failures:
        print(f"kept for inspection: {folder}")
        return 1
    print(f"every run bitwise equal, no checkpoint lost, {time.monotonic() - started:.0f} s")
    shutil.rmtree(folder)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make torture", description="Signals at random moments.")
    parser.add_argument(
        "--kills",
        type=int,
        default=550,
        metavar="N",
        help="SIGKILLs and softer signals in total, over all configs [550]",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="random seed of moments and signals [1]")
    parser.add_argument("--only", action="append", choices=list(CONFIGS), metavar="CONFIG", help="may be repeated")
    parser.add_argument(
        "--run", action="append", type=int, metavar="N", help="only the run of this number; may be repeated"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON")
    return parser.parse_args()


def prepare(folder: Path) -> Path:
    """Prepare some 27,000 byte tokens, in a fork, because tokenizers start threads."""
    rng = random.Random(0)
    text, data = folder / "text.txt", folder / "data"
    text.write_text("".join(" ".join(rng.choices(WORDS, k=6)).capitalize() + ".\n" for _ in range(900)))
    assert run_forked(lambda: groundup.prepare(text, data, tokenizer="byte"), folder / "out.txt")[0] == 0
    return data


def set_up(case: Torture) -> None:
    """Train the uninterrupted run, and import all that it needed."""
    case.folder.mkdir()
    (case.folder / "config.yaml").write_text(yaml.safe_dump(case.row.config()))
    modules = case.folder / "modules.json"

    def uninterrupted() -> None:
        with suppress(SystemExit):
            groundup_main(case.command(case.reference))
        modules.write_text(json.dumps(list(sys.modules)))

    for attempt in (1, 2):  # the second, with all imports of the first done, gives a run's duration
        shutil.rmtree(case.reference, ignore_errors=True)
        started = time.monotonic()
        code, _ = run_forked(uninterrupted, case.reference.with_suffix(".txt"))
        finished = code == 0 and RunFolder(case.reference).steps()
        assert finished, case.reference.with_suffix(".txt").read_text()
        case.duration = time.monotonic() - started
        if attempt == 1:
            import_all(json.loads(modules.read_text()))
    threads = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").exists() else 1
    assert threads == 1, f"{threads} threads: a fork would copy one"


def import_all(names: list[str]) -> None:
    """Import the modules of a run, so that no attempt has to."""
    for name in names:
        if name not in sys.modules:
            with suppress(Exception):  # some are not files
                import_module(name)


def shares(n: int, parts: int) -> Iterator[int]:
    return (n // parts + (i < n % parts) for i in range(parts))


def table(tallies: dict[str, Tally]) -> list[str]:
    """Markdown table with one line per config."""
    soft = "/".join(number.name.removeprefix("SIG") for number in SOFT)
    head = ("config", soft, "KILL", *PHASES, "runs", "failures")
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    rows = {**tallies, "all": _sum(tallies)}
    for name, tally in rows.items():
        hits = " | ".join(str(tally.kills[phase]) for phase in PHASES)
        counts = f"{tally.soft.total()} | {tally.kills.total()} | {hits} | {tally.runs} | {len(tally.failures)}"
        lines.append(f"| {name} | {counts} |")
    return lines


def _sum(tallies: dict[str, Tally]) -> Tally:
    total = Tally()
    for tally in tallies.values():
        total.kills += tally.kills
        total.soft += tally.soft
        total.runs += tally.runs
        total.failures += tally.failures
    return total


def as_json(args: argparse.Namespace, tallies: dict[str, Tally]) -> dict:
    configs = {
        name: {"kills": dict(tally.kills), "soft": dict(tally.soft), "runs": tally.runs, "failures": tally.failures}
        for name, tally in tallies.items()
    }
    return {"seed": args.seed, "signals": _sum(tallies).signals, "steps": STEPS, "configs": configs}
