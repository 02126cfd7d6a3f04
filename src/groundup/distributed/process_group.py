"""Processes that train together, as one of them sees them.

torchrun, or SLURM's srun, starts the same command once per core or GPU; environment variables give each its rank.
"""

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from typing_extensions import override

from groundup.errors import ConfigError, GroundupError, TrainingError


class ProcessGroup:
    """Collective operations over all processes; this base class is a group of one. All processes must call a method."""

    rank, size = 0, 1
    local_rank, local_size = 0, 1  # among the processes on this machine

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank."""
        return flag

    def max(self, number: int) -> int:
        """The largest of all ranks' numbers."""
        return number

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's value, of JSON's types; where there are several processes, a tuple arrives as a list."""
        return value

    def all_gather_object(self, value: Any) -> list[Any]:
        """All ranks' values, by rank; of JSON's types, as with `broadcast_object`."""
        return [value]

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum all ranks' tensors in place, on the device where they are."""
        return tensor

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy rank 0's numbers into the tensor."""
        return tensor


SINGLE_PROCESS = ProcessGroup()


class TorchProcessGroup(ProcessGroup):
    """Process group over torch.distributed: gloo for what is on a CPU, NCCL for what is on a GPU."""

    def __init__(self, local_rank: int, local_size: int) -> None:
        """torch.distributed must have been initialised."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank, self.local_size = local_rank, local_size

    @override
    def any(self, flag: bool) -> bool:
        return self.max(int(flag)) > 0

    @override
    def max(self, number: int) -> int:
        box = torch.tensor(number)
        collective(self.rank, lambda: dist.all_reduce(box, dist.ReduceOp.MAX))
        return int(box.item())

    @override
    def broadcast_object(self, value: Any) -> Any:
        text = _as_bytes(value) if self.rank == 0 else torch.empty(0, dtype=torch.uint8)
        size = int(self.broadcast(torch.tensor(len(text))).item())
        return _from_bytes(self.broadcast(text if self.rank == 0 else text.new_empty(size)))

    @override
    def all_gather_object(self, value: Any) -> list[Any]:
        text = _as_bytes(value)
        padded = text.new_full((self.max(len(text)),), ord(" "))
        texts = [torch.empty_like(padded) for _ in range(self.size)]
        padded[: len(text)] = text
        collective(self.rank, lambda: dist.all_gather(texts, padded))
        return [_from_bytes(each) for each in texts]

    @override
    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        collective(self.rank, lambda: dist.all_reduce(tensor))
        return tensor

    @override
    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        collective(self.rank, lambda: dist.broadcast(tensor, src=0))
        return tensor


# Torch's own functions for objects unpickle, and so would execute, what another process sends.
def _as_bytes(value: object) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(value), "ascii"), dtype=torch.uint8)


def _from_bytes(text: torch.Tensor) -> Any:
    return json.loads(bytes(text.tolist()))


def collective(rank: int, work: Callable[[], object]) -> None:
    """Run a collective operation; LostError if a process of the group is gone."""
    try:
        work()
    except RuntimeError as error:
        if not peer_is_lost(error):
            raise
        raise LostError(rank, error) from error


class BroadcastTensors(Mapping[str, torch.Tensor]):
    """Mapping of tensors held by rank 0.

    Each lookup broadcasts one tensor, so all ranks must look up the same names in the same order.
    """

    def __init__(self, process_group: ProcessGroup, tensors: Mapping[str, torch.Tensor]) -> None:
        """`tensors` are read on rank 0 only."""
        self._process_group, self._tensors = process_group, tensors
        shapes = {name: [list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in tensors.items()}
        self._shapes = process_group.broadcast_object(shapes)

    def __getitem__(self, name: str) -> torch.Tensor:
        shape, dtype = self._shapes[name]
        held = self._process_group.rank == 0
        return self._process_group.broadcast(
            self._tensors[name].contiguous() if held else torch.empty(shape, dtype=getattr(torch, dtype))
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class LostError(TrainingError):
    """Another process of the job has ended, or cannot be reached."""

    def __init__(self, rank: int, error: RuntimeError) -> None:
        how = next((text for text in LOST_PEER_MESSAGES if text in str(error)), str(error)[:120])
        super().__init__(
            f"process {rank}: another process of this job has ended ({how}); its own message says why, and "
            "`groundup resume RUN` continues from the last checkpoint"
        )


# Parts of the RuntimeErrors that gloo and NCCL raise when the other side is gone.
LOST_PEER_MESSAGES = (
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "Read error",
    "Application timeout", "Timed out waiting", "ncclRemoteError", "Socket closed", "wait timeout",
)  # fmt: skip


def peer_is_lost(error: RuntimeError) -> bool:
    """Whether an error of torch means that another process cannot be reached."""
    nccl = isinstance(error, dist.DistBackendError)  # NCCL's own trouble: a full /dev/shm, one GPU for two processes
    return (isinstance(error, dist.DistError) and not nccl) or any(text in str(error) for text in LOST_PEER_MESSAGES)


def nccl_message(error: RuntimeError) -> str | None:
    """The complaint in an error of NCCL, without its stack; None for other errors."""
    if not isinstance(error, dist.DistBackendError):
        return None
    return " ".join(str(error).rpartition("Last error:")[2].split())[:300]


def require_same(process_group: ProcessGroup, what: str, value: object, remedy: str) -> None:
    """GroundupError where the processes differ in what must be equal on all of them."""
    values = process_group.all_gather_object([socket.gethostname(), value])
    for rank, (host, theirs) in enumerate(values):
        if theirs != values[0][1]:
            raise GroundupError(
                f"process {rank} on {host}: {what} {theirs}, but {values[0][1]} on {values[0][0]}; {remedy}"
            )


def own_device(wanted: str, process_group: ProcessGroup) -> torch.device:
    """This process's device: each process of a machine has a GPU of its own.

    ConfigError where two processes would share one, or where one GPU is named for all. A process may see only its own
    GPU, as with srun's `--gpus-per-task 1`.
    """
    device = torch.device(wanted)
    if process_group.size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise ConfigError(f"train.device: {wanted} cannot be shared by {process_group.size} processes; use cuda or cpu")
    device = torch.device("cuda", process_group.local_rank % torch.cuda.device_count())
    gpu = [socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid)]
    gpus = process_group.all_gather_object(gpu)
    for rank, (host, uuid) in enumerate(gpus):
        if [host, uuid] in gpus[:rank]:
            first = gpus.index([host, uuid])
            raise ConfigError(
                f"train.device: processes {first} and {rank} on {host} would share one GPU; start no more processes "
                "there than it has GPUs"
            )
    return device
