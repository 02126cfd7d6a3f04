"""Joining and leaving the process group that torchrun or SLURM started."""

import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from groundup.distributed.process_group import SINGLE_PROCESS, ProcessGroup, TorchProcessGroup
from groundup.errors import TrainingError, UsageError

TIMEOUT = timedelta(minutes=30)  # for the slowest of the processes, say while it writes a large checkpoint
POLL_SECONDS = 0.05
FIRST_PORT = 29500  # torchrun's own; a SLURM job takes one of the 1,000 from here on, by its number


def expected_world_size(environ: Mapping[str, str] = os.environ) -> int:
    """Number of processes that torchrun or srun started together; 1 without them."""
    return _environ("WORLD_SIZE", 1, environ) if "RANK" in environ else _environ("SLURM_STEP_NUM_TASKS", 1, environ)


def init_distributed(timeout: timedelta = TIMEOUT) -> ProcessGroup:
    """The process group described by the environment, joined at the first call; TrainingError where that fails.

    Reads torchrun's variables (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, …), and those that srun gives each
    task of a step. `timeout` limits the wait for all processes, and each collective.
    """
    if "RANK" not in os.environ and _environ("SLURM_STEP_NUM_TASKS", 1) > 1:
        os.environ.update(from_slurm(os.environ))
    if expected_world_size() == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        return SINGLE_PROCESS
    if not dist.is_initialized():
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UsageError(f"{missing[0]}: not set, though others like it are; start the job with torchrun")
        _connect(timeout)
    return TorchProcessGroup(_environ("LOCAL_RANK", 0), _environ("LOCAL_WORLD_SIZE", 1))


def _connect(timeout: timedelta) -> None:
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    if gpus:
        torch.cuda.set_device(_environ("LOCAL_RANK", 0) % torch.cuda.device_count())
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))  # type: ignore[attr-defined]
        store = dist.PrefixStore(_rendezvous_nonce(store, rank, size, timeout), store)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError, TimeoutError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            f"{address}: the processes of this job did not connect ({str(error).splitlines()[0][:200]}); on a machine "
            "with several networks, name one with GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
        ) from error


def _rendezvous_nonce(store: Any, rank: int, size: int, timeout: timedelta) -> str:
    """A key prefix used by this start of the job alone; TimeoutError where not all processes arrive.

    When torchrun restarts processes, it may keep its store with the addresses of those that are gone, and it counts
    restarts on each machine separately. So each process writes a new random word; rank 0 publishes the words it finds,
    until every process has seen its own among them; rank 0's word is then the prefix.
    """
    word, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    store.set(f"word of {rank}", word)
    while time.monotonic() < deadline:
        if rank == 0:
            heard = [
                store.get(key).decode() if store.check([key]) else "" for key in map("word of {}".format, range(size))
            ]
            store.set("heard", " ".join(heard))
            if all(store.check([f"{word} to {other}"]) for other in range(1, size)):
                return word
        elif store.check(["heard"]):
            heard = store.get("heard").decode().split(" ")
            if heard[rank : rank + 1] == [word]:
                store.set(f"{heard[0]} to {rank}", "")
                return heard[0]
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"process {rank} waited {timeout.total_seconds():g} s for the others")


def from_slurm(environ: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables from those of a task that srun started."""
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environ.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": environ.get("SLURM_STEP_TASKS_PER_NODE", "1").partition("(")[0].partition(",")[0],
        "MASTER_ADDR": environ.get("MASTER_ADDR") or first_host(nodes),
        "MASTER_PORT": environ.get("MASTER_PORT") or str(FIRST_PORT + int(environ.get("SLURM_JOB_ID", "0")) % 1000),
    }


def first_host(nodes: str) -> str:
    """The first machine of a SLURM node list: `gpu[03-07,11],cpu1` -> `gpu03`."""
    found = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    return found[1] + (found[2] or "") if found else socket.gethostname()


def exit_process(status: int) -> None:
    """Leave the process group and exit; no-op without a process group.

    Exits without Python's clean-up: gloo's threads, when they outlive torch's, abort about a third of processes.
    """
    if not dist.is_initialized():
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if status == 0:
        dist.destroy_process_group()
    os._exit(status)


def _environ(name: str, default: int, environ: Mapping[str, str] | None = None) -> int:
    try:
        return int((environ or os.environ).get(name, default))
    except ValueError:
        raise UsageError(f"{name}: {os.environ.get(name)!r} is not a number; start the job with torchrun") from None
