"""tensorboard: event files in RUN/tensorboard, written without TensorFlow and without torch."""

from __future__ import annotations

import json
import time
from typing import Any

from groundup.tracking.base import RunInfo, TrackerType, flat
from groundup.tracking.points import Point, fenced

FLUSH_SECONDS = 10  # after which a point can be seen
QUEUE = 100  # events between us and tensorboard's own thread


class _Tensorboard:
    def __init__(self, place: RunInfo) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._Event, self._Summary, self._text = Event, Summary, text_pb
        self._writer = EventFileWriter(str(place.folder / "tensorboard"), QUEUE, FLUSH_SECONDS)
        self._write(0, hparams_pb(flat(place.facts.get("config") or {}), trial_id=place.id))
        for name, facts in place.facts.items():
            self._write(0, text_pb(name, fenced(json.dumps(facts, indent=2, default=str))))

    def log(self, point: Point) -> None:
        values = [self._Summary.Value(tag=tag, simple_value=number) for tag, number in point.numbers.items()]
        if values:
            self._write(point.step, self._Summary(value=values))
        for tag, text in point.texts.items():
            self._write(point.step, self._text(tag, fenced(text)))

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, summary: Any) -> None:
        self._writer.add_event(self._Event(wall_time=time.time(), step=step, summary=summary))


TENSORBOARD = TrackerType("tensorboard", _Tensorboard, "look whether RUN/tensorboard can be written")
