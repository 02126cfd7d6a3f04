"""Checks of a job of several processes before training: all join, with equal versions and data and one GPU each."""

import os
import platform
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch

from groundup.data.shards import Manifest, check_files
from groundup.diagnostics.finding import Finding, problem
from groundup.distributed.launch import expected_world_size, init_distributed
from groundup.errors import GroundupError, TrainingError, UsageError
from groundup.utils.ranks import is_rank_0
from groundup.utils.system import own_version

ABOUT = "job"


@dataclass(frozen=True)
class ProcessInfo:
    """One process of the job."""

    rank: int
    host: str
    local_rank: int
    versions: dict[str, str]
    gpus: list[str]  # models of all GPUs that it sees
    gpu: str | None  # unique id of its own GPU; None if it has none
    data: dict[str, str]  # folder -> fingerprint
    errors: dict[str, str]  # folder -> why it cannot be used

    def __str__(self) -> str:
        return f"process {self.rank} on {self.host}"


def check_job(paths: Sequence[Path], data: Path | None, timeout_s: float) -> Iterator[Finding]:
    """Check the job that this process is part of. All its processes must call it, and all get the same findings.

    `data`, and those of `paths` that hold prepared data in some process, are compared. UsageError without a launcher;
    TrainingError in processes other than the first when not all join within `timeout_s` seconds.
    """
    if expected_world_size() == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise UsageError(
            "--distributed: this process was started alone; start all of the job's, as with "
            "`torchrun --nproc-per-node 2 -m groundup doctor --distributed`"
        )
    folders = list(dict.fromkeys([*paths, *([data] if data else [])]))
    try:
        process_group = init_distributed(timedelta(seconds=timeout_s))
        own = _process_info(process_group.rank, process_group.local_rank, folders)
        infos = [ProcessInfo(**values) for values in process_group.all_gather_object(asdict(own))]
    except TrainingError as error:
        if not is_rank_0():
            raise
        yield problem(ABOUT, "processes", error)
        return
    hosts = sorted({info.host for info in infos})
    values = {"processes": len(infos), "hosts": hosts}
    yield Finding(ABOUT, "processes", "ok", f"{len(infos)} joined, on {', '.join(hosts)}", values=values)
    yield from check_versions(infos)
    yield from check_gpus(infos)
    named = [str(path) for path in folders if path == data or any(str(path) in info.data for info in infos)]
    yield from (finding for folder in named for finding in check_same_data(infos, folder))


def _process_info(rank: int, local_rank: int, folders: Sequence[Path]) -> ProcessInfo:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    own = str(torch.cuda.get_device_properties(local_rank).uuid) if local_rank < len(gpus) else None
    versions = {"groundup": own_version(), "torch": torch.__version__, "Python": platform.python_version()}
    versions["CUDA"] = torch.version.cuda or "none"
    fingerprints, errors = {}, {}
    for folder in folders:
        try:
            manifest = Manifest.load(folder)
            check_files(folder, manifest, checksums=False)
            fingerprints[str(folder)] = manifest.fingerprint
        except GroundupError as error:
            errors[str(folder)] = str(error)
    return ProcessInfo(rank, socket.gethostname(), local_rank, versions, gpus, own, fingerprints, errors)


def check_versions(infos: Sequence[ProcessInfo]) -> Iterator[Finding]:
    """Whether all processes have the same versions."""
    versions = infos[0].versions
    differing = {name: difference(infos, [info.versions[name] for info in infos]) for name in versions}
    for name, sentence in differing.items():
        if sentence:
            yield Finding(ABOUT, "versions", "problem", f"{name}: {sentence}", f"install the same {name} everywhere")
    if not any(differing.values()):
        listed = ", ".join(f"{name} {version}" for name, version in versions.items())
        yield Finding(ABOUT, "versions", "ok", f"{listed}, on every process", values=versions)


def check_gpus(infos: Sequence[ProcessInfo]) -> Iterator[Finding]:
    """Whether each process has a GPU of its own, and all GPUs are of one model; or whether there are none."""
    if not any(info.gpus for info in infos):
        yield Finding(ABOUT, "GPUs", "ok", "none: all processes would train on CPUs")
        return
    owners: dict[str, ProcessInfo] = {}
    faults = []
    for info in infos:
        if info.gpu is None:
            faults.append(f"{info} has local rank {info.local_rank}, but sees {len(info.gpus)} GPUs")
        elif owners.setdefault(info.gpu, info) is not info:
            faults.append(f"{info} has the same GPU as {owners[info.gpu]}")
    remedy = "start no more processes per machine than it has GPUs; `nvidia-smi` lists them"
    yield from (Finding(ABOUT, "GPUs", "problem", fault, remedy) for fault in faults)
    models = [info.gpus[info.local_rank] for info in owners.values()]
    if sentence := difference(list(owners.values()), models):
        yield Finding(ABOUT, "GPUs", "warning", sentence, "use GPUs of one model: every step waits for the slowest")
    elif not faults:
        yield Finding(ABOUT, "GPUs", "ok", f"one per process, {models[0]}", values={"model": models[0]})


def check_same_data(infos: Sequence[ProcessInfo], folder: str) -> Iterator[Finding]:
    """Whether a prepared folder holds the same tokens for every process."""
    remedy = "copy one folder to all machines, or put it where all of them can read it"
    faults = dict.fromkeys(f"on {info.host}: {info.errors[folder]}" for info in infos if folder in info.errors)
    have = [info for info in infos if folder in info.data]
    differing = difference(have, [f"tokens {info.data[folder][:12]}" for info in have])
    faults |= {differing: None} if differing else {}
    yield from (Finding(folder, "data", "problem", fault, remedy) for fault in faults)
    if not faults:
        yield Finding(folder, "data", "ok", f"the same tokens, {have[0].data[folder][:12]}, on every process")


def difference(infos: Sequence[ProcessInfo], values: Sequence[str]) -> str:
    """The processes that have another value than most; empty if all values are equal."""
    if len(set(values)) < 2:
        return ""
    usual = Counter(values).most_common(1)[0][0]
    example = infos[values.index(usual)]
    odd = [f"{value} in {info}" for info, value in zip(infos, values, strict=True) if value != usual]
    return f"{', '.join(odd)}, but {usual} in {example}"
