"""Beginning a run, and going on with one: what is checked, what may change, what is said."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from groundup import __version__
from groundup.checkpoint.run_folder import RunFolder
from groundup.checkpoint.state import load_progress
from groundup.config.merge import Overrides, changed, decode, value_of
from groundup.config.schema import Config
from groundup.data.windows import Batches
from groundup.distributed.launch import join
from groundup.distributed.process_group import Alone, World, agreed
from groundup.errors import CheckpointError, ConfigError, TrainingError
from groundup.optim.run_length import Clock
from groundup.planning.plan import Data as Sizes
from groundup.planning.plan import Plan, Speed
from groundup.planning.report import summary, too_much_memory
from groundup.run.here import measured, plan_here, with_speed
from groundup.run.init_model import shared
from groundup.run.resolve import Data, check, open_data, settle
from groundup.run.trainer import Result, Training
from groundup.ui.display import Silent, View
from groundup.utils.exhausted import exhausted
from groundup.utils.lock import locked

# What may change between a run's beginning and its resumption; the rest decides what is being computed.
RESUMABLE_SECTIONS = ("evaluate.", "checkpoint.", "guard.", "tracking.")
RESUMABLE = {
    "data",
    "train.activation_checkpointing",
    "train.patience",
    "train.stop_after",
    "train.max_steps",
    "train.max_tokens",
    "train.epochs",
    "train.budget",
    "train.log_every",
}
ROUNDING = {
    "train.parallel",
    "train.device",
    "train.threads",
    "train.shares",
    "batches.micro_batch",
    "train.compile",
    "train.float32_matmul_precision",
    "train.deterministic",
}  # the same up to rounding, not bit for bit


# Left open by most who start a run, and settled by its beginning.
SETTLED = {
    "model.vocab_size",
    "train.device",
    "train.threads",
    "train.precision",
    "train.parallel",
    "train.shares",
    "train.activation_checkpointing",
    "batches.micro_batch",
}
RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


def begin(config: Config, out: Path, view: View, *, speed: Speed | None = None, advise: bool = True) -> Result:
    """Train a new run; everything is checked before anything is written. A `speed` already known is not measured;
    without `advise`, only warnings of what cannot go well are given.

    ConfigError for what no memory of this machine can hold; what is only likely not to fit is tried, with a warning.
    Of several processes that torchrun started, the first writes the run's folder and tells `view`.
    """
    world, run = join(), RunFolder(out)
    view = Silent() if world.rank else view
    if not world.rank:
        run.refuse_existing()
    config = shared(config, world)
    prepared = _prepare(config, out, world)
    _refuse_hopeless(prepared.plan)
    if not prepared.plan.fits:  # said before the model is built, because building it may be the end of us
        view.message(f"warning  {too_much_memory(prepared.plan)}")
    training = _build(prepared.plan.config, prepared.data, run, view, world)
    plan = replace(prepared.plan, speed=speed) if speed else _with_speed(prepared, training)
    with _alone(run, view, world):
        if not world.rank:
            run.create(training.config)
        for line in (*summary(plan, advise=advise), prepared.machine):
            view.message(line)
        if config.init:
            view.message(f"weights  those of {config.init} to begin with")
        return training.run()


def begin_or_go_on(config: Config, out: Path, view: View) -> Result:
    """`begin`, or where `out` holds this run already, `go_on`: what a launcher needs that starts a command again.

    ConfigError where the run there is another one.
    """
    world, run = join(), RunFolder(out)
    if not world.first((run.path / "config.yaml").exists()):
        return begin(config, out, view)
    config = shared(config, world)
    before = world.first(None if world.rank else run.config())
    assert before is not None, "the first process has read it"
    given = {key: value_of(config, key) for key in changed(before, config)}
    overrides = {key: value for key, value in given.items() if key not in SETTLED or value not in (None, "auto")}
    return go_on(run, *reconfigure(run, overrides), view)


def restarted() -> bool:
    """Whether torchrun or SLURM says that it started this very job before."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in RESTARTS)


def rehearse(config: Config, out: Path | None, view: View) -> Plan:
    """All that `begin` checks and says before it writes; nothing is written, and what does not fit is not built."""
    run = RunFolder(out or Path())
    if out:
        run.refuse_existing()
    world = join()
    view = Silent() if world.rank else view
    prepared = _prepare(shared(config, world), run.path, world)
    plan = prepared.plan
    if world.first(plan.fits):
        plan = _with_speed(prepared, _build(plan.config, prepared.data, run, view, world))
    for line in (*summary(plan), prepared.machine):
        view.message(line)
    _refuse_hopeless(plan)
    return plan


def foresee(config: Config) -> Plan:
    """The plan of a run with the speed of this machine, which `begin` then need not measure; without, if unknown."""
    prepared = _prepare(config, Path(), Alone())
    return measured(prepared.plan.config, prepared.plan.data)


class Prepared(NamedTuple):
    """What a run is made from, before anything large is built."""

    data: Data
    windows: Batches
    plan: Plan  # of the settled config, its speed unknown
    machine: str  # a line on what was chosen there


