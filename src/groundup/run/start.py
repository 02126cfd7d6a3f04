"""Starting, resuming and dry-running a training run: checks, plan and messages around the trainer."""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from groundup import __version__
from groundup.checkpoint.data_match import DataMatch, match_data, tokenizer_of
from groundup.checkpoint.files import load_config
from groundup.checkpoint.log import Log
from groundup.checkpoint.metadata import load_metadata
from groundup.checkpoint.run_config import changed_config, config_or_rebuilt, keep_lost_config, lost_config
from groundup.checkpoint.run_folder import RunFolder
from groundup.checkpoint.state import load_resumable
from groundup.config.merge import ConfigSource, diff, flatten, get, merge_and_validate, rename_source
from groundup.config.presets import keys_of_previous
from groundup.config.resolved import MACHINE_KEYS, OPEN, ResolvedConfig
from groundup.config.schema import Config, resume_rule
from groundup.config.sections import TrackingConfig
from groundup.config.types import OnResume
from groundup.data.windows import LAYOUT, ShuffledWindows, layout_of
from groundup.distributed.launch import init_distributed
from groundup.distributed.process_group import ProcessGroup, require_same
from groundup.errors import CheckpointError, ConfigError, DataError, TrainingError
from groundup.evaluation.tasks import needs_download
from groundup.planning.plan import DataSize, Plan, Speed
from groundup.planning.report import summary
from groundup.planning.warnings import too_large, too_much_memory
from groundup.run.changes import changed_learning_rate, changed_numerics
from groundup.run.dataset import PreparedData, open_data
from groundup.run.init_model import broadcast_config, rank_0_config
from groundup.run.resolve import (
    detect_machine,
    measure_speed,
    plan_with_measured_speed,
    resolve_config,
    validate_config,
)
from groundup.run.trainer import Trainer, TrainResult
from groundup.tracking.permission import permit, permitted
from groundup.ui.display import Display, NullDisplay
from groundup.utils.device import is_out_of_memory
from groundup.utils.lock import locked

TRACKERS = "tracking.backends"
RESTART_VARIABLES = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


def start_run(
    config: Config,
    out: Path,
    display: Display,
    *,
    checkpoints: Path | None = None,
    speed: Speed | None = None,
    announce: bool = True,
    shown: Collection[str] = (),
) -> TrainResult:
    """Train a new run; everything is checked before anything is written.

    `checkpoints`: a folder outside of `out` for them. A known `speed` is not measured again; without `announce`, only
    warnings of too little memory or disk are shown of the plan, and never the lines that were `shown` already.
    ConfigError for what no memory of this machine can hold; what is only likely not to fit is tried, with a warning. Of
    several processes, rank 0 writes the run's folder and uses `display`.
    """
    process_group, run = init_distributed(), RunFolder(out)
    display = NullDisplay() if process_group.rank else display
    if not process_group.rank:
        run.refuse_existing(checkpoints)
    config = broadcast_config(config, process_group)
    data, plan, machine_line = _prepare(config, out, process_group)
    _refuse_hopeless(plan)
    if not plan.fits:  # shown before the model is built, because building it may end this process
        display.message(f"warning  {too_much_memory(plan)}")
    trainer = _build(plan.config, data, run, display, process_group)
    plan = replace(plan, speed=speed) if speed else _with_speed(plan, trainer)
    with run_lock(run, display, process_group):
        if not process_group.rank:
            run.create(trainer.config.recorded, checkpoints)
            if config.tracking.backends:
                permit(run.path, display.message)
        lines = (*summary(plan), machine_line) if announce else [f"warning  {line}" for line in too_large(plan)]
        for line in lines:
            if line not in shown:
                display.message(line)
        if config.init_from:
            display.message(f"weights  initialised from {config.init_from}")
        return trainer.run()


