"""One tracker on a thread of its own: whatever happens to it happens to nobody else."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from groundup.tracking.base import RunInfo, Tracker, TrackerType
from groundup.tracking.points import Points

SECRETS = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL")  # in names of environment variables
LONGEST_REASON = 200  # characters

Record = tuple[str, Mapping[str, Any]]  # event, values


@dataclass(frozen=True)
class Limits:
    """How patient we are with a tracker."""

    queue: int = 10_000  # records; some 10 MB
    start_s: float = 120  # until it is open; wandb gives its server a minute
    call_s: float = 60  # in any later call


class AsyncTracker:
    """Hands records to a tracker. All methods return at once, but for `join`, which says how long it may take."""

    def __init__(self, kind: TrackerType, place: RunInfo, points: Points, limits: Limits) -> None:
        self.name = kind.name
        self._kind, self._place, self._points, self._limits = kind, place, points, limits
        self._records: deque[Record] = deque()
        self._change = threading.Condition()
        self._ending = False
        self._dropped, self._dropping_said = 0, False
        self._failure: str | None = None
        self._idle = False
        self._call: tuple[float, float] | None = None  # when the one under way began, and how long it may take
        self._thread = threading.Thread(target=self._work, name=f"tracking-{kind.name}", daemon=True)
        self._thread.start()

    def offer(self, record: Record) -> None:
        """Pass a record on, or count it as dropped where too many are waiting."""
        with self._change:
            if len(self._records) >= self._limits.queue:
                self._dropped += 1
            else:
                self._records.append(record)
                self._idle = False
                self._change.notify()

    def end(self) -> None:
        """There will be no more records."""
        with self._change:
            self._ending = True
            self._change.notify()

    def join(self, seconds: float) -> None:
        """Wait until all records have been shown, but no longer than this; `failure` then says what is missing."""
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive() and self._failure is None:
            waiting = len(self._records)
            self._failure = f"it did not finish in time, {waiting:,} records were waiting"

    def failure(self) -> str | None:
        """Why this tracker is of no more use; None while it is."""
        call = self._call
        if self._failure is None and call is not None and time.monotonic() - call[0] > call[1]:
            self._failure = f"a call has not returned in {call[1]:g} s"
        return self._failure

    def complaint(self) -> str | None:
        """Said once, when records begin to be dropped."""
        if not self._dropped or self._dropping_said:
            return None
        self._dropping_said = True
        return f"too slow: {self._limits.queue:,} records are waiting, and further ones are left out"

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do: it is open, or off, and no record waits."""
        return self._idle or self._failure is not None

    @property
    def dropped(self) -> int:
        """How many records were left out so far."""
        return self._dropped

    @property
    def remedy(self) -> str:
        """What a person can do about a failure."""
        return self._kind.remedy

    def abandon(self) -> None:
        """Leave it alone for good; a call that hangs goes on hanging where nobody waits for it."""
        self.end()
        self._records.clear()
        self._kind.abandon()

    def _work(self) -> None:
        tracker: Tracker | None = None
        try:
            with self._within(self._limits.start_s):
                tracker = self._kind.open(self._place)
            while (record := self._next()) is not None and self._failure is None:
                point = self._points.of(*record)
                with self._within(self._limits.call_s):
                    tracker.log(point)
            with self._within(self._limits.call_s):
                tracker.close()
        except BaseException as error:  # a library that calls sys.exit ends this thread, never the run
            self._failure = self._failure or plain(error)
            with suppress(BaseException):
                if tracker is not None:
                    tracker.close()

    def _next(self) -> Record | None:
        """The next record; None when there will be no more."""
        with self._change:
            while not self._records and not self._ending:
                self._idle = True
                self._change.wait()
            return self._records.popleft() if self._records else None

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        self._call = (time.monotonic(), seconds)
        try:
            yield
        finally:
            self._call = None


def plain(error: BaseException) -> str:
    """An error as one short line, without the secrets that the environment holds."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name, value in os.environ.items():
        if SECRETS.search(name.upper()) and len(value) >= 6:
            text = text.replace(value, "…")
    text = re.sub(r"(?i)((?:token|key|secret|password)=)[^&\s]+", r"\1…", text)
    text = re.sub(r"://[^/@\s]+@", "://…@", text)
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"
