"""Clock, memory counters and synchronisation of a GPU, or of the CPU that replaces it in tests."""

from __future__ import annotations

import gc
import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch


def here(*, toy: bool) -> torch.device:
    """Device to measure on."""
    if toy:
        torch.set_num_threads(1)
    return torch.device("cpu") if toy else torch.device("cuda", 0)


def about(device: torch.device) -> dict[str, str | int | float]:
    """Description of the device and the versions."""
    facts: dict[str, str | int | float] = {
        "python": platform.python_version(), "torch": torch.__version__, "device": device.type,
    }  # fmt: skip
    if device.type == "cuda":
        known = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": known.name, "memory_gb": known.total_memory / 1e9, "multiprocessors": known.multi_processor_count,
            "capability": f"{known.major}.{known.minor}", "cuda": str(torch.version.cuda),
            "cudnn": int(torch.backends.cudnn.version() or 0),
        }  # fmt: skip
    return facts


def wait(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Wall time of one call, starting and ending with an idle device."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def milliseconds(device: torch.device, work: Callable[[], object], repeats: int = 10, warm: int = 3) -> float:
    """Median time of a call; on a GPU by its own clock, with the calls queued."""
    for _ in range(warm):
        work()
    if device.type != "cuda":
        return 1e3 * statistics.median(seconds(device, work) for _ in range(repeats))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    wait(device)
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    wait(device)
    return statistics.median(a.elapsed_time(b) for a, b in pairwise(marks))


def forget(device: torch.device) -> None:
    """Free unused memory, so that all of it is available to the next measurement, and reset the peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def held(device: torch.device) -> int:
    """Bytes of live tensors; 0 where torch does not count them."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak(device: torch.device) -> int:
    """Peak bytes of tensors since `forget`; 0 where torch does not count them."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def kernels(device: torch.device, work: Callable[[], object]) -> list[dict[str, Any]]:
    """The kernels of a GPU, or the operations of a CPU, that took longest in `work`: name, calls, milliseconds."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        work()
        wait(device)
    found = []
    for event in profile.key_averages():
        if device.type == "cuda" and "cuda" not in str(event.device_type).lower():
            continue
        if getattr(event, "is_user_annotation", False):  # a span of kernels that are counted separately
            continue
        took = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        found.append({"name": event.key[:120], "calls": event.count, "ms": took / 1e3})
    return sorted(found, key=lambda one: -one["ms"])


def gemm_tflops(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], repeats: int = 10) -> float:
    """TFLOP/s of a (M, K) by (K, N) product of random numbers: zeros run faster, as they need less power."""
    M, K, N = shape
    a = torch.randn(M, K, device=device).to(dtype)
    b = torch.randn(N, K, device=device).to(dtype)  # layout of a linear layer's weight
    return 2 * M * K * N / milliseconds(device, lambda: a @ b.T, repeats) / 1e9


def copy_tbytes(device: torch.device, megabytes: int) -> float:
    """TB/s, read and written, of a copy within the device's memory."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(device, lambda: target.copy_(source)) / 1e9
