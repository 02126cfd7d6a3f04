"""The name under which every part of a resumed run is filed, kept in the run's folder."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from groundup.utils.files import replace_text

FILE = "tracking.json"
ID = re.compile(r"[0-9a-f]{12}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class Identity:
    """Who a run is to a tracker."""

    id: str
    name: str


def identity(run: Path, say: Callable[[str], None]) -> Identity:
    """The one in `run`/tracking.json, written there on first use; what is wrong with the file is said, not raised."""
    path = run / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if ID.fullmatch(values["id"]) and NAME.fullmatch(values["name"]):
            return Identity(values["id"], values["name"])
        raise ValueError("neither an id nor a name of ours")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError):
        say(f"{path}: damaged, so trackers show this run as a new one")
    new = _new(run)
    try:
        replace_text(path, json.dumps(asdict(new)) + "\n")
    except OSError as error:
        say(f"{path}: cannot be written ({error.strerror}), so a resumed run will be shown as a new one")
    return new


def _new(run: Path) -> Identity:
    unique = uuid.uuid4().hex[:12]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", run.resolve().name).strip("._-")[:60] or "run"
    return Identity(unique, f"{readable}-{unique[:6]}")
