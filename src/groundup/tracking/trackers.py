"""All trackers of a run: given every record of its log.jsonl, and never in its way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from groundup.config.sections import TrackingConfig
from groundup.errors import ConfigError
from groundup.tracking.async_tracker import AsyncTracker, Limits
from groundup.tracking.backends import WANDB
from groundup.tracking.base import RunInfo, TrackerType
from groundup.tracking.identity import identity
from groundup.tracking.points import Points
from groundup.tracking.to_tensorboard import TENSORBOARD
from groundup.tracking.to_trackio import REMOTE, TRACKIO
from groundup.utils.system import is_supported, requirements

KINDS: dict[str, TrackerType] = {kind.name: kind for kind in (WANDB, TRACKIO, TENSORBOARD)}
EXTRA = "track"  # of groundup, which brings them
FACTS = ("config", "environment")  # of the settings, shown as they are
CLOSE_SECONDS = 30.0  # that the end of a run waits for its trackers, all of them together

# At most 1 % of a core goes to trackers, however short the steps: all three together take some 1.0 ms a step,
# wandb's own process included (`python -m bench.tracking`), so 5 steps a second are shown for good.
STEPS_PER_S = 5.0
BURST = 300  # steps shown before that limit counts, so that a short run is shown whole


def check(config: TrackingConfig) -> None:
    """ConfigError, before anything has begun: a tracker is missing, too old or new, or would not stay offline."""
    for name in config.backends:
        found = find_spec(name)
        if found is None or found.origin is None:  # without an origin it is a folder of that name, as wandb leaves
            raise ConfigError(f"tracking.backends: {name} is not installed; pip install 'groundup[{EXTRA}]'")
        _check_version(name)
    elsewhere = [variable for variable in REMOTE if os.environ.get(variable)]
    if config.offline and "trackio" in config.backends and elsewhere:
        raise ConfigError(
            f"tracking.offline: {elsewhere[0]} is set, which sends trackio's records over the network; unset it"
        )


def _check_version(name: str) -> None:
    with suppress(metadata.PackageNotFoundError):  # importable all the same, and perhaps good enough
        version = metadata.version(name)
        for requirement in requirements(EXTRA):
            if requirement.name == name and not is_supported(version, requirement.specifier):
                raise ConfigError(
                    f"tracking.backends: {name} is {version}, but groundup needs {requirement.specifier}; "
                    f"pip install 'groundup[{EXTRA}]'"
                )


def open_trackers(
    config: TrackingConfig, run: Path, settings: Mapping[str, Any], say: Callable[[str], None]
) -> Trackers:
    """Begin to show the run in the folder `run`; returns at once, and raises nothing a tracker could cause.

    `settings` may hold `config` and `environment` (nested mappings, shown as they are), `flops_per_token` and
    `peak_flops` (see `Points`; None where unknown). Only one process of a run opens trackers. `say` is called from
    within `record` and `close`, never from another thread.
    """
    if not config.backends:
        return Trackers([], say)
    me = identity(run, say)
    facts = {name: settings[name] for name in FACTS if settings.get(name)}
    place = RunInfo(config.project, me.name, me.id, run.resolve(), config.offline, facts)
    flops = settings.get("flops_per_token"), settings.get("peak_flops")
    kinds = [KINDS[name] for name in dict.fromkeys(config.backends)]
    return Trackers([AsyncTracker(kind, place, Points(*flops), Limits()) for kind in kinds], say)


class Trackers:
    """What a run tells its trackers; without any, all of this does nothing."""

    def __init__(
        self,
        feeders: Sequence[AsyncTracker],
        say: Callable[[str], None],
        *,
        steps_per_s: float = STEPS_PER_S,
        burst: float = BURST,
    ) -> None:
        self._feeders, self._say = list(feeders), say
        self._rate, self._burst = steps_per_s, burst
        self._allowed, self._asked = burst, time.monotonic()
        self._left_out: tuple[str, Mapping[str, Any]] | None = None  # the newest step that was not shown

    def record(self, event: str, values: Mapping[str, Any]) -> None:
        """One record of log.jsonl; returns at once."""
        if not self._feeders:
            return
        record = (event, dict(values))
        if event == "step" and not self._may_show():
            self._left_out = record
        else:
            if event == "step":
                self._left_out = None
            for feeder in self._feeders:
                feeder.offer(record)
        self._look_after()

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Wait until everything has been shown, but no more than `timeout` seconds; further records are ignored."""
        deadline = time.monotonic() + timeout
        for feeder in self._feeders:
            if self._left_out:
                feeder.offer(self._left_out)
            feeder.end()
        for feeder in self._feeders:
            feeder.join(deadline - time.monotonic())
        for feeder in self._feeders:
            if feeder.dropped:
                self._say(f"tracking: {feeder.name} misses {feeder.dropped:,} records; log.jsonl has them all")
        self._look_after()
        self._feeders = []

    def _look_after(self) -> None:
        for feeder in list(self._feeders):
            if reason := feeder.failure():
                self._feeders.remove(feeder)
                self._say(
                    f"tracking: {feeder.name} is switched off: {reason}; {feeder.remedy}; log.jsonl has everything"
                )
                feeder.abandon()
            elif complaint := feeder.complaint():
                self._say(f"tracking: {feeder.name}: {complaint}; log.jsonl has them all")

    def _may_show(self) -> bool:
        now = time.monotonic()
        self._allowed = min(self._burst, self._allowed + (now - self._asked) * self._rate)
        self._asked = now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True
