"""Rules behind every `auto` and every value a user may leave open. Pure arithmetic on the config and the machine.

Device and precision are facts of the hardware: `utils/device.py` asks it, and `Machine` brings the answer here.
"""

import math
from collections.abc import Sequence
from typing import Any

from groundup.config.model import ModelConfig
from groundup.config.resolved import ResolvedConfig
from groundup.config.schema import Config
from groundup.config.sections import TrainConfig
from groundup.config.types import CheckpointingMode
from groundup.errors import ConfigError
from groundup.optim.schedule import DEFAULT_COOLDOWN_FRACTION, DEFAULT_RISE_FRACTION
from groundup.planning.memory import Machine, sequences_per_process, step_memory
from groundup.utils.system import splits_evenly

MICRO_BATCH_TOKENS = 16_384  # per forward pass
RESIDUAL_NUMBERS = 2**26  # per layer and pass; of each, a block of GPT-2 keeps 64 bytes in fp32: 4 GiB
MICROBATCH_THREADS = (4, 3, 2)  # numbers tried, where they divide all threads
CHECKPOINTED_NUMBERS = 2**18  # in the residual stream of one thread's pass, 1 MiB: smaller ones are not recomputed
GPU_MEMORY_FRACTION = 0.5  # to fill: the rest is for what the estimate does not know
GPU_MICRO_BATCH_TOKENS = 65_536  # per forward pass; the matrix products of a small GPT are large enough by then


def resolve(config: Config, machine: Machine, vocab_size: int, epoch_sequences: int | None = None) -> ResolvedConfig:
    """`config` with every open value decided for `machine`; its device, precision and threads are the machine's.

    `epoch_sequences`: sequences per epoch, if they are known. ConfigError where `train.parallel` is none, and there are
    several processes.
    """
    train: dict[str, Any] = {"device": machine.torch_device, "precision": machine.precision, "threads": machine.threads}
    base = _updated(config, train=train, model={"vocab_size": vocab_size, "n_inner": config.model.inner})
    train |= _division_of_work(base, machine)
    peak = config.optimizer.learning_rate
    optimizer = {
        "embedding_learning_rate": config.optimizer.embedding_learning_rate or peak,
        "head_learning_rate": config.optimizer.head_learning_rate or peak,
    }
    intervals = {
        name: {"every_steps": max(1, math.ceil(epochs * epoch_sequences / config.batch_size))}
        for name in ("evaluate", "checkpoint")
        if (epochs := getattr(config, name).every_epochs) and epoch_sequences
    }
    schedule = _schedule_defaults(config)
    values = _updated(base, train=train, optimizer=optimizer, schedule=schedule, **intervals).model_dump()
    return ResolvedConfig.model_validate(values | {"recorded": _recorded(config, machine, vocab_size, train)})


def _recorded(config: Config, machine: Machine, vocab_size: int, train: dict[str, Any]) -> Config:
    """`config` with what a resumed run must repeat, whatever this version or another machine would choose."""
    pinned = {key: train[key] for key in ("device", "precision", "threads")}
    open_on_a_gpu = ("micro_batch_size",) if machine.device == "cuda" else ()  # there it depends on the memory
    for key in ("microbatch_threads", *open_on_a_gpu):
        if getattr(config.train, key) is None:
            pinned[key] = train[key]
    return _updated(config, model={"vocab_size": vocab_size}, train=pinned)


