"""A run on many GPUs, on paper: memory, communication, hours, energy, disk and failures. Needs neither GPUs nor torch.

Data parallelism in two forms. DDP (arXiv:2006.15704): every GPU holds everything, gradients are summed once a step.
FSDP2, which is ZeRO-3 (arXiv:1910.02054, section 5.3): weights, gradients and moments are divided among the GPUs;
each micro-batch gathers the weights twice, each step scatters the gradients once, whole until then, as training does.

Assumed, and not modelled: messages large enough that latency does not count, no stragglers, no time for the optimizer,
communication that slows no arithmetic beside it. Published runs on 512 GPUs lost up to 12 % that way (llm-foundry's
table: 45,455 tokens/s a GPU on 8, 39,837 on 512), where these formulas find nothing.

Letters: n GPUs, k nodes of g, P bytes of a message.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from groundup.config.model import ModelConfig
from groundup.data.shards import dtype_for
from groundup.errors import ConfigError
from groundup.model.memory import BYTES, FP32, Precision, weight_copy_bytes
from groundup.planning.failures import GPU_MTBF, NODE_WRITES, RESTART, Reliability, Simulation
from groundup.planning.gpus import ATTAINED, GPU, SERVERS, communication_seconds
from groundup.planning.plan import Machine, Memory, Plan, Speed

Sharding = Literal["ddp", "fsdp"]
BACKWARD = 2 / 3  # of the arithmetic of training; model/size.py counts 2 operations a weight forward, 4 backward
RECOMPUTED = 4 / 3  # times the arithmetic where blocks are computed twice
GATHER = SCATTER = 1 / 2  # of an all-reduce, which is the two after one another (ZeRO, section 7.1)
PUE = 1.58  # power of the building / power of its machines: mean of 2023, Uptime Institute's survey
KWH = 3.6e6  # joules
WORTHWHILE = 0.01  # of the time spent on lasting work, below which a run has no end worth planning


@dataclass(frozen=True)
class Cluster:
    """Nodes, what is in them and between them, and how often they fail. Bandwidths in bytes/s each way for each GPU."""

    nodes: int
    per_node: int
    gpu: GPU
    intra_node: float
    inter_node: float
    wire: int = FP32  # bytes a gradient, or a gathered weight, on the wire; 2 in bf16
    pue: float = PUE
    gpu_mtbf: float = GPU_MTBF  # seconds
    restart: float = RESTART  # seconds
    dump: float | None = None  # seconds of a checkpoint; None: at NODE_WRITES

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.nodes * self.per_node

    def all_reduce(self, message: float) -> float:
        """Seconds to sum `message` bytes over all GPUs; half of it is an all-gather or a reduce-scatter."""
        return communication_seconds(message, self.nodes, self.per_node, self.intra_node, self.inter_node)


def usual(gpu: GPU, nodes: int, per_node: int) -> Cluster:
    """A cluster whose links reach ATTAINED of their data sheets."""
    return Cluster(nodes, per_node, gpu, ATTAINED * gpu.intra_node, ATTAINED * gpu.inter_node)


def exposed_seconds(communication: float, window: float, last: float) -> float:
    """What communication adds to a step: all that does not fit beside `window` seconds of arithmetic.

    At least `last`, the message that is complete only when the arithmetic ends.
    """
    return min(communication, max(last, communication - window))


def efficiency(compute: float, exposed: float) -> float:
    """Part of the time that is arithmetic."""
    return compute / (compute + exposed)


def predicted_speed(
    one: float, step_tokens: float, message: float, processes: int, bandwidth: float, overlap: float = 0.0
) -> float:
    """Tokens a second of `processes` equal processes under DDP, from what was measured of one.

    `one`: tokens a second of one process with the cores that it will have among the others. `step_tokens`: of all of
    them together. `message`: bytes of all gradients. `bandwidth`: bytes/s each way between two. `overlap`: the part of
    the arithmetic beside which gradients travel, 0 where they are summed at the end, BACKWARD at best.
    """
    compute = step_tokens / processes / one
    communication = communication_seconds(message, 1, processes, bandwidth, bandwidth)
    return step_tokens / (compute + exposed_seconds(communication, overlap * compute, 0.0))


def block_parameters(model: ModelConfig, total: int) -> tuple[int, int]:
    """Parameters of one block, norms aside, and of all that is in none, out of `total`: FSDP2's two kinds of unit."""
    block = 4 * model.n_embd**2 + 2 * model.n_embd * model.inner
    return block, total - model.n_layer * block


