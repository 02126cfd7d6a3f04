"""The processes that train together, seen from one of them.

torchrun, or SLURM's srun, starts the same command once a core or GPU and tells each, by its environment, which one it
is. Whatever is decided once is decided by the first process; whatever all need to know is asked of all.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from groundup.errors import ConfigError, GroundupError, TrainingError

T = TypeVar("T")


class ProcessGroup(Protocol):
    """What a process may ask of the others. Every method but the attributes is a meeting: all must call it."""

    rank: int  # of this process among all, from 0
    size: int  # processes
    local_rank: int  # among those on this machine
    local_size: int

    def any(self, flag: bool) -> bool:
        """Whether it is so for one of them at least."""
        ...

    def max(self, number: int) -> int:
        """The highest of everyone's numbers."""
        ...

    def broadcast_object(self, value: T) -> T:
        """The first process's value, for all of them."""
        ...

    def all_gather_object(self, value: T) -> list[T]:
        """Everyone's value, by rank."""
        ...

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add up everyone's tensor, in place; on the device where it lies."""
        ...

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Put the first process's numbers into everyone's tensor."""
        ...


class SingleProcess:
    """A process without others."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def max(self, number: int) -> int:
        """The number."""
        return number

    def broadcast_object(self, value: T) -> T:
        """The value."""
        return value

    def all_gather_object(self, value: T) -> list[T]:
        """The one value."""
        return [value]

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor."""
        return tensor

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor."""
        return tensor


class TorchProcessGroup:
    """One of several processes, over torch.distributed: gloo for what is on a CPU, NCCL for what is on a GPU."""

    def __init__(self, local_rank: int, local_size: int) -> None:
        """The process group must have been joined."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank, self.local_size = local_rank, local_size

    def any(self, flag: bool) -> bool:
        """Whether it is so for one of them at least."""
        return self.max(int(flag)) > 0

    def max(self, number: int) -> int:
        """The highest of everyone's numbers."""
        box = torch.tensor(number)
        self._meet(lambda: dist.all_reduce(box, dist.ReduceOp.MAX))
        return int(box.item())

    def broadcast_object(self, value: T) -> T:
        """The first process's value, for all of them."""
        box = [value]
        self._meet(lambda: dist.broadcast_object_list(box, device=torch.device("cpu")))
        return box[0]

    def all_gather_object(self, value: T) -> list[T]:
        """Everyone's value, by rank."""
        found: list[Any] = [None] * self.size
        self._meet(lambda: dist.all_gather_object(found, value))
        return found

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add up everyone's tensor, in place; on the device where it lies."""
        self._meet(lambda: dist.all_reduce(tensor))
        return tensor

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Put the first process's numbers into everyone's tensor."""
        self._meet(lambda: dist.broadcast(tensor, src=0))
        return tensor

    def _meet(self, work: Callable[[], object]) -> None:
        collective(self.rank, work)


def collective(rank: int, work: Callable[[], object]) -> None:
    """Do what needs other processes; LostError where one of them is gone."""
    try:
        work()
    except RuntimeError as error:
        if not peer_is_lost(error):
            raise
        raise LostError(rank, error) from error


class BroadcastTensors(Mapping[str, torch.Tensor]):
    """Tensors that the first process alone can read. Each is sent to all when it is asked for: all must ask alike."""

    def __init__(self, process_group: ProcessGroup, tensors: Mapping[str, torch.Tensor]) -> None:
        """`tensors` count on the first process only."""
        self._process_group, self._tensors = process_group, tensors
        self._shapes = process_group.broadcast_object({name: (tuple(t.shape), t.dtype) for name, t in tensors.items()})

    def __getitem__(self, name: str) -> torch.Tensor:
        shape, dtype = self._shapes[name]
        mine = self._process_group.rank == 0
        return self._process_group.broadcast(
            self._tensors[name].contiguous() if mine else torch.empty(shape, dtype=dtype)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class LostError(TrainingError):
    """Another process of the job has ended, or cannot be reached."""

    def __init__(self, rank: int, said: RuntimeError) -> None:
        how = next((words for words in LOST_PEER_MESSAGES if words in str(said)), str(said)[:120])
        super().__init__(
            f"process {rank}: another process of this job has ended ({how}); its own message says why, and "
            "`groundup resume RUN` goes on from the last checkpoint"
        )


# What gloo and NCCL say in a RuntimeError when the other side is gone.
LOST_PEER_MESSAGES = (
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "Read error",
    "Application timeout", "Timed out waiting", "ncclRemoteError", "Socket closed", "wait timeout",
)  # fmt: skip


def peer_is_lost(error: RuntimeError) -> bool:
    """Whether torch says that another process cannot be reached."""
    ours = isinstance(error, dist.DistBackendError)  # NCCL's: a full /dev/shm, a GPU for two
    return (isinstance(error, dist.DistError) and not ours) or any(words in str(error) for words in LOST_PEER_MESSAGES)


def said_by_nccl(error: RuntimeError) -> str | None:
    """What NCCL complains about, where it does, without its stack."""
    if not isinstance(error, dist.DistBackendError):
        return None
    return " ".join(str(error).rpartition("Last error:")[2].split())[:300]


def require_same(process_group: ProcessGroup, what: str, value: object, remedy: str) -> None:
    """GroundupError where the processes differ in what must be equal on all of them."""
    everyone = process_group.all_gather_object((socket.gethostname(), value))
    for rank, (host, theirs) in enumerate(everyone):
        if theirs != everyone[0][1]:
            raise GroundupError(
                f"process {rank} on {host}: {what} {theirs}, but {everyone[0][1]} on {everyone[0][0]}; {remedy}"
            )


def own_device(wanted: str, process_group: ProcessGroup) -> torch.device:
    """This process's device: of the GPUs of a machine, each process there has its own.

    ConfigError where two processes have the same, or where one is named for all. A process may see one GPU alone, its
    own, as with srun's `--gpus-per-task 1`.
    """
    device = torch.device(wanted)
    if process_group.size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise ConfigError(f"train.device: {wanted} cannot be shared by {process_group.size} processes; use cuda or cpu")
    device = torch.device("cuda", process_group.local_rank % torch.cuda.device_count())
    everyone = process_group.all_gather_object(
        (socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid))
    )
    for rank, (host, gpu) in enumerate(everyone):
        if (host, gpu) in everyone[:rank]:
            first = everyone.index((host, gpu))
            raise ConfigError(
                f"train.device: processes {first} and {rank} on {host} would share one GPU; start no more processes "
                "there than it has GPUs"
            )
    return device
