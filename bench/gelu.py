"""GELU with tanh, ours and torch's: nanoseconds per element, forward and backward. `python -m bench.gelu`"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.measure import interleaved, seconds
from groundup.kernels.elementwise import gelu_tanh

SHAPES = ((384, 512), (1024, 3072))
VARIANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "groundup, tanh": gelu_tanh,
    "torch, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "torch, exact": F.gelu,
}


def _forward(x: Tensor, name: str) -> float:
    return seconds(lambda: VARIANTS[name](x))


def _backward(outputs: dict[str, Tensor], x: Tensor, dy: Tensor, name: str) -> float:
    return seconds(lambda: torch.autograd.grad(outputs[name], x, dy, retain_graph=True))


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.gelu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shown = Table(title="gelu: ns per element", title_justify="left")
    for heading in ("", *(f"{rows} x {width}, {way}" for rows, width in SHAPES for way in ("forward", "backward"))):
        shown.add_column(heading, justify="right" if heading else "left")
    cells: dict[str, list[str]] = {name: [] for name in VARIANTS}
    for shape in SHAPES:
        x, dy = torch.randn(shape).requires_grad_(), torch.randn(shape)
        outputs = {name: way(x) for name, way in VARIANTS.items()}

        for work in (partial(_forward, x), partial(_backward, outputs, x, dy)):
            for row in interleaved({name: partial(work, name) for name in VARIANTS}, args.rounds):
                cells[row.name].append(f"{row.median / x.numel() * 1e9:.1f}")
    for name, values in cells.items():
        shown.add_row(name, *values)
    Console().print(shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
