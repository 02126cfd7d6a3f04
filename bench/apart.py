"""Trainings in separate processes, started step by step over a pipe: none shares memory or a compiler with another, and
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
Make = Callable[[], AbstractContextManager[Trainee]]  # whatever can be pickled


@dataclass(frozen=True)
class Answer:
    """What some steps were like."""

    seconds: float
    losses: list[float]
    peak: int  # bytes, the most that the process ever held


class Failed(Exception):  # noqa: N818 - said of a contender, and no error of ours
    """A contender cannot do it here; the reason in one line."""


class Worker:
    """A process with one training."""

    def __init__(self, make: Make, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would begin with our memory
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, make, threads), daemon=True)
        self._process.start()
        theirs.close()

    def train(self, steps: int) -> Answer:
        """Let it train; Failed where it cannot."""
        return asked(self._pipe, steps)

    def close(self) -> None:
        """End it."""
        self._pipe.close()
        self._process.join()


def asked(pipe: Connection[Any, Any], steps: int) -> Answer:
    """Send a request to `serve`, and wait for what it answers; Failed where it cannot, or is gone."""
    with suppress(OSError):  # it may have failed before it was asked, and its last words wait
        pipe.send(steps)
    try:
        answer = pipe.recv()
    except (EOFError, OSError) as error:
        raise Failed("its process ended") from error
    if isinstance(answer, str):
        raise Failed(answer)
    return answer


def serve(pipe: Connection[Any, Any], make: Make, threads: int) -> None:
    """What runs in the process: train as many steps as is asked for, again and again, until the pipe is closed."""
    torch.set_num_threads(threads)
    with pipe:
        try:
            with make() as trainee:
                while True:
                    pipe.send(answer(trainee, pipe.recv()))
        except EOFError:
            pass
        except Exception as error:  # a peer fails in any way there is, and the others go on
            pipe.send(reason(error))


def answer(trainee: Trainee, steps: int) -> Answer:
    """Let it train, and look at the clock; a GPU is waited for."""
    start = time.perf_counter()
    losses = trainee.train(steps) if steps else []
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return Answer(time.perf_counter() - start, losses, peak_bytes())


def reason(error: Exception) -> str:
    """In one line."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}"[:200]


class Here:
    """A training in this very process: its memory is everyone's. For rehearsals and tests."""

    def __init__(self, make: Make) -> None:
        self._make, self._stack = make, ExitStack()
        self._trainee: Trainee | None = None

    def train(self, steps: int) -> Answer:
        """Let it train; Failed where it cannot."""
        try:
            if self._trainee is None:
                self._trainee = self._stack.enter_context(self._make())
            return answer(self._trainee, steps)
        except Exception as error:
            raise Failed(reason(error)) from error

    def close(self) -> None:
        """End it."""
        self._stack.close()


def peak_bytes() -> int:
    """The most memory that this process ever held: of the GPU, by tensors, where it uses one, else its own.

    On Linux `VmHWM` and not getrusage's `ru_maxrss`: that one survives exec, so a small child of a large process would
    tell its parent's.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if STATUS.exists():
        line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
