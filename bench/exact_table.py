"""Results of `bench.exact` as a table and as a file."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.contenders import Task
from bench.measure import Row, machine
from bench.train_step import BOUND, max_difference
from groundup.model.size import flops_per_token
from groundup.utils.device import Name

OURS, BASE = "groundup", "nanoGPT, fp32"
WIDTH = 120  # columns of the table
INCOMPARABLE = ("litgpt",)  # computes another function, so its losses are not compared


@dataclass(frozen=True)
class Contender:
    """A trainer and its settings."""

    who: str  # OURS, or a key of MAKERS
    precision: Name
    compiling: bool = False

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"{self.who}, {self.precision}{', compiled' if self.compiling else ''}"


@dataclass
class Results:
    """All measurements."""

    task: Task
    rows: list[Row] = field(default_factory=list)  # tokens/s
    losses: dict[str, list[float]] = field(default_factory=dict)  # of the first steps
    peaks: dict[str, int] = field(default_factory=dict)  # bytes
    bare: int = 0  # bytes of a process that has loaded torch and the text but no model
    ceilings: dict[str, list[float]] = field(default_factory=dict)  # GFLOP/s before and after, by precision
    copies: list[float] = field(default_factory=list)  # GB/s before and after
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def share(self, row: Row, precision: str) -> float:
        """Fraction of the speed of a large matrix product in the same precision, the faster of before and after."""
        return row.median * flops_per_token(self.task.config) / (max(self.ceilings[precision]) * 1e9)


def judge(found: Results, them: dict[str, Contender]) -> None:
    """Fail if our fp32 losses are not nanoGPT's; note the fastest trainer."""
    for name in found.losses if BASE in found.losses else ():
        if them[name].who == OURS and them[name].precision == "fp32":
            difference = max_difference(found.losses[name], found.losses[BASE])
            if not difference < BOUND:  # a NaN fails
                steps = len(found.losses[BASE])
                apart_by = f"differ from nanoGPT's by {difference:.1e} nats per token, more than {BOUND}"
                found.failures.append(f"{name}: losses of the first {steps} steps {apart_by}")
    ours = [row for row in found.rows if them[row.name].who == OURS]
    others = [row for row in found.rows if them[row.name].who != OURS]
    if ours and others:
        best, peer = (max(rows, key=lambda row: row.median) for rows in (ours, others))
        found.notes.append(f"{best.name} runs at {best.ratio(peer):.2f} of the fastest peer, {peer.name}")


def table(found: Results, them: dict[str, Contender]) -> list[dict[str, Any]]:
    """All values of each row, for the table and the file; None where there is nothing to compare with."""
    base = next((row for row in found.rows if row.name == BASE), None)
    rows = []
    for row in found.rows:
        contender = them[row.name]
        comparable = BASE in found.losses and contender.who not in INCOMPARABLE
        rows.append(
            {
                **asdict(contender),
                "name": row.name,
                "tokens_per_s": row.median,
                "values": row.values,
                "ratio": row.ratio(base) if base else None,
                "share_of_ceiling": found.share(row, contender.precision),
                "peak_bytes": found.peaks[row.name],
                "losses_apart": max_difference(found.losses[row.name], found.losses[BASE]) if comparable else None,
                "losses": found.losses[row.name],
            }
        )
    return rows


def show(found: Results, rows: list[dict[str, Any]], console: Console) -> None:
    """Print the table, notes and failures."""
    shape, task = found.task.config, found.task
    title = f"exact: {shape.n_layer} layers, {shape.n_embd} wide, {task.rows} x {shape.block_size} tokens per step"
    shown = Table(title=title, title_justify="left", title_style="bold")
    shown.add_column("")
    for heading in ("tokens/s", "lowest", "highest", f"x {BASE}", "of the ceiling", "peak MB", "losses apart"):
        shown.add_column(heading, justify="right")
    for row in rows:
        ratio, difference = row["ratio"], row["losses_apart"]
        shown.add_row(
            row["name"],
            *(f"{value:,.0f}" for value in (row["tokens_per_s"], min(row["values"]), max(row["values"]))),
            "" if ratio is None else f"{ratio:.2f}",
            f"{row['share_of_ceiling']:.0%}",
            f"{row['peak_bytes'] / 1e6:,.0f}",
            "" if difference is None else f"{difference:.1e}",
        )
    console.print(shown)
    rounds = len(found.rows[0].values) if found.rows else 0
    bare, flops = found.bare / 1e6, flops_per_token(shape) / 1e6
    console.print(f"medians of {rounds} interleaved rounds of {task.steps} steps; {flops:,.1f} MFLOP per token")
    console.print(f"a process without a model: {bare:,.0f} MB at its peak")
    for precision, (before, after) in found.ceilings.items():
        console.print(f"{precision} matrix product: {before:.0f} GFLOP/s before, {after:.0f} after")
    console.print(f"copy, read and written: {found.copies[0]:.1f} GB/s before, {found.copies[1]:.1f} after")
    for note in found.notes:
        console.print(note, highlight=False)
    for failure in found.failures:
        console.print(f"FAILED: {failure}", style="red")


def report(found: Results, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Contents of --json."""
    task = found.task
    sizes = {name: getattr(task, name) for name in ("name", "rows", "compared", "steps", "step_tokens")}
    sections = {"model": task.config.model_dump(), "optimizer": task.adamw.model_dump()}
    return {
        "command": shlex.join(["python", "-m", "bench.exact", *sys.argv[1:]]),
        "machine": machine(),
        "task": {**sizes, **sections, "flops_per_token": flops_per_token(task.config)},
        "gemm_gflops": found.ceilings,
        "copy_gbytes": found.copies,
        "bare_process_bytes": found.bare,
        "rows": rows,
        "notes": found.notes,
        "failures": found.failures,
    }
