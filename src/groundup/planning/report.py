"""Plans as text and JSON: the summary before a run, the table of `groundup plan`, clusters."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from typing_extensions import override

from groundup.errors import ConfigError
from groundup.optim.run_length import TimeLength
from groundup.planning.gpus import GPU
from groundup.planning.memory import Memory
from groundup.planning.plan import GIVEN, Plan, Speed
from groundup.planning.warnings import CHINCHILLA_RATIO, warnings
from groundup.ui.format import (
    human_bytes,
    human_count,
    human_duration,
    human_figures,
    human_plural,
    human_time,
    json_line,
)
from groundup.ui.notebook import html_table
from groundup.utils.wording import worded_for_python

RECOMPUTE_SPEED = 3 / 4  # of the MFU, when every block is computed twice: 8 operations per weight and token, not 6
Parallel = Literal["ddp", "fsdp"]
PARALLEL: tuple[Parallel, ...] = get_args(Parallel)
LARGE_CLUSTER_GPUS = 64  # from which on published runs lose speed that an MFU of 8 GPUs does not show


@dataclass(frozen=True, repr=False)
class PrintedPlan(Plan):
    """A plan that prints as its summary, also in a notebook."""

    @override
    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        return html_table((line.split(maxsplit=1) for line in self._lines()), numbers_from=2)

    def _lines(self) -> list[str]:
        return [worded_for_python(line) for line in summary(self)]


def summary(plan: Plan) -> list[str]:
    """Six lines, then one per warning."""
    c, m = plan.config, plan.config.model
    parts = f"{human_plural(m.n_layer, 'layer')}, {human_plural(m.n_head, 'head')}"
    shape = f"{parts}, {m.n_embd} wide, context {m.block_size}, vocabulary {m.vocab:,}"
    n = plan.machine.processes
    split = f" in {plan.micro_batches} micro-batches" if plan.micro_batches > 1 else ""
    split += f" on each of {n} processes" if n > 1 else ""
    threads = c.train.microbatch_threads
    split += f", {threads} threads" if threads > 1 else ""
    work = f"{human_figures(plan.flops * c.train.batch_tokens / 1e9)} GFLOP"
    batch = f"{human_plural(c.batch_size, 'sequence')} x {m.block_size} = {c.train.batch_tokens:,} tokens"
    return [
        f"model    {shape}: {plan.parameters:,} parameters",
        f"length   {length(plan)}",
        f"step     {batch}{split}, {work}",
        f"memory   {_memory(plan.memory)}",
        f"time     {duration(plan)}",
        f"disk     {disk(plan)}",
        *(f"warning  {line}" for line in warnings(plan)),
    ]


def first_lines(plan: Plan) -> list[str]:
    """The lines of `summary` that are the same on every machine: the model, and the run's length."""
    return [line for line in summary(plan) if line.startswith(("model ", "length "))]


def length(plan: Plan) -> str:
    """Run length in steps, epochs and tokens, as far as known."""
    about = "about " if isinstance(plan.run_length, TimeLength) else ""
    clock = human_time(plan.run_length.seconds) if isinstance(plan.run_length, TimeLength) else ""
    if plan.steps is None or plan.tokens is None or plan.tokens_per_parameter is None:
        return clock or f"{_epochs(plan.epochs or 0)}; give --data to know how many steps that is"
    epochs = f" = {_epochs(plan.epochs)}" if plan.data and plan.epochs is not None else ""
    each = human_figures(plan.tokens_per_parameter)
    ratio = f"{each} tokens per parameter (compute-optimal: about {CHINCHILLA_RATIO})"
    steps = f"{clock}, {about}{human_figures(plan.steps)}" if clock else f"{plan.steps:,}"
    return f"{steps} steps{epochs} = {human_count(plan.tokens)} tokens, {ratio}"


def _epochs(n: float) -> str:
    shown = human_figures(n)
    return f"{shown} epoch" if shown == "1" else f"{shown} epochs"


def _memory(m: Memory) -> str:
    """Total, and the parts that are not zero, the largest first."""
    parts = sorted(((size, name) for name, size in asdict(m).items() if name != "accumulates" and size), reverse=True)
    return f"{human_bytes(m.total, 2)}: {', '.join(f'{name} {human_bytes(size, 2)}' for size, name in parts)}"


def duration(plan: Plan) -> str:
    """Estimated time, and the source of the speed."""
    if plan.speed is None:
        return "unknown: no speed was measured"
    rate = plan.speed.tokens_per_s
    shown = f"{rate:,.0f}" if plan.speed.source == GIVEN and rate >= 10 else human_figures(rate)
    speed = f"{shown} tokens/s, {plan.speed.source}"
    if plan.seconds is None:
        return speed
    timed = isinstance(plan.run_length, TimeLength)
    evaluations = plan.evaluation_share or 0.0
    share = f"; evaluations are {evaluations:.0%} of it" if evaluations >= 0.005 else ""
    time = human_time(plan.seconds) if timed else f"about {human_duration(plan.seconds)}"
    return f"{time} at {speed}{share}"