def start_or_resume(
    config: Config,
    out: Path,
    display: Display,
    *,
    preset: str = "",
    checkpoints: Path | None = None,
    shown: Collection[str] = (),
) -> TrainResult:
    """`start_run`, or `resume_run` where `out` already holds this run: for launchers that repeat a command.

    A run that was started when the `preset` of that name had another shape keeps the shape. ConfigError where the run
    there is another one.
    """
    process_group, run = init_distributed(), RunFolder(out)
    if not process_group.broadcast_object(run.exists):
        return start_run(config, out, display, checkpoints=checkpoints, shown=shown)
    config, previous = broadcast_config(config, process_group), run_config(run, process_group)
    overrides, kept = overrides_of(config, previous), keys_of_previous(preset, previous, config)
    if kept:
        overrides = {key: value for key, value in overrides.items() if key not in kept}
        display.message(f"{out}: keeps the shape that preset {preset} had when it was started; a new run gets today's")
    merged, keys = reconfigure(run, overrides, process_group, checkpoints=checkpoints)
    if config.tracking.backends:  # this command asks for them, whatever the run does
        keys.append(TRACKERS)
    return resume_run(run, merged, keys, display)


def restarted() -> bool:
    """Whether torchrun or SLURM started this very job before."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in RESTART_VARIABLES)


def dry_run(config: Config, out: Path | None, display: Display, *, checkpoints: Path | None = None) -> Plan:
    """Check and show all that `start_run` does before it writes; writes nothing, builds no model that does not fit."""
    run = RunFolder(out or Path())
    if out:
        run.refuse_existing(checkpoints)
    process_group = init_distributed()
    display = NullDisplay() if process_group.rank else display
    data, plan, machine_line = _prepare(broadcast_config(config, process_group), run.path, process_group)
    remote = process_group.broadcast_object([task for task in config.evaluate.tasks if needs_download(task)])
    if process_group.broadcast_object(plan.fits):
        local = tuple(task for task in plan.config.evaluate.tasks if task not in remote)
        evaluate = plan.config.evaluate.model_copy(update={"tasks": local})
        offline = plan.config.model_copy(update={"evaluate": evaluate})
        plan = _with_speed(plan, _build(offline, data, run, display, process_group))
    for line in (*summary(plan), machine_line):
        display.message(line)
    for task in remote:
        display.message(f"tasks    {task}: its questions are fetched from the hub when training starts")
    _refuse_hopeless(plan)
    return plan


def plan_with_speed(config: Config) -> Plan:
    """The plan of a run in one process with this machine's measured speed, which `start_run` can reuse."""
    validate_config(config)
    data = open_data(config)
    plan = plan_with_measured_speed(config, data.tokenizer.n_vocab, _data_size(config, data))
    _ = plan.run_length  # ConfigError where none is given
    return plan


def resume_run(run: RunFolder, config: Config, changed: list[str], display: Display) -> TrainResult:
    """Resume from the newest good checkpoint, or from the start where the run was killed before its first.

    `config` and `changed` are of `reconfigure`.
    """
    process_group = init_distributed()
    if TRACKERS in changed and config.tracking.backends and not process_group.rank:
        permit(run.path, display.message)
    trackers = TrackingConfig() if process_group.rank else permitted(config.tracking, run.path, lambda _: None)
    validate_config(config.model_copy(update={"tracking": trackers}))
    display = NullDisplay() if process_group.rank else display
    with run_lock(run, display, process_group):
        if not process_group.rank:
            Log(run.log).close()  # a log that is a link is refused before anything changes
        trainer, machine_line = _restore(run, config, changed, display, process_group)
        _announce_resume(trainer, machine_line)
        return trainer.run()


