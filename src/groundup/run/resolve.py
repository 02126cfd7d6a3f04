"""One resolution of a run's config on this machine, and the plan that follows from it."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from groundup.config.resolved import ResolvedConfig
from groundup.config.schema import Config
from groundup.config.sections import TrainConfig
from groundup.distributed.compile import parse_compile
from groundup.distributed.process_group import SINGLE_PROCESS, ProcessGroup, require_same
from groundup.errors import ConfigError, UsageError
from groundup.evaluation.tasks import TaskSpec
from groundup.kernels import cpu_build
from groundup.model import build_model
from groundup.model.init import skip_init
from groundup.optim.optimizer import OptimizerContainer, build_optimizer
from groundup.planning import policy
from groundup.planning.memory import Machine
from groundup.planning.plan import DataSize, Plan, Speed
from groundup.run.parts import build_loss
from groundup.tracking.trackers import check as check_trackers
from groundup.training.micro_batches import to_inputs_targets
from groundup.training.throughput import MEASURE_SECONDS, measure_throughput
from groundup.utils.device import Precision, autocast, choose_device, choose_precision, device_memory, is_out_of_memory
from groundup.utils.plural import human_plural
from groundup.utils.system import free_disk, main_memory, usable_cores

MEASURE_FRACTION = 0.03  # of a run length in time, that measuring the speed may take


def validate_config(config: Config) -> None:
    """Find mistakes that can be known without the data. ConfigError."""
    parse_compile(config.train.compile)
    check_trackers(config.tracking)
    for task in config.evaluate.tasks:
        try:
            TaskSpec.parse(task)
        except UsageError as error:
            raise ConfigError(f"evaluate.tasks: {error}") from error


def detect_machine(
    train: TrainConfig, folder: Path, process_group: ProcessGroup = SINGLE_PROCESS
) -> tuple[Machine, str]:
    """The machine to train on, and a line on what was chosen and why; `folder` is where the run will be written.

    Device, precision and threads that `train` leaves open are chosen here; of several processes, rank 0 chooses for
    all. Sets torch's number of threads. ConfigError for a device or precision that this machine does not have.
    """
    device = choose_device(train.device)
    require_same(process_group, "train.device is", device.type, "fix the GPU there, or give all --train.device cpu")
    threads = process_group.broadcast_object(train.threads or max(1, usable_cores() // process_group.local_size))
    torch.set_num_threads(threads)
    precision = Precision(*process_group.broadcast_object(choose_precision(train.precision, device)))
    main = main_memory()
    memory = device_memory(device) or (main and main // process_group.local_size)
    size = process_group.size
    machine = Machine(device.type, precision.name, memory, free_disk(folder), size, threads, str(device))
    each = f"{size} processes of {human_plural(threads, 'thread')}" if size > 1 else human_plural(threads, "thread")
    line = f"machine  {device}, {each}, {precision.name}: {precision.reason}"
    if device.type == "cpu":
        compiled = cpu_build.kernels()
        missing = "; ".join(filter(None, (compiled.reason, compiled.remedy)))
        line += "; C++ kernels" if compiled.library else f"; no C++ kernels: {missing}"
    return machine, line


def resolve_config(
    config: Config,
    vocab_size: int,
    machine: Machine,
    process_group: ProcessGroup = SINGLE_PROCESS,
    *,
    epoch_sequences: int | None = None,
) -> ResolvedConfig:
    """Replace every `auto`, and every value still to be computed, once; `planning/policy.py` has the rules.

    Its `recorded` is written into the run's folder, so that a resumed run computes exactly as the first one did. Of
    several processes, rank 0 decides for all. `vocab_size` is that of the data's tokenizer; ConfigError if the config
    has another.
    """
    if config.model.vocab_size not in (None, vocab_size):
        raise ConfigError(
            f"model.vocab_size: {config.model.vocab_size}, but the data's tokenizer has {vocab_size} ids; leave it out "
            "(--model.vocab_multiple pads the embedding)"
        )
    first = Machine(**process_group.broadcast_object(asdict(machine)))
    return policy.resolve(config, first, vocab_size, epoch_sequences)


def plan_here(config: Config, vocab_size: int, data: DataSize | None) -> Plan:
    """The plan of a run in one process here, its speed unknown. ConfigError for a device this machine lacks."""
    machine, _ = detect_machine(config.train, Path())
    resolved = resolve_config(config, vocab_size, machine, epoch_sequences=data.sequences if data else None)
    return Plan(resolved, machine, data)


def plan_with_measured_speed(config: Config, vocab_size: int, data: DataSize | None) -> Plan:
    """The plan with this machine's speed on random tokens; without a speed where the model does not fit."""
    plan = plan_here(config, vocab_size, data)
    if not plan.fits:
        return plan
    resolved, device = plan.config, torch.device(plan.config.train.device)
    try:
        with skip_init():
            model = build_model(resolved.model)
        model.init_weights(torch.Generator().manual_seed(resolved.train.seed)).to(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return plan
    _, loss, _ = build_loss(resolved, model, device)
    optimizer = build_optimizer(model.named_parameters(), resolved.optimizer, resolved.train.precision)
    shape = (resolved.train.micro_batch_size, resolved.model.block_size + 1)
    ids = np.random.default_rng(resolved.train.seed).integers(resolved.model.vocab, size=shape)
    return measure_speed(plan, loss, optimizer, ids)


def measure_speed(plan: Plan, loss_sum: nn.Module, optimizer: OptimizerContainer, ids: NDArray[np.int64]) -> Plan:
    """The plan with the speed of these parts on `ids`, (n, T + 1); unchanged where memory does not suffice.

    The parts must not have trained yet; they are left as they were, bit for bit.
    """
    config = plan.config
    device = torch.device(config.train.device)
    found = measure_throughput(
        loss_sum,
        optimizer,
        to_inputs_targets(ids, device),
        step_tokens=plan.process_batch_size * config.model.block_size,
        clip=config.optimizer.grad_clip,
        autocast=autocast(config.train.precision, device),
        fewest=config.train.microbatch_threads,
        seconds=min(MEASURE_SECONDS, MEASURE_FRACTION * (config.train.max_time or math.inf)),
    )
    if found is None:
        return plan
    sequences = found.tokens / config.model.block_size
    amount = human_plural(round(sequences), "sequence") if sequences >= 1 else f"{found.tokens} tokens"
    n = plan.machine.processes
    each = f" on each of {n} processes, without communication" if n > 1 else ""
    return replace(plan, speed=Speed(n * found.tokens_per_s, f"estimated from {amount}{each}"))