def disk(plan: Plan) -> str:
    """Maximum size of the run's folder."""
    log = f", log {human_bytes(plan.log_bytes)}" if plan.log_bytes else ""
    many = human_plural(plan.checkpoints, "checkpoint")
    return f"{human_bytes(plan.disk)} at most: {many} of {human_bytes(plan.checkpoint_bytes)}{log}"


def table(plan: Plan, vocabulary: str, machine: str) -> str:
    """All numbers, one per line, each with its source; docs/training.md has the formulas."""
    c, m, use = plan.config, plan.config.model, plan.memory
    tied = "also the head" if m.tie_embeddings else ""
    held = {
        "weights": "fp32",
        "gradients": "" if use.accumulates else "replace activations during the backward pass, so not added",
        "optimizer": c.optimizer.name,
        "activations": f"of {plan.micro_batch_size} x {m.block_size} tokens",
        "logits": "computed in chunks, and the gradient of the head",
        **({"program": "and allocator overhead"} if use.program else {}),
    }
    batches = human_plural(plan.micro_batches, "micro-batch", "micro-batches")
    rows = [
        ("parameters", f"{plan.parameters:,}", f"vocabulary {m.vocab:,}: {vocabulary}"),
        *((f"  {name}", f"{n:,}", tied if name == "token embedding" else "") for name, n in plan.parts.items()),
        *([("  padding", f"{plan.padding:,}", f"not counted: rows up to {m.padded_vocab:,}")] if plan.padding else []),
        ("FLOPs per token", human_count(plan.flops), f"{plan.head_share:.0%} of them in the head"),
        ("", "", ""),
        ("memory", human_bytes(use.total, 2), machine or f"{plan.machine.device}, {plan.machine.precision}"),
        *((f"  {name}", human_bytes(getattr(use, name), 2), how) for name, how in held.items()),
        ("", "", ""),
        ("step", f"{c.train.batch_tokens:,} tokens", f"{human_plural(c.batch_size, 'sequence')} in {batches}"),
        ("length", length(plan), ""),
        ("time", duration(plan) if plan.speed or not plan.fits else f"{duration(plan)}; --measure times it here", ""),
        ("disk", disk(plan), ""),
    ]
    left, right = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows if row[2])
    lines = [
        f"{name:<{left}}  {value:>{right}}  {how}".rstrip() if len(value) <= right else f"{name:<{left}}  {value}"
        for name, value, how in rows
    ]
    return "\n".join([*lines, *(f"\nwarning: {line}" for line in warnings(plan))])


def as_json(plan: Plan) -> str:
    """The plan as one JSON object; unknown values are null. Sizes in bytes, times in seconds."""
    values: dict[str, Any] = {"parameters": plan.parameters, "parameters_by_part": plan.parts, "padding": plan.padding}
    values |= {"vocab_size": plan.config.model.vocab, "flops_per_token": plan.flops, "head_share": plan.head_share}
    values |= _attributes(plan.machine, "device", "precision") | {"memory": _memory_json(plan.memory)}
    values |= _attributes(plan, "steps", "tokens", "epochs", "tokens_per_parameter")
    values["tokens_per_s"] = plan.speed.tokens_per_s if plan.speed else None
    values["speed_source"] = plan.speed.source if plan.speed else None
    values |= _attributes(plan, "seconds", "evaluation_seconds", "disk", "checkpoints", "checkpoint_bytes", "log_bytes")
    return json_line(values | {"warnings": list(warnings(plan))})


def _attributes(source: object, *names: str) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _memory_json(memory: Memory) -> dict[str, int]:
    return {"total": memory.total, **asdict(memory)}