def reconfigure(
    run: RunFolder,
    overrides: Mapping[str, Any],
    process_group: ProcessGroup | None = None,
    *,
    checkpoints: Path | None = None,
) -> tuple[Config, list[str]]:
    """A run's config with `overrides`, and the keys these change; ConfigError for a key that cannot change.

    Trackers that the overrides name are among these keys even if they are the run's. `checkpoints`: where they have
    been moved, which is noted first: the config may be lost, and rebuilt from one of them.
    """
    process_group = process_group or init_distributed()
    if checkpoints is not None and not process_group.rank:
        run.move_checkpoints(checkpoints)
    previous, given = run_config(run, process_group), ConfigSource("resume", dict(overrides), typed=True)
    config = merge_and_validate([ConfigSource(str(run.path), previous.model_dump()), given])
    keys = diff(previous, config)
    for key in keys:
        if resume_rule(key) is OnResume.FIXED:
            raise ConfigError(f"{key}: cannot change when a run is resumed; start a new run with --out")
    if TRACKERS in dict(flatten(rename_source(given)[0])):
        keys.append(TRACKERS)
    return config, keys


def overrides_of(config: Config, previous: Config) -> dict[str, Any]:
    """Dotted keys and values in which `config` differs from an existing run's; keys left open are not included."""
    given = {key: get(config, key) for key in diff(previous, config)}
    return {key: value for key, value in given.items() if key not in MACHINE_KEYS or value not in OPEN}


def run_config(run: RunFolder, process_group: ProcessGroup) -> Config:
    """The run's config, read on rank 0."""
    return rank_0_config(None if process_group.rank else config_or_rebuilt(run), process_group)


@contextmanager
def run_lock(run: RunFolder, display: Display, process_group: ProcessGroup) -> Iterator[None]:
    """Keep processes of other jobs from training this run at the same time."""
    if process_group.rank:
        yield
        return
    with locked(run.path, "training this run") as guarded:
        if not guarded:
            display.message(f"{run.path}: cannot be locked here; make sure that no second process trains this run")
        yield


def check_ranks_agree(process_group: ProcessGroup, config: Config, data: PreparedData) -> None:
    """GroupundError where versions, options or data differ between the processes of this job."""
    versions = f"{__version__} and {torch.__version__}"
    require_same(process_group, "groundup and torch are", versions, "install the same everywhere")
    unlike = ", ".join(diff(rank_0_config(config, process_group), config)) or "none"
    require_same(process_group, "options unlike rank 0's are", unlike, "start the same command everywhere")
    fingerprint = data.manifest.fingerprint
    require_same(process_group, f"the data in {config.data} are", fingerprint, "copy one folder to all machines")


def _prepare(config: Config, folder: Path, process_group: ProcessGroup) -> tuple[PreparedData, Plan, str]:
    """Data, plan without a speed, and the line about the machine, of a new run; before anything large is built."""
    validate_config(config)
    data = open_data(config)
    check_ranks_agree(process_group, config, data)
    machine, line = detect_machine(config.train, folder, process_group)
    size = _data_size(config, data)
    resolved = resolve_config(config, data.tokenizer.n_vocab, machine, process_group, epoch_sequences=size.sequences)
    plan = Plan(resolved, machine, size)
    _ = plan.run_length  # ConfigError where none is given, before a model is built
    return data, plan, line


def _data_size(config: Config, data: PreparedData) -> DataSize:
    sequences = ShuffledWindows(data.train, config.model.block_size, config.train.seed)
    return DataSize(sequences.per_epoch, data.manifest.splits["val"].tokens)


def _refuse_hopeless(plan: Plan) -> None:
    if plan.hopeless:
        raise ConfigError(f"model: {too_much_memory(plan)}")


def _build(
    config: ResolvedConfig,
    data: PreparedData,
    run: RunFolder,
    display: Display,
    process_group: ProcessGroup,
    *,
    restored: bool = False,
    sequence_layout: int = LAYOUT,
) -> Trainer:
    try:
        return Trainer(config, data, run, display, process_group, restored=restored, sequence_layout=sequence_layout)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"{config.train.device}: out of memory before the first step; take a smaller model"
        ) from error


def _with_speed(plan: Plan, trainer: Trainer) -> Plan:
    if not plan.fits or trainer.parallel.sharded:  # sharded passes are collectives, which no rank can run alone
        return plan
    ids = trainer.sequences.read(0, plan.micro_batch_size)
    return measure_speed(plan, trainer.loss, trainer.state.optimizer, ids)


