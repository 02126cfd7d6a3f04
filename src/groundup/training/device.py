"""Where to train, in which arithmetic, and why."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal, NamedTuple

import torch

from groundup.errors import ConfigError
from groundup.fields import DEVICE_PATTERN

Name = Literal["fp32", "bf16"]

PATIENCE = 0.1  # seconds for timing matrix products: an emulated type takes 200 ms for one that fp32 does in 3


class Precision(NamedTuple):
    """A choice and its reason, to be said aloud."""

    name: Name
    reason: str


def choose_device(wanted: str) -> torch.device:
    """The device asked for, or the best there is; ConfigError when it is not on this machine."""
    if not re.fullmatch(DEVICE_PATTERN, wanted):
        raise ConfigError(f"device: {wanted!r} is not one of auto, cpu, cuda, cuda:N, mps")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    device = torch.device(wanted)
    here = {"cpu": True, "cuda": cuda and (device.index or 0) < torch.cuda.device_count(), "mps": mps}
    if not here[device.type]:
        raise ConfigError(f"device: {wanted} is not on this machine; use auto or cpu")
    return device


def device_memory(device: torch.device) -> int | None:
    """Bytes of a GPU's own memory; None where the device uses the machine's."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reseed(seed: int, device: torch.device) -> None:
    """Set the generator that dropout draws from on `device`."""
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """`wanted`, or for `auto` what is fastest here; ConfigError when the device cannot do it."""
    if device.type == "cuda":
        # `is_bf16_supported` says yes to emulation on a T4; the capability tells the truth.
        major, _ = torch.cuda.get_device_capability(device)
        if wanted == "bf16" and major < 8:
            raise ConfigError(
                f"train.precision: bf16 needs a GPU of compute capability 8 or more, this has {major}; use fp32"
            )
        if wanted == "auto":
            return (
                Precision("bf16", "GPU with bf16 units") if major >= 8 else Precision("fp32", "GPU without bf16 units")
            )
    if device.type == "mps" and wanted == "auto":
        return Precision("fp32", "the safe choice on Apple GPUs")
    if device.type == "cpu" and wanted == "auto":
        speedup = bf16_speedup()
        reason = f"bf16 matrix products run {speedup:.1f}x as fast as fp32 on this CPU"
        return Precision("bf16" if speedup > 1.2 else "fp32", reason)
    return Precision("bf16" if wanted == "bf16" else "fp32", "as configured")


def autocast(precision: Name, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """A context for the forward pass: matrix products in bf16, the rest in fp32; or nothing."""
    if precision == "fp32":
        return nullcontext
    return partial(torch.autocast, device.type, dtype=torch.bfloat16)


def bf16_speedup(size: int = 512, repeats: int = 7) -> float:
    """How much faster this CPU multiplies bf16 matrices than fp32 ones; costs some 30 ms.

    On CPUs without AVX512-BF16 or AMX, bf16 is emulated and slower, so it is timed and never assumed.
    """
    best = _matmul_seconds(torch.device("cpu"), (torch.float32, torch.bfloat16), size, repeats)
    return best[torch.float32] / best[torch.bfloat16]


def matmul_flops(device: torch.device, precision: Name, threads: int) -> float:
    """Operations a second of bare matrix products: 2·n³ each; on a CPU, those of one thread times `threads`."""
    cpu = device.type == "cpu"
    size, dtype = 512 if cpu else 4096, torch.bfloat16 if precision == "bf16" else torch.float32
    best = _matmul_seconds(device, (dtype,), size, repeats=7)
    return 2.0 * size**3 / best[dtype] * (threads if cpu else 1)


def _matmul_seconds(
    device: torch.device, dtypes: tuple[torch.dtype, ...], size: int, repeats: int
) -> dict[torch.dtype, float]:
    """The shortest time of a product in each type, in turn; on one thread, as several measure the other programs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = dict.fromkeys(dtypes, float("inf"))
    pairs = {dtype: torch.ones(2, size, size, dtype=dtype, device=device) for dtype in dtypes}
    deadline = time.perf_counter() + PATIENCE
    for _ in range(repeats):
        for dtype, (a, b) in pairs.items():
            if time.perf_counter() > deadline and best[dtype] < float("inf"):
                continue
            began = time.perf_counter()
            a @ b
            if device.type != "cpu":
                torch.accelerator.synchronize()
            best[dtype] = min(best[dtype], time.perf_counter() - began)
    torch.set_num_threads(threads)
    return best
