"""How much memory this process holds at the moment."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

GB = 1e9  # bytes
STATM = Path("/proc/self/statm")


def memory() -> dict[str, float]:
    """`memory/process_gb`, and `memory/gpu_gb` where torch uses CUDA; in GB, and without what cannot be known."""
    found = {"memory/process_gb": resident(), "memory/gpu_gb": on_gpu()}
    return {name: size / GB for name, size in found.items() if size is not None}


def resident() -> int | None:
    """Bytes of main memory; on macOS the most there were so far, None on Windows."""
    if _has_proc():
        return int(STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform != "darwin":
        return None
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes there, kilobytes elsewhere


def on_gpu() -> int | None:
    """Most bytes that torch's tensors filled on this process's GPUs; None unless torch is loaded and uses CUDA."""
    torch = sys.modules.get("torch")  # never imported from here: whoever trains has it
    if torch is None or not torch.cuda.is_initialized():
        return None
    return sum(int(torch.cuda.max_memory_allocated(i)) for i in range(torch.cuda.device_count()))


@cache
def _has_proc() -> bool:
    return STATM.is_file()