def _restore(
    run: RunFolder, config: Config, changed: list[str], display: Display, process_group: ProcessGroup
) -> tuple[Trainer, str]:
    """The trainer at its newest good checkpoint, and the line about the machine."""
    if config.data and not (folder := Path(config.data)).is_dir() and not config.prepare.sources:
        raise DataError(match_data(folder, {}).message)
    data = open_data(config)
    check_ranks_agree(process_group, config, data)
    newest, rejected = (None, {}) if process_group.rank else _newest_checkpoint(run)
    metadata, match = {}, DataMatch("same")
    if newest:
        metadata = load_resumable(newest)
        match = match_data(Path(str(config.data)), metadata, data.manifest, tokenizer_of(newest))
    name, metadata, match = process_group.broadcast_object([newest and newest.name, metadata, match])
    checkpoint, match = run.checkpoints / name if name else None, DataMatch(*match)
    if match.answer != "same":
        raise CheckpointError(match.message)
    processes = metadata.get("processes", 1)
    if processes != process_group.size and "train.threads" not in changed:  # the cores are shared otherwise now
        config = _update_train(config, threads=None)
        changed.append("train.threads")
    if config.train.microbatch_threads is None:  # started by a version without these threads
        config = _update_train(config, microbatch_threads=1)
    machine, line = detect_machine(config.train, run.path, process_group)
    resolved = resolve_config(
        config, data.tokenizer.n_vocab, machine, process_group, epoch_sequences=_data_size(config, data).sequences
    )
    trainer = _build(
        resolved,
        data,
        run,
        display,
        process_group,
        restored=checkpoint is not None,
        sequence_layout=layout_of(metadata),
    )
    if checkpoint:
        trainer.restore(checkpoint)
    try:
        if not process_group.rank:
            rebuilt = keep_lost_config(run)
            for message in (*run.go_back_to(checkpoint, rejected), *([rebuilt] if rebuilt else [])):
                display.message(message)
            if changed or rebuilt:
                run.write_config(resolved.recorded)
    except OSError as error:
        raise CheckpointError(f"{run.path}: cannot be written ({error.strerror}); fix that, and resume") from error
    return trainer, line


def _newest_checkpoint(run: RunFolder) -> tuple[Path | None, dict[Path, str]]:
    """The newest good checkpoint, and why newer ones are rejected.

    CheckpointError where all are damaged or lost, and where config.yaml contradicts the newest.
    """
    run.restore_replaced()
    newest, rejected = run.newest_good()
    if newest is None:
        run.refuse_lost()
    elif lost_config(run) is None and (message := changed_config(run, run.config(), newest)):
        raise CheckpointError(message)
    return newest, rejected


def _update_train(config: Config, **values: int | None) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=values)})


def _changes_since(checkpoint: Path, trainer: Trainer) -> list[str]:
    """Lines on what changed since a checkpoint was written and moves the numbers to come; on rank 0."""
    before, now, metadata = load_config(checkpoint), trainer.config, load_metadata(checkpoint)
    noted = {"processes": metadata.get("processes", 1)} | metadata.get("numerics", {})
    progress, per_epoch = trainer.state.progress, trainer.sequences.per_epoch
    numerics = changed_numerics(before, now.recorded, noted, trainer.checkpointer.numerics)
    rate = changed_learning_rate(before, now, progress, per_epoch)
    return [line for line in (numerics, rate) if line]


def _announce_resume(trainer: Trainer, machine_line: str) -> None:
    message, path, progress = trainer.display.message, trainer.folder.path, trainer.state.progress
    source = trainer.resumed_from
    if trainer.done:
        key = trainer.early_stopping.limit_reached(progress)
        message(f"{path}: finished at step {progress.step:,}; a larger --train.{key} continues it")
    else:
        message(f"{path}: resuming from {source.name if source else 'the start: it has no checkpoint yet'}")
    if not trainer.done or trainer.misses_end:
        message(machine_line)
        if source and not trainer.process_group.rank:
            for line in _changes_since(source, trainer):
                message(line)
