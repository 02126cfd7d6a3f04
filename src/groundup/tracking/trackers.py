"""Trackers of a run: checks, the run's id in them, and one worker thread, so that none can stop or slow the run."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from typing_extensions import override

from groundup.config.sections import TrackingConfig
from groundup.errors import ConfigError
from groundup.tracking.backends import BACKENDS, TRACKIO_REMOTE
from groundup.tracking.base import PointBuilder, RunInfo, Tracker, TrackerType
from groundup.utils.extras import install_command
from groundup.utils.files import replace_text, resolved
from groundup.utils.reading import read_json
from groundup.utils.system import installed_version, is_supported, requirements

IDENTITY = "tracking.json"  # in a run's folder
EXTRA = "track"  # of groundup, with which trackers are installed
ID = re.compile(r"[0-9a-f]{12}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")

MAX_QUEUE = 10_000  # records; about 10 MB
CLOSE_SECONDS = 30.0  # maximum that the end of a run waits for its trackers
MAX_REASON_CHARACTERS = 200

# Trackers may take 1 % of a core, however short the steps: all three together need about 1.0 ms per step, wandb's own
# process included (`python -m bench.tracking`), so 5 steps per second are shown after the first ones.
FIRST_STEPS = 300  # all shown, so that a short run is shown completely
STEP_SECONDS = 0.2  # between two later steps that are shown

Record = tuple[str, Mapping[str, Any]]  # event, values


def check(config: TrackingConfig) -> None:
    """Raise ConfigError if a tracker is missing, has an untested version, or would send records despite `offline`."""
    for name in config.backends:
        found = find_spec(name)
        if found is None or found.origin is None:  # without an origin it is a folder of that name, as wandb leaves
            raise ConfigError(f"tracking.backends: {name} is not installed; {install_command(EXTRA)}")
        installed = installed_version(name)  # None: importable without metadata, which may work
        for requirement in requirements(EXTRA):
            if installed and requirement.name == name and not is_supported(installed, requirement.specifier):
                raise ConfigError(
                    f"tracking.backends: {name} is {installed}, but groundup needs {requirement.specifier}; "
                    f"{install_command(EXTRA)}"
                )
    elsewhere = [variable for variable in TRACKIO_REMOTE if os.environ.get(variable)]
    if config.offline and "trackio" in config.backends and elsewhere:
        raise ConfigError(
            f"tracking.offline: {elsewhere[0]} is set, which sends trackio's records over the network; unset it"
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
    facts = {name: settings[name] for name in ("config", "environment") if settings.get(name)}
    info = RunInfo(config.project, name, run_id, resolved(run), config.offline, facts)
    points = PointBuilder(settings.get("flops_per_token"), settings.get("peak_flops"))
    names = dict.fromkeys(config.backends)
    for name in [name for name in names if (run / name).is_symlink()]:  # where wandb and tensorboard write
        say(f"{run / name}: is a link, which is not followed, so {name} is switched off; remove it")
        del names[name]
    return AsyncTracker([BACKENDS[name] for name in names], info, points, say) if names else NullTracker()


def noted_identity(run: Path) -> tuple[str, str]:
    """Id and name of a run in its trackers, as `run`/tracking.json has them; OSError, ValueError."""
    values = read_json(run / IDENTITY)
    with suppress(TypeError, KeyError):
        if ID.fullmatch(values["id"]) and NAME.fullmatch(values["name"]):
            return values["id"], values["name"]
    raise ValueError("no id or no name")


def run_identity(run: Path, say: Callable[[str], None]) -> tuple[str, str]:
    """Id and name of a run in its trackers, noted on first use."""
    path = run / IDENTITY
    try:
        return noted_identity(run)
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        say(f"{path}: damaged, so trackers show this run as a new one")
    run_id = uuid.uuid4().hex[:12]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", resolved(run).name).strip("._-")[:60] or "run"
    name = f"{readable}-{run_id[:6]}"
    try:
        replace_text(path, json.dumps({"id": run_id, "name": name}) + "\n")
    except OSError as error:
        say(f"{path}: cannot be written ({error.strerror}), so a resumed run will be shown as a new one")
    return run_id, name


class NullTracker:
    """No-op."""

    def record(self, event: str, values: Mapping[str, Any]) -> None:
        """Pass on one record of log.jsonl; returns at once."""

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Wait until all records are shown, at most `timeout` seconds; later records are ignored."""


