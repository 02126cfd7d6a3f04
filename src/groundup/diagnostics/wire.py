"""What lies between the processes of a job: whether sums are right, how fast they are, and how far clocks are apart."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist

from groundup.distributed.process_group import ProcessGroup, collective

SMALL = 4  # bytes
LARGE = {"cpu": 32 << 20, "cuda": 256 << 20}  # bytes: gradients of a small GPT, and more than caches hold
SMALL_TIMES, WARM = 100, 10  # all-reduces
ENOUGH = 1.0  # seconds of large ones
ROUNDS = 8  # of ping-pong; the fastest one counts, as in NTP's clock filter (RFC 5905, section 10)


class AllReduce(NamedTuple):
    """What a sum over all processes takes."""

    wrong: list[int]  # the processes that got another result
    latency: float  # seconds of a small one
    bandwidth: float  # bytes/s on the busiest link, of a large one
    size: int  # bytes of the large one


class Clock(NamedTuple):
    """A process's clock, seen from the first one."""

    offset: float  # seconds that it is ahead
    error: float  # at most, in seconds: half the round trip


@contextmanager
def limited(what: str, seconds: float) -> Iterator[None]:
    """End this process with a sentence where `what` does not end in time: NCCL waits where gloo gives up."""

    def give_up() -> None:
        rank = os.environ.get("RANK", "0")
        sys.stderr.write(
            f"groundup: process {rank} on {socket.gethostname()}: {what} did not end within {seconds:g} s; another "
            "process has ended or is stuck, or the network between them lets nothing through\n"
        )
        sys.stderr.flush()
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def all_reduce(process_group: ProcessGroup, device: torch.device) -> AllReduce:
    """Sum a few numbers, then time a small and a large message; all must call it."""
    numbers = torch.arange(1000, dtype=torch.float64, device=device)
    got = process_group.all_reduce(numbers * (process_group.rank + 1))
    right = bool((got == numbers * (process_group.size * (process_group.size + 1) // 2)).all())
    wrong = [rank for rank, fine in enumerate(process_group.all_gather_object(right)) if not fine]

    small = torch.zeros(SMALL // 4, device=device)
    _seconds(process_group, small, WARM)
    latency = _seconds(process_group, small, SMALL_TIMES)

    large = torch.zeros(LARGE[device.type] // 4, device=device)
    once = _seconds(process_group, large, 1)
    each = _seconds(process_group, large, process_group.broadcast_object(min(20, max(1, int(ENOUGH / once)))))
    return AllReduce(wrong, latency, bus_bandwidth(process_group.size, LARGE[device.type], each), LARGE[device.type])


def bus_bandwidth(processes: int, n_bytes: int, seconds: float) -> float:
    """2·(n-1)/n · bytes / seconds, which stays the same for any n where links are the limit.

    As NCCL-tests have it (doc/PERFORMANCE.md): in a ring, so much of the message passes through each link.
    """
    return 2 * (processes - 1) / processes * n_bytes / seconds


def _seconds(process_group: ProcessGroup, tensor: torch.Tensor, times: int) -> float:
    """The mean time of an all-reduce, begun by all together."""
    process_group.any(False)
    _finish(tensor)
    began = time.perf_counter()
    for _ in range(times):
        process_group.all_reduce(tensor)
    _finish(tensor)
    return (time.perf_counter() - began) / times


def _finish(tensor: torch.Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)


def clocks(process_group: ProcessGroup) -> list[Clock]:
    """Every process's clock, by rank, on the first process; an empty list on the others. All must call it."""
    if process_group.rank:
        for _ in range(ROUNDS):
            _answer(process_group)
        process_group.any(False)
        return []
    found = [Clock(0.0, 0.0)]
    for rank in range(1, process_group.size):
        found.append(min((_ask(process_group, rank) for _ in range(ROUNDS)), key=lambda clock: clock.error))
    process_group.any(False)
    return found


def _ask(process_group: ProcessGroup, rank: int) -> Clock:
    """NTP's on-wire protocol (RFC 5905, section 8): t1 and t4 are read here, t2 and t3 there."""
    box = torch.zeros(2, dtype=torch.float64)
    t1 = time.time()
    collective(process_group.rank, lambda: dist.send(box, rank))
    collective(process_group.rank, lambda: dist.recv(box, rank))
    t4 = time.time()
    t2, t3 = box.tolist()
    return Clock(((t2 - t1) + (t3 - t4)) / 2, ((t4 - t1) - (t3 - t2)) / 2)


def _answer(process_group: ProcessGroup) -> None:
    box = torch.zeros(2, dtype=torch.float64)
    collective(process_group.rank, lambda: dist.recv(box, 0))
    t2 = time.time()
    box[0], box[1] = t2, time.time()
    collective(process_group.rank, lambda: dist.send(box, 0))