def sharded(memory: Memory, model: ModelConfig, precision: Precision, gpus: int) -> Memory:
    """What is left on each of `gpus` under FSDP2; `memory` is that of one which has it all.

    Weights, gradients and moments are divided (ZeRO, stage 3), but gradients that wait for other micro-batches are
    whole. Counted with the activations: what is in no block and two blocks gathered, one in use and one on its way, in
    fp32 and in `precision`; and the largest gradient of those.
    """
    if gpus == 1:
        return memory
    block, root = block_parameters(model, memory.weights // FP32)
    copies = FP32 + (BYTES[precision] if precision != "fp32" else 0)
    gathered = copies * (root + min(2, model.n_layer) * block) + FP32 * max(block, root)
    return replace(
        memory,
        weights=-(-memory.weights // gpus),
        gradients=memory.gradients if memory.accumulates else -(-memory.gradients // gpus),
        optimizer=-(-memory.optimizer // gpus),
        activations=memory.activations - weight_copy_bytes(model, precision) + gathered,
    )


@dataclass(frozen=True)
class ClusterPlan:
    """A run on a cluster before it begins; `speed` is that of one GPU on its own. ConfigError where it cannot be."""

    plan: Plan
    cluster: Cluster
    speed: Speed
    sharding: Sharding = "ddp"

    @property
    def rows(self) -> int:
        """Windows a step of each GPU that has any; the last ones may be padding."""
        return -(-self.plan.config.rows // self.cluster.gpus)

    @property
    def micro_rows(self) -> int:
        """Windows a forward pass."""
        return min(self.plan.config.micro_rows, self.rows)

    @property
    def filled(self) -> float:
        """Part of the GPUs' windows that are windows of the batch, the rest being padding."""
        return self.plan.config.rows / (self.rows * self.cluster.gpus)

    @cached_property
    def memory(self) -> Memory:
        """Bytes a GPU. Gradients are summed where they lie, without a second copy."""
        alone = replace(self.plan.memory_of(self.micro_rows), accumulates=self.micro_rows < self.rows)
        if self.sharding == "ddp":
            return alone
        return sharded(alone, self.plan.config.model, self.plan.machine.precision, self.cluster.gpus)

    @property
    def fits(self) -> bool:
        """Whether a GPU has as much."""
        return self.memory.total <= self.cluster.gpu.memory

    @property
    def compute(self) -> float:
        """Seconds of arithmetic a step."""
        again = RECOMPUTED if self.plan.config.train.activation_checkpointing == "full" else 1
        return again * self.rows * self.plan.config.model.block_size / self.speed.tokens_per_s

    @property
    def message(self) -> int:
        """Bytes of all gradients on the wire."""
        return self.cluster.wire * (self.plan.parameters + self.plan.padding)

    @property
    def communication(self) -> float:
        """Seconds of it a step."""
        gathers = 2 * -(-self.rows // self.micro_rows)  # of each micro-batch: forward, and again backward
        times = gathers * GATHER + SCATTER if self.sharding == "fsdp" else 1
        return times * self.cluster.all_reduce(self.message)

    @property
    def window(self) -> float:
        """Seconds of arithmetic that may hide it: DDP's last backward pass; under FSDP all (arXiv:2304.11277)."""
        return self.compute if self.sharding == "fsdp" else BACKWARD * self.compute * self.micro_rows / self.rows

    @property
    def exposed(self) -> float:
        """Seconds a step that it adds; at least the embedding's gradients, complete at the end of the backward pass."""
        _, root = block_parameters(self.plan.config.model, self.plan.parameters + self.plan.padding)
        last = self.cluster.all_reduce(self.cluster.wire * root)
        return exposed_seconds(self.communication, self.window, last)

    @property
    def efficiency(self) -> float:
        """Part of a step that is arithmetic."""
        return efficiency(self.compute, self.exposed)

    @property
    def step_seconds(self) -> float:
        """A whole step."""
        return self.compute + self.exposed

    @property
    def tokens_per_s(self) -> float:
        """Of all GPUs together, failures aside."""
        return self.plan.config.train.batch_tokens / self.step_seconds

    @cached_property
    def run(self) -> Plan:
        """The plan at that speed."""
        return replace(self.plan, speed=Speed(self.tokens_per_s, self.speed.source))

    @property
    def work(self) -> float:
        """Seconds of training and evaluations, were there no failures and no checkpoints."""
        if self.run.seconds is None:
            raise ConfigError("train.epochs: how many tokens that is cannot be known without --data; give --tokens 10B")
        return self.run.seconds

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        assert self.run.steps is not None, "`work` says why not"
        return self.run.steps

    @cached_property
    def reliability(self) -> Reliability:
        """A failure of any GPU stops all; the first process writes checkpoints, as though training waited for it."""
        c = self.cluster
        dump = c.dump if c.dump is not None else self.plan.checkpoint_bytes / NODE_WRITES
        found = Reliability(c.gpu_mtbf / c.gpus, dump, c.restart)
        if found.interval >= WORTHWHILE * found.expected(found.interval, found.interval):
            return found
        raise ConfigError(
            f"--gpu-mtbf-hours {c.gpu_mtbf / 3600:g}: one of {c.gpus:,} GPUs fails every {found.mtbf:.3g} s, while a "
            f"restart takes {c.restart:g} s and a checkpoint {dump:.3g} s: the run would never end; take fewer GPUs"
        )

    @property
    def checkpoint_steps(self) -> int:
        """Steps between checkpoints that lose least, by Daly's formula."""
        return max(1, round(self.reliability.interval / self.step_seconds))

    @property
    def interval(self) -> float:
        """Seconds of work between checkpoints: the same."""
        return self.checkpoint_steps * self.step_seconds

    @cached_property
    def elapsed(self) -> Simulation:
        """Seconds from beginning to end, checkpoints and failures with them, simulated."""
        return self.reliability.simulate(self.work, self.interval)

    @property
    def expected(self) -> float:
        """The same by Daly's formula."""
        return self.reliability.expected(self.work, self.interval)

    @property
    def energy(self) -> float:
        """Joules at most: every GPU and the rest of its node at full load all the time, and the building."""
        return self.cluster.gpus * self.cluster.gpu.node_watts / SERVERS * self.cluster.pue * self.elapsed.mean

    @property
    def data_bytes(self) -> int:
        """Shards of tokens, were each seen once."""
        return self.steps * self.plan.config.train.batch_tokens * token_bytes(self.plan.config.model)

    @property
    def most_nodes(self) -> int:
        """Nodes beyond which some GPU has no window; 0 where not even one node's GPUs all have one."""
        return self.plan.config.rows // self.cluster.per_node


def token_bytes(model: ModelConfig) -> int:
    """Bytes of an id on disk: 2 up to a vocabulary of 65,536, else 4."""
    return np.dtype(dtype_for(model.vocab)).itemsize


def assumed_speed(plan: Plan, gpu: GPU, mfu: float | None = None) -> Speed:
    """Of one GPU: `mfu` of its peak, or what training was seen to reach on it, over the operations a token."""
    source = f"an MFU of {gpu.mfu:.1%}: {gpu.mfu_source}" if mfu is None else f"an MFU of {mfu:.1%}, as given"
    return Speed((gpu.mfu if mfu is None else mfu) * gpu.peak / plan.flops, source)


def on_gpu(plan: Plan, gpu: GPU, precision: Precision) -> Plan:
    """The plan for one such GPU."""
    return replace(plan, machine=Machine("cuda", precision, int(gpu.memory), plan.machine.free_disk))
