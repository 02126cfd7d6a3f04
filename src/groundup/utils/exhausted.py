"""Running out of memory, which every device says in its own way."""

from __future__ import annotations

import torch

# What a CPU's allocator, Metal's, CUDA's driver and cuBLAS say in a plain RuntimeError.
SAID = (
    "DefaultCPUAllocator:", "MPS backend out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
)  # fmt: skip


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch's means that memory did not suffice, on whatever device."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in SAID)
