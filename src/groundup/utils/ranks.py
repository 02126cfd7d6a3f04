"""Rank of this process, by the environment alone: known before processes are joined, and without torch."""

import os


def is_rank_0() -> bool:
    """Whether this process is alone, or rank 0 of those that torchrun or srun started."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