class AsyncTracker(NullTracker):
    """Queue of records and the thread that passes each record to each tracker, in order.

    A tracker that raises is switched off with one message. While one hangs, the others wait: records beyond `max_queue`
    are dropped and counted. `say` is called within `record` and `close` only, never from the worker thread.
    """

    def __init__(
        self,
        types: Sequence[TrackerType],
        run: RunInfo,
        points: PointBuilder,
        say: Callable[[str], None],
        *,
        max_queue: int = MAX_QUEUE,
        first_steps: int = FIRST_STEPS,
        step_seconds: float = STEP_SECONDS,
    ) -> None:
        self._types, self._run, self._points, self._say = types, run, points, say
        self._max_queue, self._first_steps, self._step_seconds = max_queue, first_steps, step_seconds
        self._records: SimpleQueue[Record | None] = SimpleQueue()  # None: there will be no more
        self._messages: SimpleQueue[str] = SimpleQueue()
        self._open: dict[TrackerType, Tracker] = {}
        self._current: TrackerType = types[0]  # in a call
        self._dropped = 0
        self._closed = self._abandoned = False
        self._shown_at = -step_seconds
        self._thinned: Record | None = None  # the newest step that was not shown
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of records in the queue."""
        return self._records.qsize()

    @override
    def record(self, event: str, values: Mapping[str, Any]) -> None:
        if self._closed:
            return
        record = (event, dict(values))
        if event == "step":
            now = time.monotonic()
            self._first_steps -= 1
            is_shown = self._first_steps >= 0 or now - self._shown_at >= self._step_seconds
            self._shown_at, self._thinned = (now, None) if is_shown else (self._shown_at, record)
        if self._thinned is not record:
            self._put(record)
        self._say_messages()

    @override
    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        if self._closed:
            return
        if self._thinned:
            self._put(self._thinned)
        self._closed = True
        self._records.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._abandoned = True
            missing = max(0, self.waiting - 1)
            self._fail(f"it did not finish in time, {missing:,} records were waiting")
            for kind in self._types:
                kind.abandon()
        if self._dropped:
            self._messages.put(f"tracking: {self._dropped:,} records were left out; log.jsonl has them all")
        self._say_messages()

    def _put(self, record: Record) -> None:
        if self.waiting < self._max_queue:
            self._records.put(record)
            return
        if not self._dropped:
            self._messages.put(
                f"tracking: {self._current.name} is too slow: {self._max_queue:,} records are waiting, and further "
                "ones are left out; log.jsonl has them all"
            )
        self._dropped += 1

    def _say_messages(self) -> None:
        while not self._messages.empty():
            self._say(self._messages.get())

    def _fail(self, reason: str) -> None:
        reason = reason if len(reason) <= MAX_REASON_CHARACTERS else reason[: MAX_REASON_CHARACTERS - 1] + "…"
        self._messages.put(
            f"tracking: {self._current.name} is switched off: {reason}; {self._current.remedy}; "
            "log.jsonl has everything"
        )

    def _work(self) -> None:
        for kind in self._types:
            with self._switched_off_on_error(kind):
                self._open[kind] = kind.open(self._run)
        while not self._abandoned and (record := self._records.get()) is not None:
            point = self._points.build(*record)
            for kind, tracker in list(self._open.items()):
                with self._switched_off_on_error(kind):
                    tracker.log(point)
        for kind in list(self._open):
            with self._switched_off_on_error(kind):
                self._open.pop(kind).close()

    @contextmanager
    def _switched_off_on_error(self, kind: TrackerType) -> Iterator[None]:
        self._current = kind
        try:
            yield
        except BaseException as error:  # a library that calls sys.exit ends neither this thread nor the run
            if not self._abandoned:
                self._fail(" ".join(str(error).split()) or type(error).__name__)
            with suppress(BaseException):
                if tracker := self._open.pop(kind, None):
                    tracker.close()
            kind.abandon()
