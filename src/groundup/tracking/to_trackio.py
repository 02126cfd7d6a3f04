"""trackio: a database on this machine, read by `trackio show`."""

from __future__ import annotations

import sys
from typing import Any

from groundup.tracking.base import RunInfo, TrackerType
from groundup.tracking.points import Point, fenced

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")  # environment variables that send its records elsewhere
TALKATIVE = ("trackio", "trackio.run", "trackio.utils")  # modules that print to standard output


class _Trackio:
    def __init__(self, place: RunInfo) -> None:
        import trackio

        for name in TALKATIVE:  # standard output belongs to the run, and --json to its one object
            vars(sys.modules[name])["print"] = _nothing
        if place.offline:
            vars(sys.modules["trackio.run"])["_get_default_namespace"] = _nothing  # asks the hub who is logged in
        self._markdown = trackio.Markdown
        self._run = trackio.init(
            project=place.project, name=place.name, config=dict(place.facts), resume="allow", embed=False
        )

    def log(self, point: Point) -> None:
        texts = {name: self._markdown(fenced(text)) for name, text in point.texts.items()}
        self._run.log({**point.numbers, **texts}, step=point.step)

    def close(self) -> None:
        self._run.finish()


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


TRACKIO = TrackerType("trackio", _Trackio, "look at its folder (TRACKIO_DIR) and at its space, if you gave it one")
