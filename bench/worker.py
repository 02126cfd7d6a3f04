"""Training runs in separate processes, advanced step by step over a pipe: they share neither memory nor a compiler, and
each reports its peak memory.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from bench.contenders import Trainee

STATUS = Path("/proc/self/status")
Make = Callable[[], AbstractContextManager[Trainee]]  # must be picklable


@dataclass(frozen=True)
class Answer:
    """Time, losses and memory of some steps."""

    seconds: float
    losses: list[float]
    peak: int  # bytes, peak of the process


class Failed(Exception):  # noqa: N818 - a contender's failure, not an error of ours
    """A contender cannot run here; the reason in one line."""


class Worker:
    """A process with one training run."""

    def __init__(self, make: Make, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would start with our memory
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, make, threads), daemon=True)
        self._process.start()
        theirs.close()

    def train(self, steps: int) -> Answer:
        """Train `steps` steps; Failed if it cannot."""
        return request(self._pipe, steps)

    def close(self) -> None:
        """End the run."""
        self._pipe.close()
        self._process.join()


def request(pipe: Connection[Any, Any], steps: int) -> Answer:
    """Send a request to `serve` and wait for the answer; Failed if it cannot train or its process ended."""
    with suppress(OSError):  # it may have failed earlier, and its message is in the pipe
        pipe.send(steps)
    try:
        answer = pipe.recv()
    except (EOFError, OSError) as error:
        raise Failed("its process ended") from error
    if isinstance(answer, str):
        raise Failed(answer)
    return answer


def serve(pipe: Connection[Any, Any], make: Make, threads: int) -> None:
    """Main loop of the process: train as many steps as each request says, until the pipe is closed."""
    torch.set_num_threads(threads)
    with pipe:
        try:
            with make() as trainee:
                while True:
                    pipe.send(answer(trainee, pipe.recv()))
        except EOFError:
            pass
        except Exception as error:  # peers can raise anything; the others continue
            pipe.send(reason(error))


def answer(trainee: Trainee, steps: int) -> Answer:
    """Train and measure; waits for the GPU."""
    start = time.perf_counter()
    losses = trainee.train(steps) if steps else []
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return Answer(time.perf_counter() - start, losses, peak_bytes())


def reason(error: Exception) -> str:
    """Exception as one line."""
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {message}"[:200]


class InProcess:
    """A training run in this process, which shares its memory. For dry runs and tests."""

    def __init__(self, make: Make) -> None:
        self._make, self._stack = make, ExitStack()
        self._trainee: Trainee | None = None

    def train(self, steps: int) -> Answer:
        """Train `steps` steps; Failed if it cannot."""
        try:
            if self._trainee is None:
                self._trainee = self._stack.enter_context(self._make())
            return answer(self._trainee, steps)
        except Exception as error:
            raise Failed(reason(error)) from error

    def close(self) -> None:
        """End the run."""
        self._stack.close()


def peak_bytes() -> int:
    """Peak memory of this process: of tensors on the GPU if it uses one, else resident memory.

    On Linux `VmHWM` and not getrusage's `ru_maxrss`: that one survives exec, so a small child of a large process would
    report its parent's.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if STATUS.exists():
        line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
