"""Runs and checkpoints: whether they can be gone on with, and on what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from groundup.checkpoint.atomic import verify
from groundup.checkpoint.books import PROGRESS, read_json
from groundup.checkpoint.run import RunFolder
from groundup.config import Config
from groundup.data.shards import Manifest
from groundup.doctor.finding import Finding, problem
from groundup.errors import GroundupError


def check_run(path: Path, moved: Path | None) -> Iterator[Finding]:
    """A run: its config, its checkpoints, and whether its data is still there and the same."""
    about, run = str(path), RunFolder(path)
    try:
        config = run.config()
    except GroundupError as error:
        yield problem(about, "config", error)
        return
    shape = config.model
    yield Finding(about, "config", "ok", f"{shape.n_layer} layers, {shape.n_embd} wide, context {shape.block_size}")
    try:
        newest, rejected = run.newest_good()
    except GroundupError:  # which tells of all of them
        last = next(check_checkpoint(run.steps()[-1]))
        yield Finding(about, "checkpoints", "problem", f"none is whole: {last.sentence}", "start a new run")
        return
    if rejected:
        back = f"`groundup resume {path}` goes back to {newest.name if newest else 'the start'} by itself"
        yield Finding(about, "checkpoints", "warning", rejected[0].rpartition("; ")[0] or rejected[0], back)
    elif newest is None:
        remedy = f"`groundup resume {path}` begins again"
        yield Finding(about, "checkpoints", "warning", "none yet", remedy)
        return
    else:
        yield Finding(about, "checkpoints", "ok", f"{len(run.steps())}, the newest {newest.name} whole")
    if newest is not None:
        yield _data(about, config, newest, moved)


def check_checkpoint(path: Path) -> Iterator[Finding]:
    """A checkpoint's checksums."""
    try:
        verify(path)
    except GroundupError as error:
        yield problem(str(path), "checkpoint", error)
    else:
        yield Finding(str(path), "checkpoint", "ok", "whole: every checksum holds")


def _data(about: str, config: Config, checkpoint: Path, moved: Path | None) -> Finding:
    place = moved or Path(config.data or "")
    if not place.is_dir() or (moved is None and config.data is None):
        sentence = f"{place}: not there (any more), so the run cannot go on"
        return Finding(about, "data", "warning", sentence, "name its new place with --data DIR")
    try:
        same = Manifest.load(place).fingerprint == read_json(checkpoint / PROGRESS).get("data")
    except GroundupError as error:
        return problem(about, "data", error)
    if not same:
        sentence = f"{place}: not the data that this run was trained on"
        return Finding(about, "data", "problem", sentence, "name the right folder with --data DIR")
    return Finding(about, "data", "ok", f"{place}: what the run was trained on")
