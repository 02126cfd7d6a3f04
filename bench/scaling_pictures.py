"""Three plots of the results of `bench.scaling`, drawn by matplotlib without a display and with default settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

from groundup.comparison.plot import COLOURS
from groundup.ui.format import human_count

WIDTH, HEIGHT = 6.4, 4.2  # inches
BAR = 0.8  # width of a shape's bars, as a fraction of the distance between shapes


def draw(report: dict[str, Any], folder: Path, kind: str) -> list[Path]:
    """Write `scaling-size`, `scaling-processes` and `scaling-memory` into the folder; `kind` is png or svg."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings = {"size": size, "processes": processes, "memory": memory}
    written = []
    for name, drawing in drawings.items():
        path = folder / f"scaling-{name}.{kind}"
        path.write_bytes(_picture(report, drawing, kind))
        written.append(path)
    return written


def _picture(report: dict[str, Any], drawing: Callable[[Any, dict[str, Any]], None], kind: str) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "groundup"  # the same numbers give the same file
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=160, layout="constrained")
        axes = figure.add_subplot()
        drawing(axes, report)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=8.5)
        file = BytesIO()
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def size(axes: Any, report: dict[str, Any]) -> None:
    """Microseconds per token over operations per token, both on log scales; and the lower bound."""
    from matplotlib.ticker import LogLocator

    rows, ceiling = report["sizes"], max(report["gemm_gflops"])
    flops = [row["flops_per_token"] for row in rows]
    for i, way in enumerate(report["ways"][:2]):
        microseconds = [[1e6 / value for value in row["tokens_per_s"][way["name"]]] for row in rows]
        middle = [median(values) for values in microseconds]
        spread = [[m - min(v) for m, v in zip(middle, microseconds, strict=True)],
                  [max(v) - m for m, v in zip(middle, microseconds, strict=True)]]  # fmt: skip
        style = {"color": COLOURS[i], "marker": "o", "markersize": 4, "linewidth": 1.6, "capsize": 3}
        axes.errorbar(flops, middle, spread, label=way["name"], **style)
    ends = [min(flops) / 1.5, max(flops) * 1.5]
    floor = f"floor: a matrix product, {ceiling:,.0f} GFLOP/s"
    axes.plot(ends, [x / ceiling / 1e3 for x in ends], color="0.35", linestyle="--", linewidth=1.2, label=floor)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="layers x width, and training FLOPs per token",
        ylabel="µs per token",
    )
    axes.set_title("Time per token by size of the model, fp32", loc="left", fontsize=10, fontweight="bold")
    axes.set_xticks(flops, [f"{row['shape']}\n{human_count(row['flops_per_token'])}" for row in rows])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.set_yticks([], minor=True)


def processes(axes: Any, report: dict[str, Any]) -> None:
    """Speed of each division of the machine, relative to one process with all threads."""
    rows, ways = report["sizes"], report["ways"]
    baseline = ways[0]["name"]
    for i, way in enumerate(ways):
        ratios = [
            median(a / b for a, b in zip(row["tokens_per_s"][way["name"]], row["tokens_per_s"][baseline], strict=True))
            for row in rows
        ]
        wide = BAR / len(ways)
        positions = [j + (i - (len(ways) - 1) / 2) * wide for j in range(len(rows))]
        bars = axes.bar(positions, ratios, wide * 0.92, color=COLOURS[i], label=way["name"])
        axes.bar_label(bars, fmt="%.2f", fontsize=7.5, padding=1)
    axes.set_xticks(range(len(rows)), [row["shape"] for row in rows])
    axes.set(xlabel="layers x width", ylabel=f"speed, as a multiple of {baseline}")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
    axes.set_title("Processes and threads, DDP, fp32", loc="left", fontsize=10, fontweight="bold")


def memory(axes: Any, report: dict[str, Any]) -> None:
    """Peak memory over the micro-batch size; a line marks the memory that does not depend on it."""
    held = report["memory"]
    least = held["bare_process_bytes"] + held["state_bytes"]
    axes.plot(held["micro_batches"], [b / 1e6 for b in held["peak_bytes"]], color=COLOURS[0], marker="o", label="peak")
    axes.axhline(least / 1e6, color="0.35", linestyle="--", linewidth=1.2,
                 label="a bare process, weights, gradients, optimizer state")  # fmt: skip
    axes.set(xlabel=f"sequences of {report['context']} tokens per pass", ylabel="MB", xlim=(0, None), ylim=(0, None))
    axes.set_xticks(held["micro_batches"])
    axes.set_title(f"Peak memory of {held['shape']}, fp32", loc="left", fontsize=10, fontweight="bold")
