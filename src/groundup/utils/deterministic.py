"""Runs that repeat bit for bit on a GPU too."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

WORKSPACE, WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # NVIDIA, cuBLAS, "Results reproducibility"


def make_deterministic(on: bool, device: torch.device, say: Callable[[str], None]) -> None:
    """Compute with deterministic kernels alone, or as torch does by default; for the whole process.

    Scope: the same machine or one with the same GPU model, the same versions of torch, CUDA and driver, the same
    config, device, precision and number of processes. Then a run repeated, or resumed, ends in the same weights, bit
    for bit. An operation without a deterministic kernel raises instead. Left out: `train.compile max-autotune`, which
    picks kernels by timing them, and horizons in wall-clock time. On a CPU, training is repeatable anyway.

    cuBLAS reads its setting when CUDA starts: call this before anything is put on the GPU; where that is too late, one
    line goes to `say`.
    """
    if on and device.type == "cuda" and os.environ.get(WORKSPACE) not in WORKSPACES:
        os.environ[WORKSPACE] = WORKSPACES[0]
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            say(
                f"train.deterministic: CUDA was in use before {WORKSPACE} was set, so matrix products may not repeat; "
                f"begin in a new process, or set {WORKSPACE}={WORKSPACES[0]} before it starts"
            )
    if on or torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler, for a second
        torch.use_deterministic_algorithms(on)
    torch.utils.deterministic.fill_uninitialized_memory = not on  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = on
    torch.backends.cudnn.benchmark = False
