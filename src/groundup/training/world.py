"""The processes that train together, seen from one of them.

torchrun, or SLURM's srun, starts the same command once a core or GPU and tells each, by its environment, which one it
is. Whatever is decided once is decided by the first process; whatever all need to know is asked of all.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from groundup.errors import GroundupError, TrainingError, UsageError

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)  # for the slowest of the processes, say while it writes a large checkpoint
PORT = 29500  # torchrun's own; a SLURM job takes one of the 1,000 from here on, by its number


class World(Protocol):
    """What a process may ask of the others. Every method but the attributes is a meeting: all must call it."""

    rank: int  # of this process among all, from 0
    size: int  # processes
    local_rank: int  # among those on this machine
    local_size: int

    def any(self, flag: bool) -> bool:
        """Whether it is so for one of them at least."""
        ...

    def highest(self, number: int) -> int:
        """The highest of everyone's numbers."""
        ...

    def first(self, value: T) -> T:
        """The first process's value, for all of them."""
        ...

    def gathered(self, value: T) -> list[T]:
        """Everyone's value, by rank."""
        ...

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add up everyone's tensor, in place; on the device where it lies."""
        ...

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Put the first process's numbers into everyone's tensor."""
        ...


class Alone:
    """A process without others."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def highest(self, number: int) -> int:
        """The number."""
        return number

    def first(self, value: T) -> T:
        """The value."""
        return value

    def gathered(self, value: T) -> list[T]:
        """The one value."""
        return [value]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor."""
        return tensor

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor."""
        return tensor


