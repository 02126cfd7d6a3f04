"""The cases: each reader's file, each change of it, and the commands that read it; and the report."""

import argparse
import gc
import json
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import zip_longest
from pathlib import Path

import material
from faults import FAULTS
from laws import Outcome, violations
from mutations import WHOLE, Mutation
from readers import READERS, Reader

from worker import Fault, Slot, fork, wait

FAULT_SECONDS = 2  # CPU time that a command may take when it is broken on purpose, perhaps so that it takes for ever


@dataclass(frozen=True)
class Case:
    """One change of one file, and a command."""

    reader: Reader
    mutation: Mutation
    command: str

    @property
    def name(self) -> str:
        words = self.command.partition(" --")[0]
        same = sum(command.startswith(words) for command in self.reader.commands)
        return f"{self.reader.name} | {self.mutation.name} | {words if same == 1 else self.command}"

    @property
    def broken(self) -> bool:
        return self.reader.required and self.mutation.broken


def of_reader(reader: Reader, random_: random.Random) -> Iterator[Case]:
    """Each change of a whole file with each command, then those of values, in random order, each with one of them."""
    changes = list(reader.mutations())
    first = [Case(reader, change, command) for command in reader.commands for change in changes if change in WHOLE]
    rest = [Case(reader, change, random_.choice(reader.commands)) for change in changes if change not in WHOLE]
    random_.shuffle(rest)
    yield from first
    yield from rest


