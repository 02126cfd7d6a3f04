"""Time of a training step by kind of work, and its lower bound by the matrix products.

    python -m bench.where [nano | gpt2 | LAYERSxWIDTH] [--context N] [--vocab N] [--rows N] [--precision NAME]

torch's profiler records a few steps of the real loop. The self time of an operation counts for one group, by its
name and its callers' names; time outside all operations is Python's. The profiler slows short
operations down: the step's time without it is below the table.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from bench.contenders import CPU, NANO, TASKS, Ours, Task, open_setup, sizes_of
from bench.measure import gemm_gflops, machine, seconds
from groundup.errors import UsageError
from groundup.model.size import flops_per_token
from groundup.utils.device import DTYPES, Name, choose_precision

MicroBatch = tuple[torch.Tensor, torch.Tensor, bool]
CLIP, BATCHES, OTHER, PYTHON = "clipping", "batches", "views, bookkeeping", "Python, between operations"
ELEMENTWISE = (
    "layer_norm|rms_norm|LayerNorm|RmsNorm|[gG]elu|[rR]elu|[eE]mbedding|::(add|mul|div|pow|sum|mean|rsqrt|tanh|copy_|cat)|"
    "::(fill_|zero_|clone|contiguous|masked_fill|where|_to_copy)"
)
# In this order: a matrix product of the loss counts as a product; one inside attention or the optimizer counts there.
RULES = (  # group, pattern of the name of the operation or of one of its callers
    (BATCHES, re.compile(f"^{BATCHES}$")),
    (CLIP, re.compile(f"^{CLIP}$")),
    ("optimizer", re.compile(r"^Optimizer\.")),
    ("attention", re.compile("scaled_dot_product|ScaledDotProduct|flash_attention")),
    ("matrix products", re.compile(r"^(aten|mkldnn)::_?(mm|bmm|addmm|baddbmm|addmm_activation|\w*linear_\w+)$")),
    ("loss", re.compile("[lL]oss|[cC]ross_?[eE]ntropy|[lL]og_?[sS]oftmax|logsumexp")),
    ("norms, GELU, sums", re.compile(ELEMENTWISE)),
)


@dataclass(frozen=True)
class StepProfile:
    """Milliseconds per step."""

    groups: dict[str, float]  # their sum is the step, as profiled
    step: float  # without the profiler
    floor: float  # if all its arithmetic ran as fast as a large matrix product
    gflops: float  # of that product


def group_of(names: Sequence[str]) -> str:
    """The group of an operation: `names` are its own, then those of its callers, innermost first."""
    return next((group for group, pattern in RULES if any(map(pattern.search, names))), OTHER)


def milliseconds(events: Iterable[Any]) -> dict[str, float]:
    """Milliseconds by group, of the events that torch's profiler recorded; the time between them is not included."""
    spent: dict[str, float] = {}
    for event in events:
        names, caller = [], event
        while caller is not None:
            names.append(caller.name)
            caller = caller.cpu_parent
        group = group_of(names)
        spent[group] = spent.get(group, 0.0) + event.self_cpu_time_total / 1000  # from microseconds
    return spent


def profile_step(task: Task, precision: Name, steps: int) -> StepProfile:
    """Profile `steps` steps of the real loop, after the same number of steps timed without the profiler."""
    with open_setup(replace(task, microbatch_threads=1)) as setup:  # the profiler sees one thread
        ours = setup.ours(precision)
        ours.train(2)  # creates the optimizer state
        step = seconds(lambda: ours.train(steps)) / steps * 1e3
        with _labelled(ours), profile(activities=[ProfilerActivity.CPU]) as profiler:
            profiled = seconds(lambda: ours.train(steps)) / steps * 1e3
        groups = {name: ms / steps for name, ms in milliseconds(profiler.events()).items()}
    groups[PYTHON] = max(0.0, profiled - sum(groups.values()))
    gflops = gemm_gflops(dtype=DTYPES[precision])
    return StepProfile(groups, step, task.step_tokens * flops_per_token(task.config) / gflops / 1e6, gflops)


@contextmanager
def _labelled(ours: Ours) -> Iterator[None]:
    """Name two parts of the loop that are Python for the profiler: reading batches and clipping."""

    def labelled_clip(*args: Any, **options: Any) -> torch.Tensor:
        with record_function(CLIP):
            return clip(*args, **options)

    clip, loader = nn.utils.clip_grad_norm_, ours.loader
    with (
        patch.object(nn.utils, "clip_grad_norm_", labelled_clip),
        patch.object(loader, "micro_batches", _named(loader.micro_batches)),
    ):
        yield


def _named(read: Callable[..., Iterator[MicroBatch]]) -> Callable[..., Iterator[MicroBatch]]:
    def micro_batches(*position: Any) -> Iterator[MicroBatch]:
        batches = read(*position)
        while True:
            with record_function(BATCHES):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    return micro_batches


def task_of(shape: str, context: int | None, vocab: int | None, rows: int | None) -> Task:
    """A named task, or nanoGPT's with the given layers and width; UsageError for any other `shape`."""
    task = TASKS.get(shape, NANO)
    sizes = {name: value for name, value in (("block_size", context), ("vocab_size", vocab)) if value is not None}
    for name, value in {**sizes, "rows": rows}.items():
        if value is not None and not 2 - (name == "rows") <= value <= 65_536:  # ids are stored in two bytes
            raise UsageError(f"{name} {value}: must be {2 - (name == 'rows')} to 65,536")
    if shape not in TASKS:
        sizes |= sizes_of(shape)
    return replace(task, name=shape, config=task.config.model_copy(update=sizes), rows=rows or task.rows)


def show(task: Task, found: StepProfile, precision: str, console: Console) -> None:
    """The table and the lines below it."""
    config, total = task.config, sum(found.groups.values())
    title = f"{config.n_layer} layers, {config.n_embd} wide, {task.rows} x {config.block_size} tokens, {precision}"
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("", "ms per step", "share"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, spent in sorted(found.groups.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{spent:.2f}", f"{spent / total:.1%}")
    table.add_row("all, as profiled", f"{total:.2f}", "", style="bold")
    console.print(table)
    console.print(f"without the profiler: {found.step:.2f} ms per step")
    console.print(
        f"the floor: {found.floor:.2f} ms, if all arithmetic ran at the speed of a large {precision} matrix product "
        f"({found.gflops:.0f} GFLOP/s); the step is {found.step / found.floor:.1f} times that"
    )


def main() -> int:
    """Print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench.where", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", nargs="?", default="nano", help=f"{', '.join(TASKS)} or LAYERSxWIDTH; default nano")
    parser.add_argument("--context", type=int, metavar="N")
    parser.add_argument("--vocab", type=int, metavar="N")
    parser.add_argument("--rows", type=int, metavar="N", help="sequences per step")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="steps profiled (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        task = task_of(args.shape, args.context, args.vocab, args.rows)
    except UsageError as error:
        parser.error(str(error))
    precision = choose_precision(args.precision, CPU).name
    found = profile_step(task, precision, args.steps)
    show(task, found, precision, Console(width=110))
    if args.json:
        report = {"machine": machine(), "shape": task.config.model_dump(), "rows": task.rows, "precision": precision}
        args.json.write_text(json.dumps(report | vars(found), indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
