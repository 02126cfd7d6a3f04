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
from groundup.config.merge import ConfigSource, diff, get, merge_and_validate
from groundup.config.schema import Config
from groundup.data.windows import ShuffledWindows
from groundup.distributed.launch import init_distributed
from groundup.distributed.process_group import ProcessGroup, SingleProcess, require_same
from groundup.errors import CheckpointError, ConfigError, TrainingError
from groundup.optim.run_length import TimeLength
from groundup.planning.plan import Data as Sizes
from groundup.planning.plan import Plan, Speed
from groundup.planning.report import summary, too_much_memory
from groundup.run.here import measured, plan_here, with_speed
from groundup.run.init_model import broadcast_config
from groundup.run.resolve import PreparedData, open_data, resolve_config, validate_config
from groundup.run.trainer import Trainer, TrainResult
from groundup.ui.display import Display, NullDisplay
from groundup.utils.exhausted import is_out_of_memory
from groundup.utils.lock import locked

# What may change between a run's beginning and its resumption; the rest decides what is being computed.
RESUMABLE_SECTIONS = ("evaluate.", "checkpoint.", "guard.", "tracking.")
RESUMABLE = {
    "data",
    "train.activation_checkpointing",
    "train.early_stopping_patience",
    "train.time_limit",
    "train.max_steps",
    "train.max_tokens",
    "train.epochs",
    "train.max_time",
    "train.log_every",
}
ROUNDING = {
    "train.parallel",
    "train.device",
    "train.threads",
    "train.microbatch_threads",
    "train.micro_batch_size",
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
    "train.microbatch_threads",
    "train.activation_checkpointing",
    "train.micro_batch_size",
}
RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


def start_run(
    config: Config, out: Path, display: Display, *, speed: Speed | None = None, advise: bool = True
) -> TrainResult:
    """Train a new run; everything is checked before anything is written. A `speed` already known is not measured;
    without `advise`, only warnings of what cannot go well are given.

    ConfigError for what no memory of this machine can hold; what is only likely not to fit is tried, with a warning.
    Of several processes that torchrun started, the first writes the run's folder and tells `view`.
    """
    process_group, run = init_distributed(), RunFolder(out)
    display = NullDisplay() if process_group.rank else display
    if not process_group.rank:
        run.refuse_existing()
    config = broadcast_config(config, process_group)
    prepared = _prepare(config, out, process_group)
    _refuse_hopeless(prepared.plan)
    if not prepared.plan.fits:  # said before the model is built, because building it may be the end of us
        display.message(f"warning  {too_much_memory(prepared.plan)}")
    training = _build(prepared.plan.config, prepared.data, run, display, process_group)
    plan = replace(prepared.plan, speed=speed) if speed else _with_speed(prepared, training)
    with run_lock(run, display, process_group):
        if not process_group.rank:
            run.create(training.config)
        for line in (*summary(plan, advise=advise), prepared.machine):
            display.message(line)
        if config.init_from:
            display.message(f"weights  those of {config.init_from} to begin with")
        return training.run()


def start_or_resume(config: Config, out: Path, display: Display) -> TrainResult:
    """`start_run`, or `resume_run` where `out` already holds this run: for launchers that repeat a command.

    ConfigError where the run there is another one.
    """
    process_group, run = init_distributed(), RunFolder(out)
    if not process_group.broadcast_object((run.path / "config.yaml").exists()):
        return start_run(config, out, display)
    config = broadcast_config(config, process_group)
    before = process_group.broadcast_object(None if process_group.rank else run.config())
    assert before is not None, "the first process has read it"
    given = {key: get(config, key) for key in diff(before, config)}
    overrides = {key: value for key, value in given.items() if key not in SETTLED or value not in (None, "auto")}
    return resume_run(run, *reconfigure(run, overrides), display)


def restarted() -> bool:
    """Whether torchrun or SLURM says that it started this very job before."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in RESTARTS)


def dry_run(config: Config, out: Path | None, display: Display) -> Plan:
    """All that `start_run` checks and says before it writes; nothing is written, and what does not fit is not built."""
    run = RunFolder(out or Path())
    if out:
        run.refuse_existing()
    process_group = init_distributed()
    display = NullDisplay() if process_group.rank else display
    prepared = _prepare(broadcast_config(config, process_group), run.path, process_group)
    plan = prepared.plan
    if process_group.broadcast_object(plan.fits):
        plan = _with_speed(prepared, _build(plan.config, prepared.data, run, display, process_group))
    for line in (*summary(plan), prepared.machine):
        display.message(line)
    _refuse_hopeless(plan)
    return plan


def plan_with_speed(config: Config) -> Plan:
    """The plan of a run with this machine's measured speed, which `start_run` then reuses; None where unknown."""
    prepared = _prepare(config, Path(), SingleProcess())
    return measured(prepared.plan.config, prepared.plan.data)


class Prepared(NamedTuple):
    """What a run is made from, before anything large is built."""

    data: PreparedData
    windows: ShuffledWindows
    plan: Plan  # of the settled config, its speed unknown
    machine: str  # a line on what was chosen there


def _prepare(config: Config, place: Path, process_group: ProcessGroup) -> Prepared:
    validate_config(config)
    data = open_data(config)
    check_ranks_agree(process_group, config, data)
    settled, machine = resolve_config(config, data.tokenizer, process_group)
    windows = ShuffledWindows(data.train, settled.model.block_size, settled.train.seed)
    plan = plan_here(settled, Sizes(windows.windows, data.manifest.splits["val"].tokens), place, process_group)
    _ = plan.horizon  # a run without one is refused before a model is built
    return Prepared(data, windows, plan, machine)


