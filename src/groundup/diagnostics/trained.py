"""Runs and checkpoints: whether they can be gone on with, and on what."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from groundup.checkpoint.data_match import match_data
from groundup.checkpoint.files import PROGRESS, read_config, read_json, verify
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.diagnostics.finding import Finding, problem
from groundup.errors import GroundupError, NewerFormatError


def check_run(path: Path, moved: Path | None) -> Iterator[Finding]:
    """A run: its config, all of its checkpoints, and whether its data is still there and the same."""
    about, run = str(path), RunFolder(path)
    try:
        config = run.config()
    except GroundupError as error:
        yield problem(about, "config", error)
        return
    shape = config.model
    yield Finding(about, "config", "ok", f"{shape.n_layer} layers, {shape.n_embd} wide, context {shape.block_size}")
    whole, faults = _checked(run)
    yield _checkpoints(about, run, whole, faults)
    if whole:
        yield _data(about, config, whole[-1], moved)


def check_checkpoint(path: Path) -> Iterator[Finding]:
    """A checkpoint's checksums."""
    try:
        verify(path)
        read_config(path)
    except GroundupError as error:
        yield problem(str(path), "checkpoint", error)
    else:
        yield Finding(str(path), "checkpoint", "ok", "whole: every checksum holds")


def _checked(run: RunFolder) -> tuple[list[Path], dict[Path, GroundupError]]:
    """The checkpoints whose checksums hold, oldest first, and what is wrong with each of the others."""
    whole, faults = list[Path](), dict[Path, GroundupError]()
    for folder in run.steps():
        try:
            verify(folder)
        except GroundupError as error:
            faults[folder] = error
        else:
            whole.append(folder)
    return whole, faults


def _checkpoints(about: str, run: RunFolder, whole: list[Path], faults: dict[Path, GroundupError]) -> Finding:
    resume = f"`{shlex.join(['groundup', 'resume', str(run.path)])}`"
    if not whole and not faults:
        return Finding(about, "checkpoints", "warning", "none yet", f"{resume} begins again")
    fault = problem(about, "checkpoints", next(reversed(faults.values()))).sentence if faults else ""
    if not whole:
        return Finding(about, "checkpoints", "problem", f"none is whole: {fault}", "start a new run")
    newest = whole[-1]
    try:
        read_config(newest)
    except NewerFormatError as error:
        return problem(about, "checkpoints", error)
    except GroundupError:  # of which `groundup fsck` tells more
        pass
    if not faults:
        return Finding(about, "checkpoints", "ok", f"{len(whole)}, all whole, the newest {newest.name}")
    goes = f"goes back to {newest.name} by itself" if run.steps()[-1] in faults else f"goes on from {newest.name}"
    sentence = f"{len(whole)} of {len(whole) + len(faults)} whole: {fault}"
    return Finding(about, "checkpoints", "warning", sentence, f"{resume} {goes}")


def _data(about: str, config: Config, checkpoint: Path, moved: Path | None) -> Finding:
    place = moved or (Path(config.data) if config.data else None)
    if place is None:
        return Finding(about, "data", "warning", "the run names no folder", "say where its data is with --data DIR")
    try:
        found = match_data(place, read_json(checkpoint / PROGRESS))
    except GroundupError as error:
        return problem(about, "data", error)
    if found.answer == "same":
        return Finding(about, "data", "ok", f"{place}: what the run was trained on")
    sentence, _, remedy = found.message.rpartition("; ")
    return Finding(about, "data", "problem" if found.answer == "other" else "warning", sentence or remedy, remedy)
