"""A plan on this very machine: its memory, and its speed on a few tokens. The part of planning that needs torch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from groundup.config.schema import Config
from groundup.distributed.activation_checkpointing import apply_activation_checkpointing
from groundup.distributed.process_group import ProcessGroup, SingleProcess
from groundup.distributed.thread_parallel import thread_parallel
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.model.memory import Precision
from groundup.model.undrawn import skip_init
from groundup.optim.optimizer import OptimizerContainer, build_optimizer
from groundup.planning.plan import Data, Machine, Plan, Speed
from groundup.training.micro_batches import to_inputs_targets
from groundup.training.throughput import SECONDS, measure_throughput
from groundup.utils.device import autocast, choose_device, choose_precision, device_memory
from groundup.utils.exhausted import is_out_of_memory
from groundup.utils.system import free_disk, main_memory, usable_cores

FULL = 0.5  # of a GPU's memory: the rest is for what the estimate does not know
MOST_TOKENS = 65_536  # a pass; the matrix products of a small GPT are large enough by then
WORTH = 0.03  # of a budget, that measuring the speed may take


def plan_here(config: Config, data: Data | None, place: Path, process_group: ProcessGroup | None = None) -> Plan:
    """The plan of a settled `config` on this machine, its speed still unknown; `place` is where the run would lie.

    With `parallel` auto, several processes each have the whole model, where that fits.
    """
    plan = _planned(config, data, place, process_group or SingleProcess())
    rows, processes = plan.micro_rows, plan.machine.processes
    settled = {"activation_checkpointing": plan.config.recomputed_of(rows)}
    shares = {"microbatch_threads": plan.config.shares_of(rows, processes)}
    sharing, alone = (_with_train(plan, settled | each) for each in (shares, {"microbatch_threads": 1}))
    return (
        alone if config.train.microbatch_threads is None and not sharing.fits else sharing
    )  # each has gradients of its own


def _with_train(plan: Plan, settled: dict[str, Any]) -> Plan:
    train = plan.config.train.model_copy(update=settled)
    return replace(plan, config=plan.config.model_copy(update={"train": train}))


def _planned(config: Config, data: Data | None, place: Path, process_group: ProcessGroup) -> Plan:
    device = torch.device(config.train.device)
    main = main_memory()
    memory = device_memory(device) or (main and main // process_group.local_size)
    plan = Plan(config, Machine(device.type, _precision(config), memory, free_disk(place), process_group.size), data)
    if plan.machine.device == "cuda" and config.train.micro_batch_size is None:
        plan = filled(plan)
        config = plan.config
    if process_group.size == 1 or config.train.parallel != "auto":
        return plan
    return _with_train(plan, {"parallel": process_group.broadcast_object("ddp" if plan.fits else "fsdp")})


def filled(plan: Plan) -> Plan:
    """The plan with as many windows a pass as a GPU takes with ease, the same in each; small passes leave it idle."""
    room, size = plan.machine.memory or 0, plan.config.model.block_size
    fitting = [n for n in range(1, plan.share + 1) if plan.share % n == 0 and n * size <= MOST_TOKENS]
    fitting = [n for n in fitting if plan.memory_of(n).total <= FULL * room]
    if not fitting or fitting[-1] <= plan.micro_rows:
        return plan
    train = plan.config.train.model_copy(update={"micro_batch_size": fitting[-1]})
    return replace(plan, config=plan.config.model_copy(update={"train": train}))


def unmeasured(config: Config, data: Data | None) -> Plan:
    """The plan on this machine, its speed unknown; `config` need not be settled but for its vocabulary.

    Raises ConfigError for a device that is not here.
    """
    device = choose_device(config.train.device)
    threads = config.train.threads or usable_cores()
    torch.set_num_threads(threads)
    precision = choose_precision(config.train.precision, device).name
    train = config.train.model_copy(update={"device": str(device), "threads": threads, "precision": precision})
    return plan_here(config.model_copy(update={"train": train}), data, Path())


def measured(config: Config, data: Data | None) -> Plan:
    """The plan with this machine's speed on random tokens; without one where the model does not fit.

    `config` need not be settled but for its vocabulary. Raises ConfigError for a device that is not here.
    """
    plan = unmeasured(config, data)
    if not plan.fits:
        return plan
    config, device = plan.config, torch.device(plan.config.train.device)
    try:
        with skip_init():
            gpt = GPT(config.model)
        gpt.init_weights(torch.Generator().manual_seed(config.train.seed)).to(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return plan
    apply_activation_checkpointing(gpt, config.recomputed_of(plan.micro_rows))
    optimizer = build_optimizer(gpt.named_parameters(), config.optimizer, config.train.precision)
    shape = (config.micro_rows, config.model.block_size + 1)
    ids = np.random.default_rng(config.train.seed).integers(config.model.vocab, size=shape)
    return with_speed(plan, thread_parallel(NextTokenLoss(gpt), config.shares), optimizer, ids)


def with_speed(plan: Plan, loss_sum: nn.Module, optimizer: OptimizerContainer, ids: NDArray[np.int64]) -> Plan:
    """The plan with the speed of these parts on `ids`, (rows, T + 1); as it was where memory does not suffice.

    The parts must be fresh, and are afterwards what they were, bit for bit.
    """
    config = plan.config
    device = torch.device(config.train.device)
    found = measure_throughput(
        loss_sum,
        optimizer,
        to_inputs_targets(ids, device),
        step_tokens=plan.share * config.model.block_size,
        clip=config.optimizer.grad_clip,
        autocast=autocast(_precision(config), device),
        fewest=config.shares_of(plan.micro_rows, plan.machine.processes),
        seconds=min(SECONDS, WORTH * (config.train.max_time or math.inf)),
    )
    if found is None:
        return plan
    windows = found.tokens / config.model.block_size
    many = f"{windows:.0f} windows" if windows > 1 else "1 window" if windows == 1 else f"{found.tokens} tokens"
    n = plan.machine.processes
    each = f" on each of {n} processes, gradients not sent" if n > 1 else ""
    return replace(plan, speed=Speed(n * found.tokens_per_s, f"estimated from {many}{each}"))


def _precision(config: Config) -> Precision:
    wanted = config.train.precision
    return "fp32" if wanted == "auto" else wanted
