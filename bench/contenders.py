"""Tasks of the training-step benchmarks, groundup's training of them, and the plain loop for the other trainers.

All contenders start from the same weights and see the same sequences in the same order. Ours runs as in
`groundup train`: the real loop, batches computed from (seed, cursor), every step written to a log. A peer's model and
optimizer run in the loop of nanoGPT's train.py, reduced to its arithmetic: it gets the starts of its sequences, and
it neither logs nor prints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from groundup.checkpoint.log import Log
from groundup.config.model import ModelConfig
from groundup.config.resolved import ResolvedConfig
from groundup.config.schema import Config
from groundup.config.sections import OptimizerConfig, ScheduleConfig, TrainConfig
from groundup.data.shards import Tokens
from groundup.data.windows import ShuffledWindows
from groundup.distributed.compile import compile_loss
from groundup.distributed.process_group import SINGLE_PROCESS
from groundup.errors import UsageError
from groundup.model.gpt import GPT
from groundup.optim.run_length import StepLength
from groundup.optim.schedule import build_schedule
from groundup.planning import policy
from groundup.planning.memory import Machine
from groundup.run.parts import build_loader, build_loss, build_state
from groundup.training.dry_run import DryRunStep
from groundup.training.guard import LossGuard
from groundup.training.hooks import log_step
from groundup.training.loop import StepInfo, fit
from groundup.utils.device import Name, autocast

SEED = 1337
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Task:
    """A training to be timed; can be pickled."""

    name: str
    config: ModelConfig
    adamw: OptimizerConfig
    rows: int  # sequences per step
    compared: int  # first steps, whose losses must agree
    steps: int  # per round
    rounds: int
    micro_rows: int | None = None  # sequences per pass; None: all, ours on a CPU as `groundup train` decides
    microbatch_threads: int | None = None  # of ours on a CPU; None: as `groundup train` decides

    @property
    def step_tokens(self) -> int:
        """Tokens per step."""
        return self.rows * self.config.block_size


# nanoGPT's documented CPU model; and GPT-2's smallest size as its train.py has it: no biases, 50,304 rows of embedding.
NANO = Task(
    "nano",
    ModelConfig(n_layer=4, n_head=4, n_embd=128, block_size=64, vocab_size=65, bias=False, activation="gelu"),
    OptimizerConfig(learning_rate=1e-3, weight_decay=0.1, beta1=0.9, beta2=0.99, grad_clip=1.0),
    rows=12, compared=100, steps=150, rounds=9,
)  # fmt: skip
GPT2 = Task(
    "gpt2",
    ModelConfig(
        n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50_304, bias=False, activation="gelu"
    ),
    OptimizerConfig(learning_rate=6e-4, weight_decay=0.1, beta1=0.9, beta2=0.95, grad_clip=1.0),
    rows=2, compared=5, steps=1, rounds=5,
)  # fmt: skip
TASKS = {task.name: task for task in (NANO, GPT2)}


def sizes_of(shape: str) -> dict[str, int]:
    """Sizes of a model LAYERSxWIDTH with heads about 64 wide; UsageError for any other `shape`."""
    parts = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,4})", shape)
    if not parts:
        raise UsageError(f"{shape}: no such shape; give LAYERSxWIDTH, such as 6x256")
    layers, width = map(int, parts.groups())
    heads = next(h for h in range(max(1, width // 64), 0, -1) if width % h == 0)
    return {"n_layer": layers, "n_embd": width, "n_head": heads}


class Trainee(Protocol):
    """A training run that is advanced by a number of steps."""

    def train(self, steps: int) -> list[float]:
        """The losses of the next `steps` steps, in nats per token."""
        ...


@dataclass(frozen=True)
class Peer:
    """Another project's model with our weights, and the optimizer that goes with it."""

    model: nn.Module
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]  # mean nats per token of (B, T) ids and (B, T) targets
    optimizer: torch.optim.Optimizer


def init_model(config: ModelConfig) -> GPT:
    """Model with the same initial weights each time."""
    return GPT(config).init_weights(torch.Generator().manual_seed(SEED))


def resolve_task(task: Task, device: torch.device, precision: Name, *, compiling: bool = False) -> ResolvedConfig:
    """Resolved config of the task, as `groundup train` would resolve it."""
    train = TrainConfig(
        batch_tokens=task.step_tokens,
        seed=SEED,
        microbatch_threads=task.microbatch_threads,
        micro_batch_size=task.micro_rows or (None if device.type == "cpu" else task.rows),
        compile="on" if compiling else "off",
    )
    threads = torch.get_num_threads()
    machine = Machine(device.type, precision, None, 0, threads=threads, device_name=str(device))
    return policy.resolve(Config(model=task.config, optimizer=task.adamw, train=train), machine, task.config.vocab)


