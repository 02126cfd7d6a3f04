"""Parts of a training run, built from its resolved config: shared by the trainer, the LR search and the speed test."""

from collections.abc import Callable

import torch
from torch import nn

from groundup.config.resolved import ResolvedConfig
from groundup.config.sections import OptimizerConfig
from groundup.distributed.parallelize import NoParallel, parallelize
from groundup.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.optim.ema import EMA, NoEMA
from groundup.optim.optimizer import build_optimizer
from groundup.optim.run_length import StepLength, TimeLength
from groundup.optim.schedule import Schedule, build_schedule
from groundup.training.guard import LossGuard
from groundup.training.micro_batches import BatchLoader, Sequences, build_seq_len
from groundup.training.train_state import TrainState
from groundup.utils.device import loss_scaler


def build_loss(
    config: ResolvedConfig, model: GPT, device: torch.device, process_group: ProcessGroup = SINGLE_PROCESS
) -> tuple[NextTokenLoss, nn.Module, NoParallel]:
    """The summed loss as it is, as threads compute it, and the parallelism; build the optimizer afterwards."""
    loss_sum = NextTokenLoss(use_fused_cpu_kernels(model))
    loss, parallel = parallelize(
        model,
        loss_sum,
        checkpointing=config.train.activation_checkpointing,
        mode=config.train.parallel,
        microbatch_threads=config.train.microbatch_threads,
        process_group=process_group,
        device=device,
    )
    return loss_sum, loss, parallel


def build_state(
    config: ResolvedConfig,
    model: GPT,
    device: torch.device,
    *,
    optimizer: OptimizerConfig | None = None,
    guard: LossGuard | None = None,
    scaler: torch.amp.GradScaler | None = None,
    rank: int = 0,
    validation_text: str | None = None,
    log: Callable[..., None] = lambda *_, **__: None,
) -> TrainState:
    """The state of a run that starts with `model`. `log(event, **values)` receives loss spikes.

    `optimizer`, `guard` and `scaler` replace those of the config.
    """
    recipe = optimizer or config.optimizer
    scaler = scaler or loss_scaler(config.train.precision, device)
    state = TrainState(
        model=model,
        optimizer=build_optimizer(model.named_parameters(), recipe, config.train.precision),
        ema=EMA(model, recipe.ema_decay) if recipe.ema_decay else NoEMA(),
        scaler=scaler,
        guard=guard
        or LossGuard(
            config.guard.spike_sigma,
            config.guard.max_bad_steps,
            config.guard.max_rollbacks,
            rollbacks=lambda: len(state.progress.skips),
            cursor=lambda: state.progress.cursor,
            overflows=lambda: scaler.is_enabled() and scaler.get_scale() >= 1,
            log=log,
        ),
        micro_batch_size=config.train.micro_batch_size,
        seed=config.train.seed,
        rank=rank,
        validation_text=validation_text,
    )
    return state


def build_loader(
    config: ResolvedConfig, sequences: Sequences, device: torch.device, process_group: ProcessGroup = SINGLE_PROCESS
) -> BatchLoader:
    """The loader of this process's micro-batches."""
    group, train = process_group, config.train
    seq_len = build_seq_len(train.seq_len_warmup_from, train.seq_len_warmup_until, config.model.block_size)
    return BatchLoader(sequences, config.batch_size, device, rank=group.rank, world_size=group.size, seq_len=seq_len)


def build_run_schedule(config: ResolvedConfig, run_length: StepLength | TimeLength) -> Schedule:
    """The learning-rate schedule over the run. ConfigError where its parts do not fit."""
    steps = run_length.total if isinstance(run_length, StepLength) else None
    return build_schedule(config.schedule, config.optimizer.learning_rate, steps, config.train.batch_tokens)