def check_ranks_agree(process_group: ProcessGroup, config: Config, data: PreparedData) -> None:
    """What must be the same wherever a process of this job runs."""
    require_same(
        process_group, "groundup and torch are", (__version__, torch.__version__), "install the same everywhere"
    )
    unlike = ", ".join(diff(process_group.broadcast_object(config), config))
    require_same(
        process_group, "options unlike the first one's are", unlike or "none", "start the same command everywhere"
    )
    require_same(
        process_group, f"the data in {config.data} are", data.manifest.fingerprint, "copy one folder to all machines"
    )


def _refuse_hopeless(plan: Plan) -> None:
    if plan.hopeless:
        raise ConfigError(f"model: {too_much_memory(plan)}")


def _build(
    config: Config,
    data: PreparedData,
    run: RunFolder,
    display: Display,
    process_group: ProcessGroup,
    *,
    restored: bool = False,
) -> Trainer:
    try:
        return Trainer(config, data, run, display, process_group, restored=restored)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"{config.train.device}: out of memory before the first step; take a smaller model"
        ) from error


def _with_speed(prepared: Prepared, training: Trainer) -> Plan:
    plan = prepared.plan
    if not plan.fits or training.parallel.sharded:  # where passes are meetings, none can be added at one's own pace
        return plan
    ids = prepared.windows.read(0, training.feed.micro_rows)
    return with_speed(plan, training.shared, training.moving.optimizer, ids)


def reconfigure(run: RunFolder, overrides: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """A run's config with what a resumption changes, and the keys it changes; ConfigError for what cannot."""
    process_group = init_distributed()
    before = process_group.broadcast_object(None if process_group.rank else run.config())
    assert before is not None, "the first process has read it"
    config = merge_and_validate(
        [ConfigSource(str(run.path), before.model_dump()), ConfigSource("resume", dict(overrides), typed=True)]
    )
    keys = diff(before, config)
    for key in keys:
        if key not in RESUMABLE | ROUNDING and not key.startswith(RESUMABLE_SECTIONS):
            raise ConfigError(f"{key}: cannot change when a run is resumed; start a new run with --out")
    return config, keys


def resume_run(run: RunFolder, config: Config, keys: list[str], display: Display) -> TrainResult:
    """Train on from the newest whole checkpoint, or from the start where the run was killed before its first."""
    validate_config(config)
    process_group = init_distributed()
    display = NullDisplay() if process_group.rank else display
    with run_lock(run, display, process_group):
        return _go_on(run, config, keys, display, process_group)


def _go_on(
    run: RunFolder, config: Config, keys: list[str], display: Display, process_group: ProcessGroup
) -> TrainResult:
    data = open_data(config)
    check_ranks_agree(process_group, config, data)
    checkpoint, rejected, processes = process_group.broadcast_object(
        (None, [], 1) if process_group.rank else _newest(run)
    )
    for reason in rejected:
        display.message(f"rejected: {reason}")
    if processes != process_group.size and "train.threads" not in keys:  # the cores are shared by others now
        config = config.model_copy(update={"train": config.train.model_copy(update={"threads": None})})
        keys = [*keys, "train.threads"]
    config, machine = resolve_config(config, data.tokenizer, process_group)
    if config.train.microbatch_threads is None:  # begun when nothing was shared
        config = config.model_copy(update={"train": config.train.model_copy(update={"microbatch_threads": 1})})
    planned = plan_here(config, None, run.path, process_group).config
    training = _build(planned, data, run, display, process_group, restored=checkpoint is not None)
    if checkpoint:
        training.restore(checkpoint)
    try:
        if not process_group.rank:
            run.go_back_to(checkpoint)
        if keys and not process_group.rank:
            run.write_config(config)
    except OSError as error:
        raise CheckpointError(f"{run.path}: cannot be written ({error.strerror}); mend that, and resume") from error
    if training.done:
        horizon = "--train.max_time" if isinstance(training.horizon, TimeLength) else "--train.max_steps"
        option = (
            horizon
            if training.horizon.reached(training.moving.progress)
            else "--train.early_stopping_patience or --train.time_limit"
        )
        display.message(f"{run.path}: finished at step {training.moving.progress.step:,}; a larger {option} goes on")
    else:
        start = checkpoint.name if checkpoint else "the start: it has no checkpoint yet"
        display.message(f"{run.path}: going on from {start}")
        display.message(machine)
    for key in ROUNDING.intersection(keys):
        display.message(f"{key} changed: what follows is the same up to rounding, not bit for bit")
    return training.run()


def _newest(run: RunFolder) -> tuple[Path | None, list[str], int]:
    """The newest whole checkpoint, why newer ones were rejected, and how many processes wrote it."""
    checkpoint, rejected = run.newest_good()
    return checkpoint, rejected, load_progress(checkpoint).get("processes", 1) if checkpoint else 1


@contextmanager
def run_lock(run: RunFolder, display: Display, process_group: ProcessGroup) -> Iterator[None]:
    """No process of another job trains this run."""
    if process_group.rank:
        yield
        return
    with locked(run.path, "training this run") as guarded:
        if not guarded:
            display.message(f"{run.path}: cannot be locked here; see to it that no second process trains this run")
        yield