class Ours:
    """A run of groundup."""

    def __init__(
        self, gpt: GPT, task: Task, batches: ShuffledWindows, log: Log, precision: Name, *, compiling: bool = False
    ) -> None:
        """Run on the device of `gpt`; RuntimeError if `compiling` fails."""
        self.device = gpt.wte.weight.device
        config = resolve_task(task, self.device, precision, compiling=compiling)
        _, self.loss_sum, self.parallel = build_loss(config, gpt, self.device)
        self.state = build_state(config, gpt, self.device, guard=LossGuard())
        self.loader = build_loader(config, batches, self.device)
        self.task, self.log, self.autocast = task, log, autocast(precision, self.device)
        if compiling:
            self.compile("on")

    def compile(self, attempt: str) -> None:
        """Compile the loss as a value of `train.compile` says; RuntimeError if it fails."""
        messages: list[str] = []
        dry_run = DryRunStep(self.loader, self.autocast, SINGLE_PROCESS)
        self.loss_sum = compile_loss(
            self.loss_sum, attempt, messages.append, lambda loss: dry_run(loss, self.state.micro_batch_size)
        )
        if messages:
            raise RuntimeError(messages[0])

    def train(self, steps: int) -> list[float]:
        """The losses of the next `steps` steps."""
        losses: list[float] = []

        def record(info: StepInfo) -> None:
            losses.append(info.loss)

        fit(
            self.loss_sum,
            self.state,
            self.loader,
            build_schedule(ScheduleConfig(name="constant"), self.task.adamw.learning_rate, None),
            StepLength(self.state.progress.step + steps),
            grad_clip=self.task.adamw.grad_clip,
            parallel=self.parallel,
            autocast=self.autocast,
            hooks=[log_step(self.log.write), record],
            should_stop=lambda: False,
        )
        return losses


class Theirs:
    """A peer in the loop of nanoGPT's train.py, with the starts of its sequences given."""

    def __init__(
        self,
        peer: Peer,
        task: Task,
        tokens: NDArray[np.uint16],
        starts: NDArray[np.int64],  # (steps, rows)
        precision: Name = "fp32",
        *,
        compiling: bool = False,
    ) -> None:
        self.peer, self.task, self.tokens, self.starts, self.step = peer, task, tokens, starts, 0
        self.model = torch.compile(peer.model) if compiling else peer.model
        self.device = next(peer.model.parameters()).device
        self.autocast = autocast(precision, self.device)

    def train(self, steps: int) -> list[float]:
        """The losses of the next `steps` steps."""
        losses: list[Tensor] = []
        self.model.train()
        for starts in self.starts[self.step : self.step + steps]:
            pieces = starts.reshape(-1, self.task.micro_rows or self.task.rows)
            for piece in pieces:
                with self.autocast():
                    loss = self.peer.loss(self.model, self._read(piece), self._read(piece + 1)) / len(pieces)
                torch.autograd.backward(loss)
                losses.append(loss.detach())
            nn.utils.clip_grad_norm_(self.peer.model.parameters(), self.task.adamw.grad_clip)
            self.peer.optimizer.step()
            self.peer.optimizer.zero_grad(set_to_none=True)
        self.step += steps
        assert self.step <= len(self.starts), "more steps than prepared sequences"
        return torch.stack(losses).view(steps, -1).sum(1).tolist()  # read once: a GPU need not wait between steps

    def _read(self, starts: NDArray[np.int64]) -> Tensor:
        size = self.task.config.block_size
        ids = torch.stack([torch.from_numpy(self.tokens[i : i + size].astype(np.int64)) for i in starts])
        return ids.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else ids


@contextmanager
def open_setup(task: Task, ids: NDArray[np.int64] | None = None) -> Iterator[Setup]:
    """Set up data and log of a task; `ids` are tokens to train on instead of synthetic ones."""
    with TemporaryDirectory(prefix="groundup-bench-") as name:
        folder = Path(name)
        tokens = mapped(synthetic(task.config.vocab) if ids is None else ids, folder)
        with closing(Log(folder / "log.jsonl")) as log:
            yield Setup(task, tokens, ShuffledWindows(Tokens([tokens]), task.config.block_size, SEED), log)


@dataclass(frozen=True)
class Setup:
    """A task's tokens, its shuffled sequences and a log."""

    task: Task
    tokens: NDArray[np.uint16]
    batches: ShuffledWindows
    log: Log

    def ours(self, precision: Name = "fp32", *, compiling: bool = False, device: torch.device = CPU) -> Ours:
        """A groundup run from the common initial weights."""
        return Ours(
            init_model(self.task.config).to(device), self.task, self.batches, self.log, precision, compiling=compiling
        )

    def theirs(
        self,
        make: Callable[[GPT, OptimizerConfig], Peer],
        steps: int,
        precision: Name = "fp32",
        *,
        compiling: bool = False,
        device: torch.device = CPU,
    ) -> Theirs:
        """A peer with sequences for `steps` steps in total."""
        starts = self.batches.window_starts(0, self.task.rows * steps).reshape(-1, self.task.rows)
        peer = make(init_model(self.task.config).to(device), self.task.adamw)
        return Theirs(peer, self.task, self.tokens, starts, precision, compiling=compiling)


def mapped(ids: NDArray[np.int64], folder: Path) -> NDArray[np.uint16]:
    """Token ids as a memory-mapped file, like prepared data."""
    path = folder / "train.bin"
    ids.astype("<u2").tofile(path)
    return np.memmap(path, "<u2", mode="r")


def synthetic(vocab: int, words: int = 200_000, lexicon: int = 2_000) -> NDArray[np.int64]:
    """About a million ids below `vocab`: synthetic words with Zipf frequencies, separated by 0."""
    rng = np.random.default_rng(SEED)
    spelled = [np.append(rng.integers(1, vocab, rng.integers(1, 8)), 0) for _ in range(lexicon)]
    frequency = 1 / np.arange(1, lexicon + 1)
    return np.concatenate([spelled[i] for i in rng.choice(lexicon, words, p=frequency / frequency.sum())])