@dataclass(frozen=True)
class ClusterPlan:
    """A run on `nodes` nodes of `per_node` equal GPUs: memory, speed and hours from the speed of one GPU.

    Time for communication is only included as far as `one` was measured with it.
    """

    plan: Plan
    gpu: GPU
    nodes: int
    per_node: int
    one: Speed  # of one GPU

    @property
    def gpus(self) -> int:
        return self.nodes * self.per_node

    @property
    def run(self) -> Plan:
        """The plan at the speed of all GPUs. The GPU with the most sequences sets the time of a step."""
        size = self.plan.config.batch_size
        busy = size / -(-size // self.gpus)
        return replace(self.plan, speed=Speed(busy * self.one.tokens_per_s, self.one.source))

    def memory(self, parallel: Parallel) -> Memory:
        """Bytes per GPU."""
        train = self.plan.config.train.model_copy(update={"parallel": parallel})
        config = self.plan.config.model_copy(update={"train": train})
        return replace(self.plan, config=config, machine=replace(self.plan.machine, processes=self.gpus)).memory

    @property
    def seconds(self) -> float:
        """Time for training and evaluations. ConfigError when the run is given in epochs and there are no data."""
        if (seconds := self.run.seconds) is None:
            raise ConfigError("train.epochs: how many tokens that is cannot be known without --data; give --tokens 10B")
        return seconds


def assumed_speed(plan: Plan, gpu: GPU, mfu: float | None = None) -> Speed:
    """Speed of one GPU: the given `mfu`, or the published one, times peak over FLOPs per token."""
    if mfu is not None:
        return Speed(mfu * gpu.peak / plan.flops, f"an MFU of {mfu:.1%}, as given")
    source = f"an MFU of {gpu.mfu:.1%}, {gpu.mfu_source}"
    if plan.config.train.activation_checkpointing != "full":
        return Speed(gpu.mfu * gpu.peak / plan.flops, source)
    source += f", times {RECOMPUTE_SPEED:g} for activation checkpointing"
    return Speed(RECOMPUTE_SPEED * gpu.mfu * gpu.peak / plan.flops, source)


def cluster_table(cluster: ClusterPlan) -> str:
    """All numbers of the run on the cluster, one per line."""
    run, seconds, nodes, gpus = cluster.run, cluster.seconds, cluster.nodes, cluster.gpus
    assert run.speed is not None, "`run` sets it"
    hardware = f"{human_plural(nodes, 'node')} x {cluster.per_node} {cluster.gpu.name.upper()}"
    rate = f"{run.speed.tokens_per_s:,.0f} tokens/s, {cluster.one.tokens_per_s:,.0f} per busy GPU"
    lines = [
        f"model    {run.parameters:,} parameters, {human_count(run.flops)} FLOPs per token",
        f"cluster  {hardware} = {human_plural(gpus, 'GPU')}",
        f"length   {length(run)}",
        f"speed    {rate}, from {cluster.one.source}",
        f"time     {seconds / 3600:,.2f} hours, {seconds / 3600 * gpus:,.0f} GPU hours; failures and saving left out",
        *(f"{name:<7}  {_per_gpu(cluster, name)}" for name in PARALLEL),
        f"disk     {disk(run)}",
    ]
    return "\n".join([*lines, *(f"\nwarning: {line}" for line in cluster_warnings(cluster))])


def _per_gpu(cluster: ClusterPlan, parallel: Parallel) -> str:
    memory = cluster.memory(parallel)
    verdict = "fits" if memory.total <= cluster.gpu.memory else "does not fit"
    total, _, parts = _memory(memory).partition(": ")
    return f"{total} per GPU, {verdict} {human_bytes(cluster.gpu.memory)}: {parts}"


def cluster_warnings(cluster: ClusterPlan) -> Iterator[str]:
    """Warnings of too little memory, idle GPUs and unplanned communication, each with a remedy."""
    config, gpus = cluster.plan.config, cluster.gpus
    least = min(cluster.memory(name).total for name in PARALLEL)
    if least > cluster.gpu.memory:
        remedy = "give --train.micro_batch_size 1, --train.activation_checkpointing full, or a GPU with more"
        yield f"{human_bytes(least)} are more than the {human_bytes(cluster.gpu.memory)} of a GPU; {remedy}"
    if config.batch_size < gpus:
        most = config.batch_size // cluster.per_node
        fewer = f"--nodes {most:,} at most" if most else "fewer GPUs"
        yield (
            f"train.batch_tokens: {config.train.batch_tokens:,} are {config.batch_size:,} sequences of "
            f"{config.model.block_size}, fewer than {gpus:,} GPUs, so {gpus - config.batch_size:,} GPUs would be idle; "
            f"give --train.batch_tokens {gpus * config.model.block_size}, or {fewer}"
        )
    if gpus >= LARGE_CLUSTER_GPUS:
        yield (
            "communication between nodes and stragglers are not planned: published runs on 512 GPUs lost up to 12 % "
            "of the speed per GPU; take the hours as a lower bound, or give an --mfu measured on as many GPUs"
        )


def cluster_json(cluster: ClusterPlan) -> str:
    """The cluster plan as one JSON object. Sizes in bytes, times in seconds."""
    run, gpu = cluster.run, cluster.gpu
    values: dict[str, Any] = {"parameters": run.parameters, "flops_per_token": run.flops}
    values["cluster"] = _attributes(cluster, "nodes", "per_node", "gpus") | {"gpu": gpu.name}
    values |= {"gpu_tokens_per_s": cluster.one.tokens_per_s, "gpu_speed_source": cluster.one.source}
    values |= {"tokens_per_s": run.speed.tokens_per_s if run.speed else None, "seconds": cluster.seconds}
    values |= _attributes(run, "steps", "tokens", "checkpoint_bytes", "disk")
    for name in PARALLEL:
        memory = cluster.memory(name)
        values[name] = {"fits": memory.total <= gpu.memory, "memory": _memory_json(memory)}
    return json_line(values | {"warnings": list(cluster_warnings(cluster))})