def _updated(config: Config, **sections: dict[str, Any]) -> Config:
    changed = {name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    return config.model_copy(update=changed)


def _division_of_work(config: Config, machine: Machine) -> dict[str, Any]:
    """Micro-batch, parallelism, checkpointing and threads. `config` has the machine's device, precision, threads."""
    model, train = config.model, config.train
    choices = thread_choices(model, train)
    size = micro_batch_size(config, choices)
    if machine.device == "cuda" and train.micro_batch_size is None:
        size = fill_gpu(config, machine, size)
    per_process = min(size, sequences_per_process(config, machine))
    mode = checkpointing(model, train, per_process)
    threads = microbatch_threads(choices, per_process, machine.processes)
    parallel = _parallel(config, machine, per_process, mode)
    if train.microbatch_threads is None and threads > 1:  # each thread has gradients of its own
        threads = threads if _fits(config, machine, per_process, mode, threads) else 1
    if train.micro_batch_size is None and machine.device != "cuda":
        size = micro_batch_size(config, (threads,))
    return {
        "micro_batch_size": size,
        "parallel": parallel,
        "activation_checkpointing": mode,
        "microbatch_threads": threads,
    }


def micro_batch_size(config: Config, threads: Sequence[int]) -> int:
    """Sequences per forward pass: `train.micro_batch_size`, or a default that divides among the first of `threads`."""
    model = config.model
    if config.train.micro_batch_size:
        return min(config.batch_size, config.train.micro_batch_size)
    tokens = min(MICRO_BATCH_TOKENS, RESIDUAL_NUMBERS // (model.n_layer * model.n_embd))
    size = max(1, tokens // model.block_size)
    if size >= config.batch_size:
        return config.batch_size
    return size - size % next((n for n in threads if n <= size), 1)  # equally many for each thread


def thread_choices(model: ModelConfig, train: TrainConfig) -> tuple[int, ...]:
    """Numbers of threads that may share a micro-batch, the best first; `train` has its device and threads.

    Sharing takes a CPU, no random draws in the pass, and no compiler, which would see one thread's part alone. More
    than a few threads would wait for Python's lock, which one of them holds at a time.
    """
    total = train.threads or 1
    if model.dropout or train.device != "cpu" or train.compile != "off":
        return ()
    if train.microbatch_threads:
        return (min(train.microbatch_threads, total),)
    return thread_counts(total)


def thread_counts(total: int) -> tuple[int, ...]:
    """Numbers of threads that may share a micro-batch, of `total` CPU threads, the best first."""
    return tuple(n for n in MICROBATCH_THREADS if total % n == 0)


def microbatch_threads(choices: Sequence[int], sequences: int, processes: int = 1) -> int:
    """The first of `choices` among which so many sequences divide evenly; 1 where there is none."""
    return next((n for n in choices if processes == 1 and splits_evenly(sequences, n)), 1)


def checkpointing(model: ModelConfig, train: TrainConfig, sequences: int) -> CheckpointingMode:
    """`train.activation_checkpointing` for a pass over so many sequences.

    `auto` means selective on a CPU where passes are large: in small ones Python's part would cost more than the memory
    is worth. Compilers decide it by themselves.
    """
    if train.activation_checkpointing != "auto":
        return train.activation_checkpointing
    threads = microbatch_threads(thread_choices(model, train), sequences)
    large = sequences * model.block_size * model.n_embd >= CHECKPOINTED_NUMBERS * threads
    return "selective" if large and train.device == "cpu" and train.compile == "off" else "none"


def fill_gpu(config: Config, machine: Machine, size: int) -> int:
    """The largest micro-batch from `size` on that divides a process's sequences and fits: small ones idle a GPU."""
    total, block = sequences_per_process(config, machine), config.model.block_size
    limit = GPU_MEMORY_FRACTION * (machine.memory or 0)
    sizes = [n for n in range(1, total + 1) if total % n == 0 and n * block <= GPU_MICRO_BATCH_TOKENS]
    modes = {n: checkpointing(config.model, config.train, n) for n in sizes}
    sizes = [n for n, mode in modes.items() if _memory(config, machine, n, mode) <= limit]
    return sizes[-1] if sizes and sizes[-1] > min(total, size) else size


def _parallel(config: Config, machine: Machine, size: int, mode: CheckpointingMode) -> str:
    wanted = config.train.parallel
    if machine.processes == 1:
        return "none"
    if wanted == "none":
        raise ConfigError(f"train.parallel: none, but there are {machine.processes} processes; give auto, ddp or fsdp")
    fits = _fits(config, machine, size, mode)
    return wanted if wanted in ("ddp", "fsdp") else "ddp" if fits else "fsdp"


def _fits(config: Config, machine: Machine, size: int, mode: CheckpointingMode, threads: int = 1) -> bool:
    return machine.memory is None or _memory(config, machine, size, mode, threads) <= machine.memory


def _memory(config: Config, machine: Machine, size: int, mode: CheckpointingMode, threads: int = 1) -> int:
    return step_memory(
        config,
        machine,
        micro_batch_size=size,
        checkpointing=mode,
        microbatch_threads=threads,
        sharded=config.train.parallel == "fsdp" and machine.processes > 1,
    ).total


def _schedule_defaults(config: Config) -> dict[str, Any]:
    """Default lengths of the schedule's parts, where the config gives none."""
    schedule = config.schedule
    cooldowns = (schedule.cooldown_steps, schedule.cooldown_tokens, schedule.cooldown_fraction)
    warmups = (schedule.warmup_steps, schedule.warmup_tokens, schedule.warmup_fraction)
    if schedule.name == "wsd" and not any(cooldowns):
        return {"cooldown_fraction": DEFAULT_COOLDOWN_FRACTION}
    if schedule.name == "onecycle" and all(value is None for value in warmups):
        return {"warmup_fraction": DEFAULT_RISE_FRACTION}
    return {}
