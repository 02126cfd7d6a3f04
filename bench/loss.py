"""The loss of a large vocabulary, forward and backward: in chunks, against complete logits and torch's cross-entropy.

    python -m bench.loss --rounds 5

Times are of one process, interleaved; memory is measured in a separate process for each, relative to its memory
before, as Linux reports it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.measure import gemm_gflops, interleaved, seconds
from groundup.kernels.cross_entropy import linear_cross_entropy, softcap_and_mask

SHAPES = ((1024, 768, 50_304, 50_257), (1024, 384, 8_064, 8_000), (768, 128, 128, 65))  # N, C, P, V
MIN_MULTIPLICATIONS = 10**9  # per measured value, about

Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def full_logits(x: Tensor, weight: Tensor, targets: Tensor, vocab: int) -> Tensor:
    """Loss from all logits at once."""
    logits = softcap_and_mask(F.linear(x, weight), vocab=vocab, softcap=None)
    return F.cross_entropy(logits.float(), targets, ignore_index=-1, reduction="sum")


def ours(x: Tensor, weight: Tensor, targets: Tensor, vocab: int) -> Tensor:
    """Loss in chunks, as in training."""
    return linear_cross_entropy(x, weight, targets, vocab=vocab)


CONTENDERS: dict[str, Loss] = {"full": full_logits, "ours": ours}


def step(loss: Loss, shape: tuple[int, ...]) -> Callable[[], None]:
    """A forward and backward pass over fixed inputs."""
    N, C, P, V = shape
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(N, C, generator=draw).requires_grad_()
    weight = (0.02 * torch.randn(P, C, generator=draw)).requires_grad_()
    targets = torch.randint(V, (N,), generator=draw)

    def once() -> None:
        x.grad = weight.grad = None
        loss(x, weight, targets, V).backward()

    return once


def peak(name: str, shape: tuple[int, ...], threads: int) -> int:
    """Peak resident bytes that the pass adds, in a process that has done nothing else."""
    torch.set_num_threads(threads)
    warm, once = step(CONTENDERS[name], (64, 64, 64, 64)), step(CONTENDERS[name], shape)
    warm()  # memory that libraries keep
    before = _status("VmRSS")
    once()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def mean_seconds(once: Callable[[], None], repeats: int) -> float:
    """Mean time of a pass."""
    return seconds(lambda: [once() for _ in range(repeats)]) / repeats


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.loss", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        jobs = [(name, shape, args.threads) for shape in SHAPES for name in CONTENDERS]
        peaks = dict(zip(((shape, name) for name, shape, _ in jobs), pool.starmap(peak, jobs, 1), strict=True))
        pool.close()
        pool.join()
    print(f"a large fp32 product: {gemm_gflops():.0f} GFLOP/s")
    print(f"{'N, C, P':<20}{'full ms':>10}{'ours ms':>10}{'ours / full':>14}{'full MB':>10}{'ours MB':>10}")
    for shape in SHAPES:
        passes = {name: step(loss, shape) for name, loss in CONTENDERS.items()}
        for once in passes.values():
            once()
        repeats = max(1, MIN_MULTIPLICATIONS // prod(shape[:3]))
        timed = {name: partial(mean_seconds, once, repeats) for name, once in passes.items()}
        theirs, mine = interleaved(timed, args.rounds)
        print(
            f"{', '.join(map(str, shape[:3])):<20}{1e3 * theirs.median:>10.1f}{1e3 * mine.median:>10.1f}"
            f"{mine.ratio(theirs):>14.2f}{peaks[shape, 'full'] / 1e6:>10.0f}{peaks[shape, 'ours'] / 1e6:>10.0f}"
        )


if __name__ == "__main__":
    main()
