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
from bench.train_step import BOUND, apart

# Nats a token that losses of the first steps may be apart from the first's: the same sums in another order, or rounded.
BOUNDS = {"fp32": BOUND, "tf32": 1e-2, "bf16": 1e-1, "fp16": 1e-1}
PLACES = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.+~-]+){2,}[\\/]?")  # files and folders within a sentence


@dataclass
class Step:
    """A rung, and what came of it."""

    rung: Rung
    switches: Switches
    before: str = ""  # the key of the rung it stands on
    said: str = ""  # why it was not measured; nothing where it was
    failed: bool = False  # it was begun, and is not there any more
    slow: bool = False  # two steps were all that it was asked for
    kept: bool = False
    pace: float = 0.0  # seconds a step, before the clock
    peak: int = 0  # bytes
    losses: list[float] = field(default_factory=list)  # of the first steps, nats a token
    rates: list[float] = field(default_factory=list)  # tokens/s, one a round
    ratios: list[float] = field(default_factory=list)  # over the rung it stands on, one a round
    ratios_first: list[float] = field(default_factory=list)  # over the first

    def fail(self, said: str) -> None:
        """It could not be measured after all."""
        self.failed, self.said = True, f"failed here: {PLACES.sub('...', said)}"
        self.rates, self.ratios, self.ratios_first, self.losses = [], [], [], []

    @property
    def over_before(self) -> float:
        """Median of the rounds; 0 where there were none."""
        return median(self.ratios) if self.ratios else 0.0

    @property
    def verdict(self) -> str:
        """What became of it, in few words."""
        if self.said:
            return self.said
        if not self.ratios:
            return ""
        if not self.rung.stays:
            return "for comparison"
        ending = "; slow: 2 steps" if self.slow else ""
        return "kept" if self.kept else f"not kept{ending}"


@dataclass
class Found:
    """All that was measured."""

    task: Task
    device: torch.device
    steps: list[Step] = field(default_factory=list)
    ceilings: list[float] = field(default_factory=list)  # GFLOP/s in fp32, before and after
    bare: int = 0  # bytes of a process that has loaded torch and the text, and has no model
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def apart(self, step: Step) -> float:
        """The largest difference from the first's losses, over the steps that both made."""
        return apart(step.losses, self.steps[0].losses[: len(step.losses)])


def judge(found: Found) -> None:
    """Losses are the first's, up to the rounding of the type that products are computed in."""
    for step in found.steps[1:]:
        if step.losses:
            bound, difference = BOUNDS[step.switches.arithmetic], found.apart(step)
            if not difference < bound:  # a NaN fails
                sentence = f"losses differ from the first's by {difference:.1e} nats a token, more than {bound:g}"
                found.failures.append(f"{step.rung.key}: {sentence}")


def show(found: Found, console: Console) -> None:
    """One table, and what else is to be said."""
    config, task = found.task.config, found.task
    size = f"{config.n_layer} layers, {config.n_embd} wide, {config.vocab:,} ids, {task.rows} x {config.block_size}"
    table = Table(title=f"ladder: {size} tokens a step, {found.device.type}", title_justify="left", title_style="bold")
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
    console.print(f"losses of {task.compared} steps must be the first's within {bounds} nats a token")
    console.print("groundup's C++ has no part here: it serves RMSNorm, rotary positions and ReLU², not GPT-2")
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


def row(found: Found, step: Step) -> dict[str, Any]:
    """All of a rung, for the file."""
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
        "losses_apart": found.apart(step) if measured else None,
        "bound": BOUNDS[step.switches.arithmetic],
    }


def report(found: Found, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What --json keeps; no path of this machine is in it."""
    task = found.task
    sizes = {name: getattr(task, name) for name in ("name", "rows", "compared", "steps", "rounds", "step_tokens")}
    return {
        "command": "python -m bench.ladder",
        "asked": dict(asked),
        "machine": machine() | about(found.device),
        "task": {**sizes, "model": task.config.model_dump(), "optimizer": task.adamw.model_dump()},
        "gemm_gflops": found.ceilings,
        "bare_process_bytes": found.bare,
        "rows": [row(found, step) for step in found.steps],
        "notes": found.notes,
        "failures": found.failures,
    }
