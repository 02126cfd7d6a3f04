"""wandb: Weights & Biases, over the network, or in RUN/wandb until `wandb sync`."""

from __future__ import annotations

import contextlib
import html
import os

from groundup.tracking.base import RunInfo, TrackerError, TrackerType
from groundup.tracking.points import Point

INIT_SECONDS = 60.0  # to reach the server; wandb's own default is 90
FINISH_SECONDS = 20.0  # for the last uploads; wandb's own default is no limit
FAMILIES = ("train/*", "val/*", "memory/*", "event/*", "sample")


class _Wandb:
    def __init__(self, place: RunInfo) -> None:
        if place.offline:
            os.environ["WANDB_ERROR_REPORTING"] = "false"  # its own reports of its own faults
        import wandb

        settings = wandb.Settings(
            silent=True,  # the terminal belongs to the run
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,  # otherwise the difference from the last commit leaves the machine
            x_save_requirements=False,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
            stop_fn=lambda: None,  # a button on its page would otherwise interrupt the process
            reinit="create_new",
        )
        mode = "offline" if place.offline else wandb.setup(settings).settings.mode
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise TrackerError("no API key")  # and nobody may be asked for one: the terminal belongs to the run
        self._html = wandb.Html
        self._run = wandb.init(
            project=place.project,
            name=place.name,
            id=place.id,
            resume=None if mode == "offline" else "allow",  # the same id is all that offline needs
            mode=mode,
            dir=str(place.folder),
            config=dict(place.facts),
            settings=settings,
        )
        self._run.define_metric("step", hidden=True)
        for family in FAMILIES:  # wandb's own step cannot go back; ours does after a rollback
            self._run.define_metric(family, step_metric="step")

    def log(self, point: Point) -> None:
        texts = {name: self._html(f"<pre>{html.escape(text)}</pre>") for name, text in point.texts.items()}
        self._run.log({"step": point.step, **point.numbers, **texts})

    def close(self) -> None:
        self._run.finish()


def _abandon() -> None:
    """Its exit hook waits for its own process without limit: the end of ours does not."""
    with contextlib.suppress(Exception):  # what is reached for here is private to wandb, and may be gone
        from wandb.sdk.wandb_setup import singleton

        connection = singleton()._connection
        connection._cleanup()


WANDB = TrackerType(
    "wandb",
    _Wandb,
    "see `wandb login` and the network, or give --tracking.offline true and `wandb sync` later",
    _abandon,
)