class Together:
    """One of several processes, over torch.distributed: gloo for what is on a CPU, NCCL for what is on a GPU."""

    def __init__(self, local_rank: int, local_size: int) -> None:
        """The process group must have been joined."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank, self.local_size = local_rank, local_size

    def any(self, flag: bool) -> bool:
        """Whether it is so for one of them at least."""
        return self.highest(int(flag)) > 0

    def highest(self, number: int) -> int:
        """The highest of everyone's numbers."""
        box = torch.tensor(number)
        self._meet(lambda: dist.all_reduce(box, dist.ReduceOp.MAX))
        return int(box.item())

    def first(self, value: T) -> T:
        """The first process's value, for all of them."""
        box = [value]
        self._meet(lambda: dist.broadcast_object_list(box, device=torch.device("cpu")))
        return box[0]

    def gathered(self, value: T) -> list[T]:
        """Everyone's value, by rank."""
        found: list[Any] = [None] * self.size
        self._meet(lambda: dist.all_gather_object(found, value))
        return found

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add up everyone's tensor, in place; on the device where it lies."""
        self._meet(lambda: dist.all_reduce(tensor))
        return tensor

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Put the first process's numbers into everyone's tensor."""
        self._meet(lambda: dist.broadcast(tensor, src=0))
        return tensor

    def _meet(self, work: Callable[[], object]) -> None:
        try:
            work()
        except RuntimeError as error:
            if not gone(error):
                raise
            raise LostError(self.rank, error) from error


class Spread(Mapping[str, torch.Tensor]):
    """Tensors that the first process alone can read. Each is sent to all when it is asked for: all must ask alike."""

    def __init__(self, world: World, tensors: Mapping[str, torch.Tensor]) -> None:
        """`tensors` count on the first process only."""
        self._world, self._tensors = world, tensors
        self._shapes = world.first({name: (tuple(t.shape), t.dtype) for name, t in tensors.items()})

    def __getitem__(self, name: str) -> torch.Tensor:
        shape, dtype = self._shapes[name]
        mine = self._world.rank == 0
        return self._world.broadcast(self._tensors[name].contiguous() if mine else torch.empty(shape, dtype=dtype))

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class LostError(TrainingError):
    """Another process of the job has ended, or cannot be reached."""

    def __init__(self, rank: int, said: RuntimeError) -> None:
        how = next((words for words in GONE if words in str(said)), str(said)[:120])
        super().__init__(
            f"process {rank}: another process of this job has ended ({how}); its own message says why, and "
            "`groundup resume RUN` goes on from the last checkpoint"
        )


# What gloo and NCCL say in a RuntimeError when the other side is gone.
GONE = (
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "Read error",
    "Application timeout", "Timed out waiting", "NCCL error", "Socket closed", "wait timeout",
)  # fmt: skip


def gone(error: RuntimeError) -> bool:
    """Whether torch says that another process cannot be reached."""
    return isinstance(error, dist.DistError) or any(words in str(error) for words in GONE)


def expected(environ: Mapping[str, str] = os.environ) -> int:
    """How many processes were started together, as torchrun or srun tells; 1 where nobody does."""
    return _environ("WORLD_SIZE", 1, environ) if "RANK" in environ else _environ("SLURM_STEP_NUM_TASKS", 1, environ)


def join(patience: timedelta = PATIENCE) -> World:
    """The world that the environment speaks of, joined at the first call; TrainingError where it does not come up.

    Understood are torchrun's variables (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, …), and those that srun
    gives each task of a step. `patience` is for all to come, and for each meeting.
    """
    if "RANK" not in os.environ and _environ("SLURM_STEP_NUM_TASKS", 1) > 1:
        os.environ.update(from_slurm(os.environ))
    if expected() == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        return Alone()
    if not dist.is_initialized():
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UsageError(f"{missing[0]}: not set, though others like it are; start the job with torchrun")
        _connect(patience)
    return Together(_environ("LOCAL_RANK", 0), _environ("LOCAL_WORLD_SIZE", 1))


def _connect(patience: timedelta) -> None:
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    if gpus:
        torch.cuda.set_device(_environ("LOCAL_RANK", 0) % torch.cuda.device_count())
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=patience))  # type: ignore[attr-defined]
        # torchrun keeps its store when it starts the processes again, and in it the addresses of those that are gone.
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"groundup/{again}", store)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            f"{place}: the processes of this job did not meet there ({str(error).splitlines()[0][:200]}); on a machine "
            "with several networks, name one with GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
        ) from error


def from_slurm(environ: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables from those of a task that srun started."""
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environ.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": environ.get("SLURM_STEP_TASKS_PER_NODE", "1").partition("(")[0].partition(",")[0],
        "MASTER_ADDR": environ.get("MASTER_ADDR") or first_host(nodes),
        "MASTER_PORT": environ.get("MASTER_PORT") or str(PORT + int(environ.get("SLURM_JOB_ID", "0")) % 1000),
    }


def first_host(nodes: str) -> str:
    """The first machine of a SLURM node list: `gpu[03-07,11],cpu1` -> `gpu03`."""
    found = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    return found[1] + (found[2] or "") if found else socket.gethostname()


def leave(status: int, said: str = "") -> None:
    """End this process, and its part in the job, with last words and an exit status; without a job, do nothing.

    At once: gloo's threads, when they outlive torch's at the end of a process, abort it in about a third of all runs.
    """
    if not dist.is_initialized():
        return
    with suppress(OSError, ValueError):
        sys.stderr.write(said)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if status == 0:
        dist.destroy_process_group()
    os._exit(status)


def agreed(world: World, what: str, value: object, remedy: str) -> None:
    """GroundupError where the processes differ in what must be equal on all of them."""
    everyone = world.gathered((socket.gethostname(), value))
    for rank, (host, theirs) in enumerate(everyone):
        if theirs != everyone[0][1]:
            raise GroundupError(
                f"process {rank} on {host}: {what} {theirs}, but {everyone[0][1]} on {everyone[0][0]}; {remedy}"
            )


def _environ(name: str, default: int, environ: Mapping[str, str] | None = None) -> int:
    try:
        return int((environ or os.environ).get(name, default))
    except ValueError:
        raise UsageError(f"{name}: {os.environ.get(name)!r} is no number; start the job with torchrun") from None
