"""Plan of a run, by arithmetic: parameters, FLOPs, memory, length, time, disk. Needs no torch.

Each number stands next to its formula; where one rests on a measurement, a comment says which.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from typing_extensions import override

from groundup.config.resolved import ResolvedConfig
from groundup.model.memory import FP32
from groundup.model.size import counted, flops_per_token, parameters, parameters_by_part
from groundup.optim.run_length import StepLength, TimeLength, build_run_length
from groundup.planning.memory import Machine, Memory, optimizer_bytes, padding, sequences_per_process, step_memory

HOPELESS_MEMORY_RATIO = 1.5  # estimated over available memory; so far no estimate was that wrong
GIVEN = "as given"  # source of a speed that the user knows
LOG_RECORD_BYTES = 220  # of a step in log.jsonl: 200 in a short run, more with longer numbers


@dataclass(frozen=True)
class Speed:
    """Training speed, and how it is known."""

    tokens_per_s: float
    source: str


@dataclass(frozen=True)
class DataSize:
    """How much there is to learn from."""

    sequences: int  # per epoch
    val_tokens: int


@dataclass(frozen=True, repr=False)
class Plan:
    """A run before it starts. Without `data`, epochs are unknown."""

    config: ResolvedConfig
    machine: Machine
    data: DataSize | None = None
    speed: Speed | None = None

    @override
    def __repr__(self) -> str:
        steps = "" if self.steps is None else f", {self.steps:,} steps"
        seconds = "" if self.seconds is None else f", about {self.seconds:,.0f} s"
        return f"Plan({self.parameters:,} parameters{steps}{seconds}, {self.memory.total / 1e9:.2g} GB of memory)"

    @cached_property
    def parts(self) -> dict[str, int]:
        """Parameters by part, padding left out."""
        return {name: n for name, n in parameters_by_part(self.config.model).items() if n}

    @cached_property
    def parameters(self) -> int:
        return parameters(self.config.model)

    @property
    def padding(self) -> int:
        """Parameters in embedding rows past the vocabulary."""
        return padding(self.config.model)

    @property
    def flops(self) -> int:
        return flops_per_token(self.config.model)

    @property
    def head_share(self) -> float:
        """The output head's part of the work: 6·P·C of the operations per token."""
        return 6 * self.config.model.padded_vocab * self.config.model.n_embd / self.flops

    @property
    def process_batch_size(self) -> int:
        """Sequences per step and process."""
        return sequences_per_process(self.config, self.machine)

    @property
    def micro_batch_size(self) -> int:
        """Sequences per forward pass."""
        return min(self.process_batch_size, self.config.train.micro_batch_size)

    @property
    def micro_batches(self) -> int:
        """Forward and backward passes per step, of each process."""
        return -(-self.process_batch_size // self.micro_batch_size)

    @cached_property
    def memory(self) -> Memory:
        """Estimated memory of a training step in one process."""
        return self.memory_of(self.micro_batch_size)

    def memory_of(self, micro_batch_size: int) -> Memory:
        """The same with another micro-batch."""
        train = self.config.train
        return step_memory(
            self.config,
            self.machine,
            micro_batch_size=micro_batch_size,
            checkpointing=train.activation_checkpointing,
            microbatch_threads=train.microbatch_threads,
            sharded=train.parallel == "fsdp",
        )

    @property
    def fits(self) -> bool:
        """Whether memory suffices; True where the machine does not say how much it has."""
        return self.machine.memory is None or self.memory.total <= self.machine.memory

    @property
    def hopeless(self) -> bool:
        """Whether memory cannot suffice, however far the estimate is off."""
        return self.machine.memory is not None and self.memory.total > HOPELESS_MEMORY_RATIO * self.machine.memory

    @cached_property
    def run_length(self) -> StepLength | TimeLength | None:
        """Length of the run; None where it is given in epochs and there is no data. ConfigError: none is given."""
        if self.data is None and self.config.train.epochs is not None:
            return None
        return build_run_length(self.config.train, self.config.batch_size, self.data.sequences if self.data else 0)

    @cached_property
    def steps(self) -> int | None:
        """Optimizer steps; of a run length in time only where the speed is known, and then an estimate."""
        if not isinstance(self.run_length, TimeLength):
            return self.run_length.total if self.run_length else None
        if self.speed is None:
            return None
        evaluations = self._evaluation_tokens / (self.config.evaluate.every_steps or math.inf)
        step = self.config.train.batch_tokens + evaluations
        return max(1, int(self.run_length.seconds * self.speed.tokens_per_s / step))

    @property
    def tokens(self) -> int | None:
        return None if self.steps is None else self.steps * self.config.train.batch_tokens

    @property
    def epochs(self) -> float | None:
        if self.data is None or self.steps is None:
            return self.config.train.epochs
        return self.steps * self.config.batch_size / self.data.sequences

    @property
    def tokens_per_parameter(self) -> float | None:
        """To be compared with Chinchilla's 20 (arXiv:2203.15556), the best use of a given amount of work."""
        return None if self.tokens is None else self.tokens / self.parameters

    @property
    def _evaluation_tokens(self) -> float:
        """One evaluation as tokens of training: two splits, and a forward pass is a third of the work."""
        limit, held_out = self.config.evaluate.tokens, self.data.val_tokens if self.data else None
        known = [n for n in (limit, held_out) if n is not None]
        return 2 * min(known, default=0) / 3

    @property
    def _all_evaluation_tokens(self) -> float | None:
        """All evaluations of the run as tokens of training."""
        return self.steps and times(self.steps, self.config.evaluate.every_steps) * self._evaluation_tokens

    @property
    def evaluation_seconds(self) -> float | None:
        """Seconds of `seconds` that go into evaluations."""
        tokens = self._all_evaluation_tokens
        return None if tokens is None or self.speed is None else tokens / self.speed.tokens_per_s

    @property
    def evaluation_share(self) -> float | None:
        """Evaluations' part of the time, whatever the speed. None where the number of steps is unknown."""
        evaluations = self._all_evaluation_tokens
        return None if self.tokens is None or evaluations is None else evaluations / (self.tokens + evaluations)

    @property
    def seconds(self) -> float | None:
        """Time for training and evaluations; saving and sampling left out."""
        if isinstance(self.run_length, TimeLength):
            return self.run_length.seconds
        if self.tokens is None or self.speed is None or self.evaluation_seconds is None:
            return None
        return self.tokens / self.speed.tokens_per_s + self.evaluation_seconds

    @property
    def checkpoint_bytes(self) -> int:
        """One checkpoint: weights, n-gram tables and optimizer state in fp32."""
        return FP32 * (self.parameters + self.padding + counted(self.config.model)) + optimizer_bytes(
            self.config.model, self.config.optimizer
        )

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
        return None if self.steps is None else self.steps * LOG_RECORD_BYTES

    @property
    def disk(self) -> int:
        """The most that the run's folder holds."""
        return self.checkpoints * self.checkpoint_bytes + (self.log_bytes or 0)


def times(steps: int, every: int) -> int:
    """How often something happens that is due every `every` steps (0: never) and at the end."""
    return -(-steps // every) if every else 1
