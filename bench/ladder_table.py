"""Results of `bench.ladder` as a table and as a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.contenders import Task
from bench.gpu_device import about
from bench.ladder_rungs import Rung, Switches
from bench.measure import machine
from bench.train_step import BOUND, max_difference

# Largest difference in nats per token between a rung's first losses and the first rung's: reordered sums, rounding.
BOUNDS = {"fp32": BOUND, "tf32": 1e-2, "bf16": 1e-1, "fp16": 1e-1}
PATHS = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.+~-]+){2,}[\\/]?")  # paths within a message


@dataclass
class Step:
    """A rung and its measurements."""

    rung: Rung
    switches: Switches
    before: str = ""  # key of the rung it builds on
    skipped: str = ""  # why it was not measured; empty if it was
    failed: bool = False  # it was started and failed
    slow: bool = False  # stopped after two steps
    kept: bool = False
    pace: float = 0.0  # seconds per step, before the timed rounds
    peak: int = 0  # bytes
    losses: list[float] = field(default_factory=list)  # of the first steps, nats per token
    rates: list[float] = field(default_factory=list)  # tokens/s, one per round
    ratios: list[float] = field(default_factory=list)  # over the rung it builds on, one per round
    ratios_first: list[float] = field(default_factory=list)  # over the first rung

    def fail(self, reason: str) -> None:
        """Mark as failed and drop the measurements."""
        self.failed, self.skipped = True, f"failed here: {PATHS.sub('...', reason)}"
        self.rates, self.ratios, self.ratios_first, self.losses = [], [], [], []

    @property
    def over_before(self) -> float:
        """Median of the rounds; 0 if there are none."""
        return median(self.ratios) if self.ratios else 0.0

    @property
    def verdict(self) -> str:
        """Outcome in a few words."""
        if self.skipped:
            return self.skipped
        if not self.ratios:
            return ""
        if not self.rung.keep_if_faster:
            return "for comparison"
        ending = "; slow: 2 steps" if self.slow else ""
        return "kept" if self.kept else f"not kept{ending}"


@dataclass
class Results:
    """All measurements."""

    task: Task
    device: torch.device
    steps: list[Step] = field(default_factory=list)
    ceilings: list[float] = field(default_factory=list)  # GFLOP/s in fp32, before and after
    bare: int = 0  # bytes of a process that has loaded torch and the text but no model
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def losses_apart(self, step: Step) -> float:
        """Largest difference from the first rung's losses, over the steps that both ran."""
        return max_difference(step.losses, self.steps[0].losses[: len(step.losses)])


def judge(found: Results) -> None:
    """Fail each rung whose losses differ from the first's by more than its arithmetic allows."""
    for step in found.steps[1:]:
        if step.losses:
            bound, difference = BOUNDS[step.switches.arithmetic], found.losses_apart(step)
            if not difference < bound:  # a NaN fails
                sentence = f"losses differ from the first's by {difference:.1e} nats per token, more than {bound:g}"
                found.failures.append(f"{step.rung.key}: {sentence}")


def show(found: Results, console: Console) -> None:
    """Print the table, notes and failures."""
    config, task = found.task.config, found.task
    size = f"{config.n_layer} layers, {config.n_embd} wide, {config.vocab:,} ids, {task.rows} x {config.block_size}"
    title = f"ladder: {size} tokens per step, {found.device.type}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("tokens/s", "x before", "lowest-highest", "x first", "peak MB", f"loss {task.compared}"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for step in found.steps:
        table.add_row(*cells(step, task))
    console.print(table)
    console.print(
        f"medians of {task.rounds} interleaved rounds of {task.steps} steps; x before: over the rung kept last"
    )
    bounds = ", ".join(f"{bound:g} in {name}" for name, bound in BOUNDS.items())
    console.print(f"losses of {task.compared} steps must be the first's within {bounds} nats per token")
    console.print("groundup's C++ kernels are not used here: they serve RMSNorm, rotary positions and ReLU², not GPT-2")
    if found.bare:
        console.print(f"a process without a model: {found.bare / 1e6:,.0f} MB at its peak")
    before, after = found.ceilings[0], found.ceilings[-1]
    console.print(f"fp32 matrix product: {before:,.0f} GFLOP/s before, {after:,.0f} after")
    for note in found.notes:
        console.print(note, highlight=False)
    for failure in found.failures:
        console.print(f"FAILED: {failure}", style="red")


def cells(step: Step, task: Task) -> list[str]:
    """A row of the table; a rung that was not measured has a reason and no number."""
    if not step.rates:
        return [step.rung.name, *[""] * 6, step.verdict]
    ratios = step.ratios
    return [
        step.rung.name,
        f"{median(step.rates):,.0f}",
        f"{step.over_before:.2f}" if ratios else "",
        f"{min(ratios):.2f}-{max(ratios):.2f}" if len(ratios) > 1 else "",
        f"{median(step.ratios_first):.2f}" if ratios else "1.00",
        f"{step.peak / 1e6:,.0f}",
        f"{step.losses[-1]:.4f}" if len(step.losses) == task.compared else "",
        step.verdict,
    ]


def row(found: Results, step: Step) -> dict[str, Any]:
    """All values of a rung, for the file."""
    measured = bool(step.rates)
    return {
        "key": step.rung.key,
        "name": step.rung.name,
        "switches": asdict(step.switches),
        "arithmetic": step.switches.arithmetic,
        "before": step.before or None,
        "verdict": step.verdict,
        "measured": measured,
        "kept": step.kept,
        "tokens_per_s": median(step.rates) if measured else None,
        "ratio_before": step.over_before if step.ratios else None,
        "ratio_first": median(step.ratios_first) if step.ratios else None,
        "values": step.rates,
        "ratios_before": step.ratios,
        "ratios_first": step.ratios_first,
        "peak_bytes": step.peak if measured else None,
        "losses": step.losses,
        "losses_apart": found.losses_apart(step) if measured else None,
        "bound": BOUNDS[step.switches.arithmetic],
    }


def report(found: Results, options: Mapping[str, Any]) -> dict[str, Any]:
    """Contents of --json, without any path of this machine."""
    task = found.task
    sizes = {name: getattr(task, name) for name in ("name", "rows", "compared", "steps", "rounds", "step_tokens")}
    return {
        "command": "python -m bench.ladder",
        "asked": dict(options),
        "machine": machine() | about(found.device),
        "task": {**sizes, "model": task.config.model_dump(), "optimizer": task.adamw.model_dump()},
        "gemm_gflops": found.ceilings,
        "bare_process_bytes": found.bare,
        "rows": [row(found, step) for step in found.steps],
        "notes": found.notes,
        "failures": found.failures,
    }
