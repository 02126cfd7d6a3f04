"""Beginning a run, and going on with one: what is checked, what may change, what is said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundup.build import Result, Training
from groundup.checkpoint.run import RunFolder
from groundup.config import Config
from groundup.data.batches import Batches
from groundup.decode import Overrides, changed, decode
from groundup.errors import ConfigError
from groundup.planning.here import plan_here, with_speed
from groundup.planning.plan import Data as Sizes
from groundup.planning.plan import Plan
from groundup.planning.words import summary, warnings
from groundup.report.lines import Lines
from groundup.report.view import View
from groundup.settle import Data, settle
from groundup.training.horizon import Clock

# What may change between a run's beginning and its resumption; the rest decides what is being computed.
RESUMABLE_SECTIONS = ("evaluate.", "checkpoint.")
RESUMABLE = {
    "data",
    "train.patience",
    "train.stop_after",
    "train.max_steps",
    "train.max_tokens",
    "train.epochs",
    "train.budget",
    "train.log_every",
}
ROUNDING = {"train.device", "train.threads", "batches.micro_batch"}  # the same up to rounding, not bit for bit


def begin(config: Config, out: Path, view: View) -> Result:
    """Train a new run; everything is checked before anything is written."""
    run = RunFolder(out)
    run.refuse_existing()
    training, plan, machine = _put_together(config, run, view)
    run.create(training.config)
    for line in (*summary(plan), machine):
        view.message(line)
    return training.run()


def rehearse(config: Config, out: Path | None, view: View) -> Plan:
    """All that `begin` does and says before it writes; nothing is written."""
    run = RunFolder(out or Path())
    if out:
        run.refuse_existing()
    _, plan, machine = _put_together(config, run, view)
    for line in (*summary(plan), machine):
        view.message(line)
    return plan


def expected_epochs(config: Config) -> float | None:
    """How often a run would go through its training split at the speed of this machine; None where unknown."""
    return _put_together(config, RunFolder(Path()), Lines(lambda line: None, 1))[1].epochs


def _put_together(config: Config, run: RunFolder, view: View) -> tuple[Training, Plan, str]:
    data = Data.open(_data_folder(config))
    settled, machine = settle(config, data.tokenizer)
    windows = Batches(data.train, settled.model.block_size, settled.batches.seed)
    sizes = Sizes(windows.windows, data.manifest.splits["val"].tokens)
    plan = plan_here(settled, sizes, run.path)
    _ = plan.horizon  # a run without one is refused before a model is built
    if not plan.fits:  # said before the model is built, because building it may be the end of us
        for line in warnings(plan):
            view.message(f"warning  {line}")
    training = Training(settled, data, run, view)
    if plan.fits:
        ids = windows.read(0, settled.micro_rows)
        plan = with_speed(plan, training.loss_sum, training.optimizer, ids)
    return training, plan, machine


def reconfigure(run: RunFolder, overrides: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """A run's config with what a resumption changes, and the keys it changes; ConfigError for what cannot."""
    before = run.config()
    config = decode([Overrides(str(run.path), before.model_dump()), Overrides("resume", dict(overrides))])
    keys = changed(before, config)
    for key in keys:
        if key not in RESUMABLE | ROUNDING and not key.startswith(RESUMABLE_SECTIONS):
            raise ConfigError(f"{key}: cannot change when a run is resumed; start a new run with --out")
    return config, keys


def go_on(run: RunFolder, config: Config, keys: list[str], view: View) -> Result:
    """Train on from the newest whole checkpoint, or from the start where the run was killed before its first."""
    data = Data.open(_data_folder(config))
    config, machine = settle(config, data.tokenizer)
    checkpoint, rejected = run.newest_good()
    for reason in rejected:
        view.message(f"rejected: {reason}")
    training = Training(config, data, run, view)
    if checkpoint:
        training.restore(checkpoint)
    run.go_back_to(checkpoint)
    if keys:
        run.write_config(config)
    if training.done:
        horizon = "--train.budget" if isinstance(training.horizon, Clock) else "--train.max_steps"
        option = horizon if training.horizon.reached(training.progress) else "--train.patience or --train.stop_after"
        view.message(f"{run.path}: finished at step {training.progress.step:,}; a larger {option} goes on")
    else:
        start = checkpoint.name if checkpoint else "the start: it has no checkpoint yet"
        view.message(f"{run.path}: going on from {start}")
        view.message(machine)
    for key in ROUNDING.intersection(keys):
        view.message(f"{key} changed: what follows is the same up to rounding, not bit for bit")
    return training.run()


def _data_folder(config: Config) -> Path:
    if config.data is None:
        raise ConfigError("data: no prepared folder is named; give one with --data")
    return Path(config.data)
