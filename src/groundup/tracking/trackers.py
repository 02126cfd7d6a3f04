"""Opens the trackers of a run: checks that they are installed, and gives every part of a resumed run the same id."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from groundup.config.sections import TrackingConfig
from groundup.errors import ConfigError
from groundup.tracking.async_tracker import AsyncTracker, NullTracker
from groundup.tracking.backends import BACKENDS, TRACKIO_REMOTE
from groundup.tracking.base import PointBuilder, RunInfo
from groundup.utils.files import replace_text
from groundup.utils.system import is_supported, requirements

EXTRA = "track"  # of groundup, with which trackers are installed
FACTS = ("config", "environment")  # of the settings, shown as they are
ID_FILE = "tracking.json"
ID = re.compile(r"[0-9a-f]{12}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def check(config: TrackingConfig) -> None:
    """Raise ConfigError if a tracker is missing, has an untested version, or would send records despite `offline`."""
    for name in config.backends:
        found = find_spec(name)
        if found is None or found.origin is None:  # without an origin it is a folder of that name, as wandb leaves
            raise ConfigError(f"tracking.backends: {name} is not installed; pip install 'groundup[{EXTRA}]'")
        _check_version(name)
    elsewhere = [variable for variable in TRACKIO_REMOTE if os.environ.get(variable)]
    if config.offline and "trackio" in config.backends and elsewhere:
        raise ConfigError(
            f"tracking.offline: {elsewhere[0]} is set, which sends trackio's records over the network; unset it"
        )


def _check_version(name: str) -> None:
    with suppress(metadata.PackageNotFoundError):  # importable without metadata: may work
        version = metadata.version(name)
        for requirement in requirements(EXTRA):
            if requirement.name == name and not is_supported(version, requirement.specifier):
                raise ConfigError(
                    f"tracking.backends: {name} is {version}, but groundup needs {requirement.specifier}; "
                    f"pip install 'groundup[{EXTRA}]'"
                )


def open_trackers(
    config: TrackingConfig, run: Path, settings: Mapping[str, Any], say: Callable[[str], None]
) -> NullTracker:
    """Start to show the run in the folder `run`; returns at once, and raises no error of a tracker.

    `settings` may hold `config` and `environment` (nested mappings, shown as they are), `flops_per_token` and
    `peak_flops` (see `PointBuilder`; None where unknown). Only one process of a run opens trackers. `say` is called
    within `record` and `close`, never from another thread.
    """
    if not config.backends:
        return NullTracker()
    run_id, name = run_identity(run, say)
    facts = {name: settings[name] for name in FACTS if settings.get(name)}
    info = RunInfo(config.project, name, run_id, run.resolve(), config.offline, facts)
    points = PointBuilder(settings.get("flops_per_token"), settings.get("peak_flops"))
    return AsyncTracker([BACKENDS[name] for name in dict.fromkeys(config.backends)], info, points, say)


def run_identity(run: Path, say: Callable[[str], None]) -> tuple[str, str]:
    """Id and name of a run in its trackers, from `run`/tracking.json, which is written on first use."""
    path = run / ID_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if ID.fullmatch(values["id"]) and NAME.fullmatch(values["name"]):
            return values["id"], values["name"]
        raise ValueError("no id or no name")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError):
        say(f"{path}: damaged, so trackers show this run as a new one")
    run_id = uuid.uuid4().hex[:12]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", run.resolve().name).strip("._-")[:60] or "run"
    name = f"{readable}-{run_id[:6]}"
    try:
        replace_text(path, json.dumps({"id": run_id, "name": name}) + "\n")
    except OSError as error:
        say(f"{path}: cannot be written ({error.strerror}), so a resumed run will be shown as a new one")
    return run_id, name
