"""A plan for a cluster in words: a table with DDP beside FSDP2, warnings with remedies, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from groundup.planning.cluster import KWH, Cluster, ClusterPlan, token_bytes
from groundup.planning.failures import young
from groundup.planning.plan import Plan
from groundup.planning.report import human_bytes
from groundup.ui.panel import human_count, human_time

POOR = 0.5  # efficiency below which more GPUs are mostly heat
LARGE = 64  # GPUs from which published runs lose what the formulas do not know
Cells = tuple[str, Callable[[ClusterPlan], str], str]  # what, its value in one form, how it comes about


def cluster_table(forms: tuple[ClusterPlan, ...]) -> str:
    """All numbers, one a line and one form a column; `groundup plan --help` has the formulas."""
    first = forms[0]
    c, plan = first.cluster, first.plan
    rows = [
        (name, *(value(form) for form in forms), how)
        for name, value, how in (*_memory_rows(first), *_step_rows(first), *_run_rows(first), *_failure_rows(first))
    ]
    heads = ("", *({"ddp": "DDP", "fsdp": "FSDP2"}[form.sharding] for form in forms), "")
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads) - 1)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:]), row[-1]]).rstrip()
        for row in (heads, *rows)
    ]
    tokens = (
        f"{first.steps:,} steps of {plan.config.train.batch_tokens:,} = {human_count(first.run.tokens or 0)} tokens"
    )
    gpus = f"{c.per_node} {c.gpu.name.upper()} = {c.gpus:,} GPU{'s' if c.gpus > 1 else ''}"
    nodes = f"{c.nodes:,} node{'s' if c.nodes > 1 else ''} x {gpus}"
    head = [
        f"model    {plan.parameters:,} parameters, {human_count(plan.flops)} FLOPs a token",
        f"cluster  {nodes}; {first.speed.tokens_per_s:,.0f} tokens/s of one alone, from {first.speed.source}",
        f"run      {tokens}",
    ]
    return "\n".join([*head, "", *lines, *(f"\nwarning: {line}" for line in cluster_warnings(forms))])


def _memory_rows(first: ClusterPlan) -> Iterator[Cells]:
    c, windows = first.cluster, f"{first.micro_rows} x {first.plan.config.model.block_size} tokens"
    yield "memory a GPU", lambda f: human_bytes(f.memory.total), f"of {human_bytes(c.gpu.memory)}"
    yield (
        "  weights",
        lambda f: human_bytes(f.memory.weights),
        f"fp32; FSDP2: one of {c.gpus:,} parts" if c.gpus > 1 else "fp32",
    )
    yield (
        "  gradients",
        lambda f: human_bytes(f.memory.gradients),
        "the same" if first.rows == first.micro_rows else "whole between micro-batches",
    )
    yield "  optimizer", lambda f: human_bytes(f.memory.optimizer), first.plan.config.optimizer.name
    gathered = f"of a micro-batch, {windows}, and weights in {first.plan.machine.precision}; FSDP2: and gathered layers"
    yield "  activations", lambda f: human_bytes(f.memory.activations), gathered
    yield "  logits", lambda f: human_bytes(f.memory.logits), "some rows at a time, and the head's gradient"


def _step_rows(first: ClusterPlan) -> Iterator[Cells]:
    c = first.cluster
    message = (
        f"of {human_bytes(first.message)} at {c.intra_node / 1e9:g} GB/s within nodes, {c.inter_node / 1e9:g} between"
    )
    yield "", lambda _: "", ""
    yield (
        "a step",
        lambda f: _milliseconds(f.step_seconds),
        f"{first.rows} window{'s' if first.rows > 1 else ''} a GPU, {first.filled:.0%} of them full",
    )
    yield "  arithmetic", lambda f: _milliseconds(f.compute), "forward and backward"
    yield "  communication", lambda f: _milliseconds(f.communication), message
    yield "  of it exposed", lambda f: _milliseconds(f.exposed), "what no backward pass (FSDP2: no arithmetic) hides"
    yield "efficiency", lambda f: f"{f.efficiency:.1%}", "arithmetic / (arithmetic + exposed communication)"
    yield "tokens/s", lambda f: f"{f.tokens_per_s:,.0f}", "of all GPUs, while nothing fails"


def _run_rows(first: ClusterPlan) -> Iterator[Cells]:
    c, model = first.cluster, first.plan.config.model
    power = f"at most: {c.gpu.watts:g} W a GPU, its node {c.gpu.node_watts:,.0f} W, times a PUE of {c.pue:g}"
    yield "", lambda _: "", ""
    yield "hours", lambda f: _hours(f.elapsed.mean), "evaluations, checkpoints and failures with them"
    yield "energy", lambda f: f"{f.energy / KWH:,.0f} kWh", power
    yield "GPU hours", lambda f: f"{f.elapsed.mean / 3600 * c.gpus:,.0f}", ""
    yield "disk, data", lambda f: human_bytes(f.data_bytes), f"{token_bytes(model)} bytes a token, each seen once"
    kept = f"{first.run.checkpoints} checkpoints of {human_bytes(first.plan.checkpoint_bytes)}, and the log"
    yield "disk, run", lambda f: human_bytes(f.run.disk), kept


def _failure_rows(first: ClusterPlan) -> Iterator[Cells]:
    c = first.cluster
    every = f"one every {human_time(c.gpu_mtbf / c.gpus)}: {c.gpu_mtbf / 3600:,.0f} h a GPU"
    yield "", lambda _: "", ""
    yield "failures", lambda f: f"{f.expected / f.reliability.mtbf:,.2f}", every
    yield (
        "a checkpoint",
        lambda f: f"{f.reliability.dump:.2f} s",
        "by the first process, as though training stood still",
    )
    yield "save every", lambda f: human_time(f.interval), "Daly (2006)"
    yield "  in steps", lambda f: f"{f.checkpoint_steps:,}", "for --checkpoint.every_steps"
    yield "  by Young", lambda f: human_time(young(f.reliability.dump, f.reliability.mtbf)), "Young (1974)"
    simulated = (
        f"simulated, restarts of {c.restart:g} s; expected by Daly's formula: {_hours(first.expected - first.work)}"
    )
    yield "hours lost", lambda f: _hours(f.elapsed.mean - f.work), simulated


def cluster_warnings(forms: tuple[ClusterPlan, ...]) -> Iterator[str]:
    """What cannot be, or would be waste, each with a remedy."""
    first = forms[0]
    c, plan = first.cluster, first.plan
    if not any(form.fits for form in forms):
        least = human_bytes(min(form.memory.total for form in forms))
        remedy = "give --train.micro_batch_size 1, --train.activation_checkpointing full, or a GPU with more"
        yield f"{least} are more than the {human_bytes(c.gpu.memory)} of a GPU in either form; {remedy}"
    elif not first.fits:
        yield f"DDP needs {human_bytes(first.memory.total)}, a GPU has {human_bytes(c.gpu.memory)}; FSDP2 alone fits"
    if plan.config.rows < c.gpus:
        yield _too_many(first)
    poor = [form for form in forms if form.efficiency < POOR]
    if len(poor) == len(forms):
        best = max(form.efficiency for form in forms)
        remedy = "larger steps (--train.batch_tokens), fewer nodes or --wire bf16 would help"
        yield f"at best {best:.0%} of a step is arithmetic; {remedy}"
    if c.gpus >= LARGE:
        yield (
            "published runs on 512 GPUs lost up to 12 % to stragglers and contention, which these formulas leave out; "
            "take the hours as the least"
        )


def _too_many(form: ClusterPlan) -> str:
    """Fewer windows a step than GPUs: what would fit."""
    c, config = form.cluster, form.plan.config
    tokens = c.gpus * config.model.block_size
    nodes = f", or --nodes {form.most_nodes:,} at most" if form.most_nodes else ", or fewer GPUs"
    return (
        f"train.batch_tokens: {config.train.batch_tokens:,} are {config.rows:,} windows of {config.model.block_size}, "
        f"fewer than {c.gpus:,} GPUs, so {c.gpus - config.rows:,} of them would have nothing to do; "
        f"give --train.batch_tokens {tokens}{nodes}"
    )


def cluster_json(forms: tuple[ClusterPlan, ...]) -> str:
    """The same as one object. Sizes in bytes, times in seconds, bandwidths in bytes/s, energy in kWh."""
    first = forms[0]
    plan: Plan = first.plan
    return json.dumps(
        {
            "parameters": plan.parameters,
            "flops_per_token": plan.flops,
            "steps": first.steps,
            "tokens": first.run.tokens,
            "cluster": _cluster(first.cluster),
            "gpu_tokens_per_s": first.speed.tokens_per_s,
            "gpu_speed_source": first.speed.source,
            "data_bytes": first.data_bytes,
            "checkpoint_bytes": plan.checkpoint_bytes,
            **{form.sharding: _form(form) for form in forms},
            "warnings": list(cluster_warnings(forms)),
        }
    )


def _cluster(c: Cluster) -> dict[str, Any]:
    return {**asdict(c), "gpus": c.gpus, "gpu": c.gpu.name, "mtbf": c.gpu_mtbf / c.gpus}


def _form(form: ClusterPlan) -> dict[str, Any]:
    return {
        "fits": form.fits,
        "memory": {"total": form.memory.total, **asdict(form.memory)},
        "windows_per_gpu": form.rows,
        "step_seconds": form.step_seconds,
        "compute_seconds": form.compute,
        "communication_seconds": form.communication,
        "exposed_seconds": form.exposed,
        "efficiency": form.efficiency,
        "tokens_per_s": form.tokens_per_s,
        "work_seconds": form.work,
        "checkpoint_seconds": form.reliability.dump,
        "checkpoint_interval_young": young(form.reliability.dump, form.reliability.mtbf),
        "checkpoint_interval_daly": form.reliability.interval,
        "checkpoint_every_steps": form.checkpoint_steps,
        "seconds": form.elapsed.mean,
        "seconds_error": form.elapsed.error,
        "seconds_expected": form.expected,
        "energy_kwh": form.energy / KWH,
        "disk": form.run.disk,
    }


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}"
