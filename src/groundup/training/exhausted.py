"""Running out of memory, which every device says in its own way."""

from __future__ import annotations

import torch

# What a CPU's allocator and Metal's say in a plain RuntimeError.
SAID = ("DefaultCPUAllocator:", "MPS backend out of memory")


def exhausted(error: RuntimeError) -> bool:
    """Whether an error of torch's means that memory did not suffice, on whatever device."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in SAID)