def corpus(n: int, seed: int) -> tuple[list[Case], int]:
    """At most n cases, as many of each reader as possible, and how many there are."""
    rows = [list(of_reader(reader, random.Random(f"{seed} {reader.name}"))) for reader in READERS]
    whole = [case for row in rows for case in row if case.mutation in WHOLE]
    rest = [[case for case in row if case.mutation not in WHOLE] for row in rows]
    mixed = [case for turn in zip_longest(*rest) for case in turn if case]
    if 2 * n >= 3 * len(whole):
        return whole + mixed[: n - len(whole)], len(whole) + len(mixed)
    random_ = random.Random(seed)
    return random_.sample(whole, n // 2) + mixed[: n - n // 2], len(whole) + len(mixed)


def find(names: Sequence[str]) -> list[Case]:
    """The cases of these names; a name may be a part, if it is only one case's."""
    known = {
        case.name: case
        for reader in READERS
        for change in reader.mutations()
        for case in (Case(reader, change, command) for command in reader.commands)
    }
    known = {printable(key): case for key, case in known.items()}
    found = []
    for name in names:
        matching = [case for key, case in known.items() if key == name] or [c for k, c in known.items() if name in k]
        if not matching:
            sys.exit(f"{name}: no such case")
        found += matching
    return found


def run_cases(
    cases: Sequence[Case],
    free: list[Slot],
    fault: Fault | None,
    report: Callable[[Case, Outcome, list[str]], None],
) -> None:
    """Run all cases, one at a time in each slot."""
    waiting, running = iter(cases), {}
    material = free[0].folder.parent
    while True:
        while free and (case := next(waiting, None)):
            slot = free.pop()
            try:
                slot.prepare(material, case.reader.needs, lambda case=case: case.reader.apply(case.mutation))
            except RuntimeError as error:
                free.append(slot)
                report(case, Outcome("not run", "", "", 0, {}, {}), [str(error)])
                continue
            slot.start(shlex.split(case.command), fault)
            running[slot.pid] = slot, case
        if not running:
            return
        for pid, (slot, case) in list(running.items()):
            if outcome := slot.poll():
                del running[pid]
                free.append(slot)
                words = shlex.split(case.command)
                report(case, outcome, violations(words, outcome, broken=case.broken, folder=slot.folder))
        time.sleep(0.005)


def main(argv: list[str] | None = None) -> int:
    """Run cases and print those that break a law; exit status 0 if none does."""
    args = arguments(argv)
    folder = Path(tempfile.mkdtemp(prefix="groundup-hostile-")).resolve()
    set_up(folder)
    os.chdir(folder)
    named, failed = find(args.names), list[dict]()
    if args.cases or not named:
        cases, known = corpus(args.cases or 2000, args.seed)
        cases = [case for case in cases if not args.only or case.reader.name in args.only]
        kinds = len({case.reader.name for case in cases})
        print(f"{len(cases)} of {known} cases, {kinds} kinds of files, seed {args.seed}", flush=True)
        run_all(cases, folder, args, failed)
    for fault in (args.fault or [""]) if named else ():
        if fault:
            print(f"fault: {fault}")
        run_all(named, folder, args, failed, FAULTS.get(fault), details=True)
    if args.json:
        args.json.write_text(json.dumps(failed, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    return bool(failed)


def run_all(
    cases: Sequence[Case],
    folder: Path,
    args: argparse.Namespace,
    failed: list[dict],
    fault: Fault | None = None,
    *,
    details: bool = False,
) -> None:
    """Run cases, print those that break a law and add them to `failed`."""
    statuses, started, before = Counter(), time.monotonic(), len(failed)
    slots = [Slot(folder / f"slot-{n}", FAULT_SECONDS if fault else args.seconds) for n in range(args.jobs)]

    def report(case: Case, outcome: Outcome, broken_laws: list[str]) -> None:
        statuses[str(outcome.status)] += 1
        if (done := statuses.total()) % 100 == 0:
            print(f"{done:,} of {len(cases):,} cases, {len(failed) - before} failed", file=sys.stderr, flush=True)
        if details:
            print(f"{printable(case.name)}\nexit status {outcome.status}, {outcome.resident >> 20} MiB")
            print(f"{outcome.out!r}\n{outcome.err!r}")
        if broken_laws:
            failed.append({"reader": case.reader.name, "case": case.name, "laws": broken_laws})
            print("\n  ".join([f"FAILED {printable(case.name)}", *map(printable, broken_laws)]))
            print(f"  repeat: python tests/hostile {shlex.quote(printable(case.name))}", flush=True)

    run_cases(cases, slots, fault, report)
    counts = ", ".join(f"{n} x {status}" for status, n in statuses.most_common())
    seconds = time.monotonic() - started
    print(f"{len(cases)} cases in {seconds:.0f} s, exit statuses {counts}; {len(failed) - before} failed")


def printable(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make hostile", description="Files that others could have made.")
    parser.add_argument(
        "names", nargs="*", metavar="CASE", help="run these, and no others without --cases; a part of the name will do"
    )
    parser.add_argument("--cases", type=int, metavar="N", help="number of cases [2000]")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="random seed of the choice of cases [1]")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="commands at a time [2]")
    parser.add_argument(
        "--only", action="append", choices=[r.name for r in READERS], help="kind of file; may be repeated"
    )
    parser.add_argument("--seconds", type=int, default=20, metavar="N", help="CPU time that a command may take [20]")
    parser.add_argument(
        "--fault",
        action="append",
        choices=list(FAULTS),
        help="run the named cases on a broken program; may be repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the failures as JSON")
    args = parser.parse_args(argv)
    if args.json:
        args.json = args.json.resolve()
    return args


def set_up(folder: Path) -> None:
    """Write the valid inputs, and import all that writing them needed, so that no case has to."""

    def build() -> None:
        os.chdir(folder)
        with Path("build.txt").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            material.build()
        Path("modules.json").write_text(json.dumps(list(sys.modules)))

    assert wait(fork(build)) == 0, (folder / "build.txt").read_text()
    for name in json.loads((folder / "modules.json").read_text()):
        if name not in sys.modules and not name.startswith(("pyarrow", "pandas")):  # they start threads
            with suppress(Exception):  # some are not files
                import_module(name)
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads: a fork would copy one"
    gc.freeze()
