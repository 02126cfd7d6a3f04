"""Differences in software and hardware between saving a checkpoint and resuming, and their effect on results."""

import math
import os
from collections.abc import Mapping
from typing import Any

import torch

from groundup.config.merge import diff, get
from groundup.config.resolved import OPEN, ResolvedConfig
from groundup.config.schema import Config, resume_rule
from groundup.config.sections import RUN_LENGTHS
from groundup.config.types import OnResume
from groundup.distributed.process_group import ProcessGroup
from groundup.kernels.cpu_build import kernels
from groundup.optim.run_length import Progress, build_run_length
from groundup.run.parts import build_run_schedule

# Changes with which dropout's random numbers fall on other elements, where the same seed is no longer the same dropout.
DROPOUT_MAY_CHANGE = {
    "processes", "torch", "GPU", "train.device", "train.compile", "train.micro_batch_size", "train.deterministic",
}  # fmt: skip
MIN_RATE_CHANGE = 0.01  # of the learning rate, to be worth a line


def numeric_facts(device: torch.device, process_group: ProcessGroup) -> dict[str, Any]:
    """Software and hardware that affect rounding and are not in the config; all values where processes differ."""
    facts = {"torch": str(torch.__version__)}
    if device.type == "cuda":
        facts["GPU"] = torch.cuda.get_device_name(device)
    if device.type == "cpu":
        facts["C++ kernels"] = kernels().identity or "none"
        facts["vector instructions"] = torch.backends.cpu.get_cpu_capability()
        facts["MKL_CBWR"] = os.environ.get("MKL_CBWR", "none")
    everywhere = process_group.all_gather_object(facts)
    together = {name: ", ".join(sorted({each[name] for each in everywhere})) for name in facts}
    return {"processes": process_group.size, **together}


def changed_numerics(before: Config, now: Config, noted: Mapping[str, Any], facts: Mapping[str, Any]) -> str | None:
    """A line on what rounds otherwise than when a checkpoint was written; None if nothing does, as far as is known.

    `noted` are the checkpoint's `numeric_facts`, as far as it has them, and `facts` those of now.
    """
    changes = {name: (noted[name], value) for name, value in facts.items() if noted.get(name, value) != value}
    for key in diff(before, now):
        if resume_rule(key) is OnResume.ROUNDING and get(before, key) not in OPEN:
            changes[key] = get(before, key), get(now, key)
    if not changes:
        return None
    listed = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changes.items())
    line = f"changed: {listed}: the same batches, and results equal up to rounding, not bit for bit"
    if now.model.dropout and changes.keys() & DROPOUT_MAY_CHANGE:
        line += "; dropout is another draw, which changes losses by more than that"
    return line


def changed_learning_rate(before: Config, now: ResolvedConfig, progress: Progress, epoch_sequences: int) -> str | None:
    """A line on the coming step's learning rate where another run length moves it; None if it stays."""

    def rate(train: Config) -> float:
        lengths = {key: getattr(train.train, key) for key in RUN_LENGTHS}
        config = now.model_copy(update={"train": now.train.model_copy(update=lengths)})
        run_length = build_run_length(config.train, config.batch_size, epoch_sequences)
        return build_run_schedule(config, run_length)(progress.step, min(1.0, run_length.fraction(progress)))

    old, new = rate(before), rate(now)
    if math.isclose(old, new, rel_tol=MIN_RATE_CHANGE):
        return None
    return f"the run's length changed, and with it the learning rate: {old:.1e} before, {new:.1e} now"
