"""Comparison of a run that was interrupted with one that was not: checkpoints, links, log."""

import json
from pathlib import Path

from groundup.checkpoint.log import read_log
from groundup.checkpoint.run_folder import RunFolder
from groundup.diagnostics.verify_resume import differing_metadata, largest_difference

TIME_FIELDS = {"tokens_per_s", "dt", "elapsed"}  # of log records
NOT_COMPARED = {"progress.json", "SHA256SUMS"}  # byte by byte, as they hold times; the first is compared by value
MAX_LOSS_DIFFERENCE = 0.05  # nats per token, of the last evaluation, between kernels that round differently


def differences(run: Path, reference: Path) -> str:
    """First difference between a finished run and the uninterrupted one; empty if they are bitwise equal."""
    one, other = (RunFolder(folder).steps()[-1] for folder in (run, reference))
    if one.name != other.name:
        return f"ended in {one.name}, not {other.name}"
    if found := checkpoint_difference(one, other):
        return f"not bitwise: {found}"
    for link in ("latest", "best"):
        targets = [
            str((folder / link).readlink()) if (folder / link).is_symlink() else None for folder in (run, reference)
        ]
        if targets[0] != targets[1]:
            return f"the link {link} is {targets[0]}, not {targets[1]}"
        if targets[0] and (found := checkpoint_difference(run / link, reference / link)):
            return f"not bitwise: {link}: {found}"
    # Each record of any attempt must be one of the uninterrupted run, and none may be missing. After a rollback a step
    # has two.
    records, known = _records(run), _records(reference)
    if unknown := sorted(records - known):
        return f"not bitwise: logged {unknown[0]}, the uninterrupted run not"
    missing = sorted(known - records)
    return f"not logged: {missing[0]}" if missing else ""


def checkpoint_difference(one: Path, other: Path) -> str:
    """First difference between all that two checkpoints hold, but for times; empty if there is none."""
    files = [{p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} for folder in (one, other)]
    if files[0] != files[1]:
        return f"of the files {', '.join(sorted(files[0] ^ files[1]))} only one checkpoint has each"
    worst, _ = largest_difference(one, other)
    if worst:
        return str(worst)
    if keys := differing_metadata(one, other):
        return f"progress.json differs in {', '.join(keys)}"
    differing = (f for f in sorted(files[0] - NOT_COMPARED) if (one / f).read_bytes() != (other / f).read_bytes())
    return next((f"{file} differs" for file in differing), "")


def other_losses(run: Path, reference: Path) -> str:
    """Whether evaluations were made at other steps, or the last one ended elsewhere; empty if not."""
    one, other = (_losses(folder) for folder in (run, reference))
    if one.keys() != other.keys():
        return f"evaluated at steps {sorted(one)}, not {sorted(other)}"
    last = max(one)
    far = abs(one[last] - other[last]) > MAX_LOSS_DIFFERENCE
    return f"the last validation loss is {one[last]}, not {other[last]}" if far else ""


def _losses(run: Path) -> dict[int, float]:
    return {record["step"]: record["val_loss"] for record in read_log(run / "log.jsonl") if record["event"] == "eval"}


def _records(run: Path) -> set[str]:
    """Logged steps, evaluations and samples, without times."""
    return {
        json.dumps({name: value for name, value in record.items() if name not in TIME_FIELDS}, sort_keys=True)
        for record in read_log(run / "log.jsonl")
        if record["event"] in ("step", "skip", "eval", "sample", "rollback")
    }
