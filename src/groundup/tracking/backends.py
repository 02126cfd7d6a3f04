"""Backends: wandb (network, or files in RUN/wandb), trackio (a local database), tensorboard (files in RUN)."""

import contextlib
import html
import json
import os
import sys
import time
from typing import Any

from typing_extensions import override

from groundup.tracking.base import Point, RunInfo, Tracker, TrackerType, fenced, flatten

WANDB_METRICS = ("train/*", "val/*", "memory/*", "event/*", "sample")
TRACKIO_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")  # environment variables that send its records elsewhere
TRACKIO_PRINTING = ("trackio", "trackio.run", "trackio.utils")  # modules that print to standard output


class WandbTracker(Tracker):
    """Weights & Biases, over the network or offline."""

    def __init__(self, run: RunInfo) -> None:
        if run.offline:
            os.environ["WANDB_ERROR_REPORTING"] = "false"  # reports of errors in wandb itself
        import wandb

        settings = wandb.Settings(
            silent=True,  # standard output belongs to the run
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,  # otherwise uncommitted changes are uploaded
            x_save_requirements=False,
            init_timeout=60.0,  # seconds, to reach the server; wandb's own default is 90
            finish_timeout=20.0,  # seconds, for the last uploads; wandb's own default is no limit
            finish_timeout_raises=True,
            stop_fn=lambda: None,  # a button on its page would otherwise interrupt the process
            reinit="create_new",
        )
        mode = "offline" if run.offline else wandb.setup(settings).settings.mode
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("no API key")
        self._html = wandb.Html
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            resume=None if mode == "offline" else "allow",  # offline, the id is sufficient
            mode=mode,
            dir=str(run.folder),
            config=dict(run.facts),
            settings=settings,
        )
        self._run.define_metric("step", hidden=True)
        for name in WANDB_METRICS:  # wandb's own step cannot decrease; ours does after a rollback
            self._run.define_metric(name, step_metric="step")

    @override
    def log(self, point: Point) -> None:
        texts = {name: self._html(f"<pre>{html.escape(text)}</pre>") for name, text in point.texts.items()}
        self._run.log({"step": point.step, **point.numbers, **texts})

    @override
    def close(self) -> None:
        self._run.finish()


def _skip_wandbs_exit_hook() -> None:
    """wandb's exit hook waits without limit for its own process, as without a network."""
    with contextlib.suppress(Exception):  # private to wandb, and may be gone
        from wandb.sdk.wandb_setup import singleton

        singleton()._connection._cleanup()


class TrackioTracker(Tracker):
    """trackio: a database on this machine, read by `trackio show`."""

    def __init__(self, run: RunInfo) -> None:
        import trackio

        for name in TRACKIO_PRINTING:  # standard output belongs to the run, and --json to its one object
            vars(sys.modules[name])["print"] = _no_op
        if run.offline:
            vars(sys.modules["trackio.run"])["_get_default_namespace"] = _no_op  # asks the hub for the user's name
        self._markdown = trackio.Markdown
        self._run = trackio.init(
            project=run.project, name=run.name, config=dict(run.facts), resume="allow", embed=False
        )

    @override
    def log(self, point: Point) -> None:
        texts = {name: self._markdown(fenced(text)) for name, text in point.texts.items()}
        self._run.log({**point.numbers, **texts}, step=point.step)

    @override
    def close(self) -> None:
        self._run.finish()


def _no_op(*args: Any, **kwargs: Any) -> None:
    return None


class TensorboardTracker(Tracker):
    """TensorBoard's event files, written without TensorFlow and without torch."""

    def __init__(self, run: RunInfo) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._Event, self._Summary, self._text = Event, Summary, text_pb
        self._writer = EventFileWriter(str(run.folder / "tensorboard"), max_queue_size=100, flush_secs=10)
        self._write(0, hparams_pb(flatten(run.facts.get("config") or {}), trial_id=run.id))
        for name, facts in run.facts.items():
            self._write(0, text_pb(name, fenced(json.dumps(facts, indent=2, default=str))))

    @override
    def log(self, point: Point) -> None:
        if values := [self._Summary.Value(tag=tag, simple_value=number) for tag, number in point.numbers.items()]:
            self._write(point.step, self._Summary(value=values))
        for tag, text in point.texts.items():
            self._write(point.step, self._text(tag, fenced(text)))

    @override
    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, summary: Any) -> None:
        self._writer.add_event(self._Event(wall_time=time.time(), step=step, summary=summary))


WANDB_REMEDY = "see `wandb login` and the network, or give --tracking.offline true and `wandb sync` later"
BACKENDS = {
    "wandb": TrackerType("wandb", WandbTracker, WANDB_REMEDY, _skip_wandbs_exit_hook),
    "trackio": TrackerType("trackio", TrackioTracker, "check its folder (TRACKIO_DIR) and its space, if it has one"),
    "tensorboard": TrackerType("tensorboard", TensorboardTracker, "check that RUN/tensorboard can be written"),
}