def _prepare(config: Config, place: Path, world: World) -> Prepared:
    check(config)
    data = open_data(config)
    _all_alike(world, config, data)
    settled, machine = settle(config, data.tokenizer, world)
    windows = Batches(data.train, settled.model.block_size, settled.batches.seed)
    plan = plan_here(settled, Sizes(windows.windows, data.manifest.splits["val"].tokens), place, world)
    _ = plan.horizon  # a run without one is refused before a model is built
    return Prepared(data, windows, plan, machine)


def _all_alike(world: World, config: Config, data: Data) -> None:
    """What must be the same wherever a process of this job runs."""
    agreed(world, "groundup and torch are", (__version__, torch.__version__), "install the same everywhere")
    unlike = ", ".join(changed(world.first(config), config))
    agreed(world, "options unlike the first one's are", unlike or "none", "start the same command everywhere")
    agreed(world, f"the data in {config.data} are", data.manifest.fingerprint, "copy one folder to all machines")


def _refuse_hopeless(plan: Plan) -> None:
    if plan.hopeless:
        raise ConfigError(f"model: {too_much_memory(plan)}")


def _build(config: Config, data: Data, run: RunFolder, view: View, world: World, *, restored: bool = False) -> Training:
    try:
        return Training(config, data, run, view, world, restored=restored)
    except RuntimeError as error:
        if not exhausted(error):
            raise
        raise TrainingError(
            f"{config.train.device}: out of memory before the first step; take a smaller model"
        ) from error


def _with_speed(prepared: Prepared, training: Training) -> Plan:
    plan = prepared.plan
    if not plan.fits or training.parallel.sharded:  # where passes are meetings, none can be added at one's own pace
        return plan
    ids = prepared.windows.read(0, training.feed.micro_rows)
    return with_speed(plan, training.shared, training.moving.optimizer, ids)


def reconfigure(run: RunFolder, overrides: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """A run's config with what a resumption changes, and the keys it changes; ConfigError for what cannot."""
    world = join()
    before = world.first(None if world.rank else run.config())
    assert before is not None, "the first process has read it"
    config = decode([Overrides(str(run.path), before.model_dump()), Overrides("resume", dict(overrides))])
    keys = changed(before, config)
    for key in keys:
        if key not in RESUMABLE | ROUNDING and not key.startswith(RESUMABLE_SECTIONS):
            raise ConfigError(f"{key}: cannot change when a run is resumed; start a new run with --out")
    return config, keys


def go_on(run: RunFolder, config: Config, keys: list[str], view: View) -> Result:
    """Train on from the newest whole checkpoint, or from the start where the run was killed before its first."""
    check(config)
    world = join()
    view = Silent() if world.rank else view
    with _alone(run, view, world):
        return _go_on(run, config, keys, view, world)


def _go_on(run: RunFolder, config: Config, keys: list[str], view: View, world: World) -> Result:
    data = open_data(config)
    _all_alike(world, config, data)
    checkpoint, rejected, processes = world.first((None, [], 1) if world.rank else _newest(run))
    for reason in rejected:
        view.message(f"rejected: {reason}")
    if processes != world.size and "train.threads" not in keys:  # the cores are shared by others now
        config = config.model_copy(update={"train": config.train.model_copy(update={"threads": None})})
        keys = [*keys, "train.threads"]
    config, machine = settle(config, data.tokenizer, world)
    if config.train.shares is None:  # begun when nothing was shared
        config = config.model_copy(update={"train": config.train.model_copy(update={"shares": 1})})
    planned = plan_here(config, None, run.path, world).config
    training = _build(planned, data, run, view, world, restored=checkpoint is not None)
    if checkpoint:
        training.restore(checkpoint)
    try:
        if not world.rank:
            run.go_back_to(checkpoint)
        if keys and not world.rank:
            run.write_config(config)
    except OSError as error:
        raise CheckpointError(f"{run.path}: cannot be written ({error.strerror}); mend that, and resume") from error
    if training.done:
        horizon = "--train.budget" if isinstance(training.horizon, Clock) else "--train.max_steps"
        option = (
            horizon if training.horizon.reached(training.moving.progress) else "--train.patience or --train.stop_after"
        )
        view.message(f"{run.path}: finished at step {training.moving.progress.step:,}; a larger {option} goes on")
    else:
        start = checkpoint.name if checkpoint else "the start: it has no checkpoint yet"
        view.message(f"{run.path}: going on from {start}")
        view.message(machine)
    for key in ROUNDING.intersection(keys):
        view.message(f"{key} changed: what follows is the same up to rounding, not bit for bit")
    return training.run()


def _newest(run: RunFolder) -> tuple[Path | None, list[str], int]:
    """The newest whole checkpoint, why newer ones were rejected, and how many processes wrote it."""
    checkpoint, rejected = run.newest_good()
    return checkpoint, rejected, load_progress(checkpoint).get("processes", 1) if checkpoint else 1


@contextmanager
def _alone(run: RunFolder, view: View, world: World) -> Iterator[None]:
    """No process of another job trains this run."""
    if world.rank:
        yield
        return
    with locked(run.path, "training this run") as guarded:
        if not guarded:
            view.message(f"{run.path}: cannot be locked here; see to it that no second process trains this run")
        yield
