"""Who came to a job, and what each brings, over torch's key-value store: it works where nothing else does yet."""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from groundup import __version__
from groundup.data.shards import Manifest
from groundup.distributed.launch import expected_world_size, from_slurm
from groundup.errors import GroundupError, TrainingError, UsageError

PREFIX, VERDICT = "groundup-doctor", "verdict"
LAST = 0.5  # seconds that the first process stays for the others to hear it
PAUSE = 0.2  # seconds between two attempts
REMEDY = "see that every machine was started, and that name and port can be reached from all"


@dataclass(frozen=True)
class Facts:
    """One process, as it says itself."""

    rank: int
    local_rank: int
    host: str
    launcher: str  # which torchrun, or which SLURM node
    versions: dict[str, str]
    gpus: tuple[str, ...]  # the models of all that it sees
    gpu: str | None  # which one of the world's is its own; None where it has none
    data: dict[str, str]  # folder -> fingerprint
    faults: dict[str, str]  # folder -> why it has none


def launched() -> int:
    """How many processes a launcher has started; UsageError where there is none."""
    if "RANK" not in os.environ and expected_world_size() > 1:
        os.environ.update(from_slurm(os.environ))
    if "RANK" not in os.environ or (expected_world_size() == 1 and "TORCHELASTIC_RUN_ID" not in os.environ):
        raise UsageError(
            "--distributed: this process was started alone; start all of the job's, as with "
            "`torchrun --nproc-per-node 2 -m groundup doctor --distributed`"
        )
    return expected_world_size()


def own_facts(folders: Iterable[Path]) -> Facts:
    """This process's own."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    models = gpus()
    data, faults = {}, {}
    for folder in folders:
        try:
            data[str(folder)] = Manifest.load(folder).fingerprint
        except GroundupError as error:
            faults[str(folder)] = str(error)
    return Facts(
        rank=int(os.environ["RANK"]),
        local_rank=local,
        host=socket.gethostname(),
        launcher=os.environ.get("GROUP_RANK", os.environ.get("SLURM_NODEID", "0")),
        versions=versions(),
        gpus=models,
        gpu=identity(local) if local < len(models) else None,
        data=data,
        faults=faults,
    )


def versions() -> dict[str, str]:
    """What must be the same everywhere."""
    return {
        "groundup": __version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "CUDA": torch.version.cuda or "none",
    }


def gpus() -> tuple[str, ...]:
    """The models of those that this process sees."""
    return tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def identity(index: int) -> str:
    """What tells one GPU of the world from any other."""
    return str(torch.cuda.get_device_properties(index).uuid)


def reach(host: str, port: int, patience: float) -> None:
    """Wait until somebody listens there; the last OSError where nobody does. torch would say it in a page of C++."""
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic())).close()
            return
        except OSError:
            if time.monotonic() + PAUSE > deadline:
                raise
            time.sleep(PAUSE)


class RollCall:
    """Everyone writes down what it has; the first process reads it, and says whether all go on."""

    def __init__(self, rank: int, size: int, patience: float) -> None:
        """TrainingError where the meeting point cannot be reached in time; `patience` in seconds."""
        self._rank, self._size, self._patience = rank, size, patience
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UsageError(f"{missing[0]}: not set, though RANK is; start the job with torchrun")
        self.place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        hosting = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        try:
            if not hosting:
                reach(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), patience)
            store = dist.TCPStore(  # type: ignore[attr-defined]
                os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, hosting,
                timeout=timedelta(seconds=patience), wait_for_workers=False, multi_tenant=True,
            )  # fmt: skip
        except (RuntimeError, ValueError, OSError) as error:
            raise self._lost(f"cannot be reached within {patience:g} s", error) from error
        self._store = dist.PrefixStore(  # type: ignore[attr-defined]
            f"{PREFIX}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store
        )

    def answer(self, mine: Facts) -> bool:
        """Write down this process's facts and wait; whether all go on. For all but the first."""
        try:
            self._store.set(str(self._rank), json.dumps(asdict(mine)))
            self._store.wait([VERDICT], timedelta(seconds=self._patience + 2 * LAST))
            return self._store.get(VERDICT) == b"go"
        except RuntimeError as error:
            raise self._lost("the first process has ended, or is stuck", error) from error

    def collect(self, mine: Facts) -> list[Facts]:
        """Everyone who came in time, by rank. For the first."""
        found, deadline = {0: mine}, time.monotonic() + self._patience
        while len(found) < self._size and time.monotonic() < deadline:
            for rank in (rank for rank in range(self._size) if rank not in found):
                if self._store.check([str(rank)]):
                    found[rank] = _read(self._store.get(str(rank)))
            time.sleep(0.02)
        return [found[rank] for rank in sorted(found)]

    def say(self, go: bool) -> None:
        """Tell the others whether all go on."""
        self._store.set(VERDICT, "go" if go else "stop")
        if not go:
            time.sleep(LAST)

    def _lost(self, what: str, error: Exception) -> TrainingError:
        said = str(error).strip().splitlines()[0][:160]
        return TrainingError(f"{self.place}: process {self._rank} on {socket.gethostname()}: {what} ({said}); {REMEDY}")


def _read(text: bytes) -> Facts:
    values = json.loads(text)
    return Facts(**{**values, "gpus": tuple(values["gpus"])})
