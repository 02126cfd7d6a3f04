"""What a run would take, by arithmetic: parameters, work, memory, length, time, disk. Needs no torch.

Each number stands beside its formula; where one rests on a measurement, a comment says which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from groundup.config.schema import Config
from groundup.model.memory import FP32, Precision, activation_bytes, loss_bytes, weight_copy_bytes
from groundup.model.size import counted, flops_per_token, parameters, parameters_by_part
from groundup.optim.run_length import StepLength, TimeLength, build_run_length

PROGRAM = 340e6  # bytes of Python, torch and its threads on a CPU: resident memory of a run of a tiny model
# glibc keeps freed pieces of up to 32 MiB for later, in a heap that fits them badly: measured on CPU runs of 6 and 12
# layers, about half of what the activations need. Larger pieces go back to the system at once.
SLACK, SLACK_UP_TO = 0.5, 32 * 2**20  # share; bytes
CERTAINLY = 1.5  # times the memory there is: so far no estimate was wrong
LOG_RECORD = 220  # bytes of a step in log.jsonl: 200 in a short run, more with longer numbers


@dataclass(frozen=True)
class Machine:
    """Where a run would happen, as far as that is known."""

    device: str  # cpu, cuda or mps
    precision: Precision
    memory: int | None  # bytes of the device, None where unknown
    free_disk: int  # bytes
    processes: int = 1  # that train together, each on a device of its own or, on CPUs, a share of the cores


@dataclass(frozen=True)
class Speed:
    """Training speed, and how it is known."""

    tokens_per_s: float
    source: str


@dataclass(frozen=True)
class Data:
    """How much there is to learn from."""

    windows: int  # in an epoch
    val_tokens: int


@dataclass(frozen=True)
class Memory:
    """Bytes on the device at the worst moment, by what they hold."""

    weights: int
    gradients: int
    optimizer: int  # moments: two a weight with AdamW, one with Muon and SGD; and the running average, if there is one
    activations: int  # of one micro-batch, weights in bf16 or fp16 with them
    logits: int  # as many as there are at a time, and the head's gradient
    program: int  # interpreter, libraries, and what the allocator cannot fill again
    accumulates: bool  # several micro-batches a step

    @property
    def total(self) -> int:
        """The sum; but a step of one micro-batch has no gradients yet while all activations are alive."""
        work = self.activations + self.logits
        step = self.gradients + work if self.accumulates else max(self.gradients, work)
        return self.weights + self.optimizer + step + self.program


@dataclass(frozen=True)
class Plan:
    """A run before it begins. `config.model.vocab_size` must be set; without `data`, epochs are unknown."""

    config: Config
    machine: Machine
    data: Data | None = None
    speed: Speed | None = None

    @cached_property
    def parts(self) -> dict[str, int]:
        """Parameters by part, padding left out."""
        return {name: n for name, n in parameters_by_part(self.config.model).items() if n}

    @cached_property
    def parameters(self) -> int:
        """Their sum."""
        return parameters(self.config.model)

    @property
    def padding(self) -> int:
        """Parameters in embedding rows past the vocabulary: memory and work, but nothing learnt."""
        m = self.config.model
        return (m.padded_vocab - m.vocab) * m.n_embd * (1 if m.tie_embeddings else 2)

    @property
    def flops(self) -> int:
        """Floating-point operations a token of training."""
        return flops_per_token(self.config.model)

    @property
    def head_share(self) -> float:
        """The output head's part of the work: 6·P·C of the operations a token."""
        return 6 * self.config.model.padded_vocab * self.config.model.n_embd / self.flops

    @property
    def share(self) -> int:
        """Windows a step and process."""
        return -(-self.config.rows // self.machine.processes)

    @property
    def micro_rows(self) -> int:
        """Windows a forward pass."""
        return min(self.share, self.config.micro_rows)

    @property
    def micro_batches(self) -> int:
        """Forward and backward passes a step, of each process."""
        return -(-self.share // self.micro_rows)

    @cached_property
    def memory(self) -> Memory:
        """What a step holds in one process."""
        return self.memory_of(self.micro_rows)

    def memory_of(self, micro_rows: int) -> Memory:
        """The same with another number of windows a forward pass."""
        m, where = self.config.model, self.machine
        parts = where.processes if self.config.train.parallel == "fsdp" else 1
        tokens, weights = micro_rows * m.block_size, FP32 * (self.parameters + self.padding)
        accumulates = micro_rows < self.share
        again, each = self.config.recomputed_of(micro_rows), self.config.shares_of(micro_rows, where.processes)
        kept = activation_bytes(m, where.precision, where.device, recompute=again) * tokens
        program = 0
        if where.device == "cpu":
            small = FP32 * m.n_embd * tokens < SLACK_UP_TO
            program = round(PROGRAM + (SLACK * kept if small else 0))
        return Memory(
            weights=(weights + FP32 * counted(m)) // parts,
            gradients=(weights if accumulates else weights // parts) * each,  # whole until the last micro-batch
            optimizer=self._moment_bytes // parts,
            activations=kept + each * weight_copy_bytes(m, where.precision),
            logits=each * loss_bytes(m, where.precision, -(-tokens // each), where.device),
            program=program,
            accumulates=accumulates,
        )

    @property
    def fits(self) -> bool:
        """Whether memory suffices; True where the machine does not say how much it has."""
        return self.machine.memory is None or self.memory.total <= self.machine.memory

    @property
    def hopeless(self) -> bool:
        """Whether memory cannot suffice, however far the estimate is off."""
        return self.machine.memory is not None and self.memory.total > CERTAINLY * self.machine.memory

    @property
    def _moment_bytes(self) -> int:
        m, optimizer, weights = self.config.model, self.config.optimizer, self.parameters + self.padding
        matrices = m.n_layer * (4 * m.n_embd * m.n_embd + 2 * m.n_embd * m.inner)  # those that Muon moves
        moments = {
            "adamw": 2 * weights,
            "muon": 2 * weights - matrices,
            "sgd": weights if optimizer.momentum else 0,
        }[optimizer.name]
        return FP32 * (moments + (weights if optimizer.ema_decay else 0))

    @cached_property
    def horizon(self) -> StepLength | TimeLength | None:
        """How far the run goes; None where it is given in epochs and there are no data. ConfigError: no horizon."""
        if self.data is None and self.config.train.epochs is not None:
            return None
        return build_run_length(self.config, self.data.windows if self.data else 0)

    @cached_property
    def steps(self) -> int | None:
        """Optimizer steps; from a horizon in time only where the speed is known, and then an estimate."""
        if not isinstance(self.horizon, TimeLength):
            return self.horizon.total if self.horizon else None
        if self.speed is None:
            return None
        a_step = self.config.train.batch_tokens + self._evaluation_work / (self.config.evaluate.every_steps or math.inf)
        return max(1, int(self.horizon.seconds * self.speed.tokens_per_s / a_step))

    @property
    def tokens(self) -> int | None:
        """Tokens trained on."""
        return None if self.steps is None else self.steps * self.config.train.batch_tokens

    @property
    def epochs(self) -> float | None:
        """Passes over the training split."""
        if self.data is None or self.steps is None:
            return self.config.train.epochs
        return self.steps * self.config.rows / self.data.windows

    @property
    def tokens_per_parameter(self) -> float | None:
        """Beside Chinchilla's 20 (arXiv:2203.15556): what a given amount of work is best spent on."""
        return None if self.tokens is None else self.tokens / self.parameters

    @property
    def _evaluation_work(self) -> float:
        """One evaluation as tokens of training: two splits, and a forward pass is a third of the work."""
        limit, held_out = self.config.evaluate.tokens, self.data.val_tokens if self.data else None
        known = [n for n in (limit, held_out) if n is not None]
        return 2 * min(known, default=0) / 3

    @property
    def evaluation_seconds(self) -> float | None:
        """Seconds of `seconds` that go into evaluations."""
        if self.steps is None or self.speed is None:
            return None
        return times(self.steps, self.config.evaluate.every_steps) * self._evaluation_work / self.speed.tokens_per_s

    @property
    def seconds(self) -> float | None:
        """Time for training and evaluations; saving and sampling left out."""
        if isinstance(self.horizon, TimeLength):
            return self.horizon.seconds
        if self.tokens is None or self.speed is None or self.evaluation_seconds is None:
            return None
        return self.tokens / self.speed.tokens_per_s + self.evaluation_seconds

    @property
    def checkpoint_bytes(self) -> int:
        """One checkpoint: weights, counted tables and moments in fp32."""
        return FP32 * (self.parameters + self.padding + counted(self.config.model)) + self._moment_bytes

    @property
    def checkpoints(self) -> int:
        """The most that are on disk at once: those kept, the best, and one more while it is written."""
        c = self.config
        best = c.checkpoint.save_best and not (self.data and self.data.val_tokens < 2)
        at_most = c.checkpoint.keep_last + 1 + best
        if self.steps is None:
            return at_most
        saves = times(self.steps, c.checkpoint.every_steps) + best * times(self.steps, c.evaluate.every_steps)
        return min(at_most, saves)

    @property
    def log_bytes(self) -> int | None:
        """The log at the end."""
        return None if self.steps is None else self.steps * LOG_RECORD

    @property
    def disk(self) -> int:
        """The most that the run's folder holds."""
        return self.checkpoints * self.checkpoint_bytes + (self.log_bytes or 0)


def times(steps: int, every: int) -> int:
    """How often something happens that happens every `every` steps (0: never) and at the end."""
    return -(-steps // every) if every else 1
