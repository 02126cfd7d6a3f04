"""Jobs of several processes for tests, forked from one that has imported torch, so that they start at once."""

import json
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fork_server import IMPORTED

PATIENCE = 300  # seconds for a complete job; less than the time limit of a collective

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*IMPORTED, "torch.distributed.fsdp", "torch.nn.parallel"])


def free_port() -> int:
    """A free TCP port of this machine."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(size: int, work: Callable[..., Any], *args: Any, place: Path, environ: dict[str, str] | None = None):
    """Start `size` processes that call `work(*args)`; results are written to `place/RANK.json`."""
    port = str(free_port())
    processes = []
    for rank in range(size):
        variables = {
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            **(environ or {}),
        }
        process = _context.Process(target=_enter, args=(variables, place / f"{rank}.json", work, args))
        process.start()
        processes.append(process)
    return processes


def ended(processes: list[BaseProcess]) -> list[int | None]:
    """Wait for the processes; returns exit statuses, fails if one does not end."""
    for process in processes:
        process.join(PATIENCE)
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
    assert not late, f"{len(late)} processes did not end in {PATIENCE} s"
    return [process.exitcode for process in processes]


def finish(processes: list[BaseProcess], place: Path) -> list[Any]:
    """Wait for the processes; returns results by rank, fails if one failed."""
    assert ended(processes) == [0] * len(processes)
    return [json.loads((place / f"{rank}.json").read_text()) for rank in range(len(processes))]


def run(size: int, work: Callable[..., Any], *args: Any, place: Path, environ: dict[str, str] | None = None):
    """Start a job and return its results."""
    place.mkdir(parents=True, exist_ok=True)
    return finish(start(size, work, *args, place=place, environ=environ), place)


def _enter(variables: dict[str, str], answer: Path, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Do the work as one process of a job, none of which unpickles what another one sends."""
    from torch.distributed import distributed_c10d

    from groundup.distributed.launch import exit_process

    os.environ.update(variables)
    for name in ("_object_to_tensor", "_tensor_to_object"):  # torch's own, which pickle
        assert hasattr(distributed_c10d, name)
        setattr(distributed_c10d, name, None)
    status = 0
    try:
        answer.write_text(json.dumps(work(*args)))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    exit_process(status)
    sys.stdout.flush()
    os._exit(status)
