"""A job of several processes, examined before hours are spent on it.

Everyone takes part; findings are whole on the first process alone, which tells them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import torch
import torch.distributed as dist

from groundup.data.shards import Manifest, check_files
from groundup.diagnostics import machine
from groundup.diagnostics.finding import Finding, problem
from groundup.diagnostics.rollcall import Facts, RollCall, launched, own_facts
from groundup.diagnostics.roster import ABOUT, absent, alike, cards, faults, kinds, met, one
from groundup.diagnostics.wire import AllReduce, Clock, all_reduce, clocks, limited
from groundup.distributed.launch import init_distributed
from groundup.distributed.process_group import LostError, ProcessGroup
from groundup.errors import DataError, GroundupError

PATIENCE = 60.0  # seconds
SKEW = 1.0  # seconds that clocks may be apart; time limits and budgets are read from them
LONGER = 2.0  # seconds after gloo's own limit
CHUNK = 8 << 20  # bytes read at a time
BEAT = 0.2  # seconds between two meetings of processes that wait for a reader
GPT2 = 4 * 124_439_808  # bytes of gpt2's gradients in fp32


def examine(paths: Sequence[Path], data: Path | None, patience: float) -> Iterator[Finding]:
    """What is right and wrong with the job that this process is part of; UsageError without a launcher.

    Of `paths`, those that hold prepared data on some machine are compared, as is `data`; the first other is where the
    run would be. `patience`: seconds to wait for the other processes.
    """
    began, size = time.monotonic(), launched()
    mine = own_facts(dict.fromkeys([*paths, *([data] if data else [])]))
    call = RollCall(mine.rank, size, patience)
    if mine.rank:
        if not call.answer(mine):  # which the first process tells
            yield Finding(ABOUT, "rendezvous", "problem", "not all came")
            return
        process_group = init_distributed(timedelta(seconds=patience))
        yield from _together(process_group, [], {}, patience)
        return
    everyone = call.collect(mine)
    call.say(len(everyone) == size)
    if len(everyone) < size:
        yield absent(everyone, size, patience, call.place)
        return
    try:
        process_group = init_distributed(timedelta(seconds=patience))
        yield met(everyone, time.monotonic() - began)
        folders, place = kinds(everyone, paths, data)
        yield from alike(everyone)
        yield from cards(everyone)
        disk = machine.disk(place)
        yield replace(disk, about=ABOUT, sentence=f"{mine.host}, process 0, which alone writes: {disk.sentence}")
        yield from _together(process_group, everyone, faults(everyone, folders), patience)
    except GroundupError as error:
        yield problem(ABOUT, "network", error)


def settled(trouble: bool) -> bool:
    """Whether the first process found a problem, for all of them."""
    if not dist.is_initialized():
        return trouble
    try:
        return init_distributed().broadcast_object(trouble)
    except LostError:
        return True


def _together(
    process_group: ProcessGroup, everyone: list[Facts], wrong: dict[str, list[str]], patience: float
) -> Iterator[Finding]:
    """What can be found only by meeting. All call it; `everyone` and `wrong` are known to the first process."""
    everyone, wrong = process_group.broadcast_object((everyone, wrong))
    with limited("an all-reduce", patience + LONGER):
        yield summed(everyone, all_reduce(process_group, torch.device("cpu")), "gloo")
    own = {facts.gpu for facts in everyone if facts.gpu}
    if len(own) == process_group.size:  # else NCCL would wait for ever
        with limited("an all-reduce between GPUs", patience + LONGER):
            yield summed(everyone, all_reduce(process_group, torch.device("cuda", process_group.local_rank)), "NCCL")
    with limited("comparing clocks", patience + LONGER):
        yield together(everyone, clocks(process_group))
    if not wrong:
        yield Finding(ABOUT, "data", "ok", "none was named to be compared; give --data DIR")
    for folder, odd in wrong.items():
        remedy = "copy one folder to all machines, or give them one place"
        yield from (Finding(folder, "data", "problem", fault, remedy) for fault in odd)
        yield from _read_everywhere(process_group, Path(folder), everyone, patience, alike=not odd)


def summed(everyone: list[Facts], found: AllReduce, by: str) -> Finding:
    """An all-reduce's result, latency and bandwidth."""
    if found.wrong:
        listed = ", ".join(one(everyone[rank]) for rank in found.wrong)
        remedy = "the network or a GPU corrupts what it carries: leave out those machines"
        return Finding(ABOUT, by, "problem", f"an all-reduce gave a wrong sum: {listed}", remedy)
    values = {
        "latency_s": found.latency,
        "bus_bytes_per_s": round(found.bandwidth),
        "bytes": found.size,
        "formula": "2(n-1)/n * bytes / seconds",
    }
    small = f"sums are right; a small one takes {_duration(found.latency)}"
    if not found.bandwidth:
        return Finding(ABOUT, by, "ok", f"{small}; alone, so nothing is sent", values=values)
    each = 2 * (len(everyone) - 1) / len(everyone) * GPT2 / found.bandwidth
    large = f"{found.size >> 20} MiB go at {found.bandwidth / 1e9:.2f} GB/s (bus bandwidth, 2(n-1)/n · bytes / s)"
    return Finding(ABOUT, by, "ok", f"{small}, {large}: gradients of gpt2 in {_duration(each)}", values=values)


def together(everyone: list[Facts], found: list[Clock]) -> Finding:
    """How far clocks are apart; the first process alone knows."""
    if not found:
        return Finding(ABOUT, "clocks", "ok", "")
    far = [rank for rank, clock in enumerate(found) if abs(clock.offset) - clock.error > SKEW]
    values = {"offset_s": [round(clock.offset, 6) for clock in found], "error_s": [clock.error for clock in found]}
    if far:
        listed = ", ".join(f"{one(everyone[rank])} by {found[rank].offset:+.1f} s" for rank in far)
        sentence, remedy = f"off from process 0's on {everyone[0].host}: {listed}", "let NTP or chrony set them"
        return Finding(ABOUT, "clocks", "warning", sentence, remedy, values)
    worst = max(found, key=lambda clock: abs(clock.offset))
    within = f"{_duration(abs(worst.offset))} apart at most, known to {_duration(max(c.error for c in found))}"
    return Finding(ABOUT, "clocks", "ok", within, values=values)


def _read_everywhere(
    process_group: ProcessGroup, folder: Path, everyone: list[Facts], patience: float, *, alike: bool
) -> Iterator[Finding]:
    """Checksums of a folder's files, read by one process of each launcher while the others wait, however long."""
    reader = Reader(folder)
    if process_group.local_rank == 0 and str(folder) in everyone[process_group.rank].data:
        reader.start()
    while process_group.any(reader.busy(patience)):
        time.sleep(BEAT)
    faults = {rank: fault for rank, fault in enumerate(process_group.all_gather_object(reader.fault)) if fault}
    for rank, fault in faults.items():
        sentence, _, remedy = fault.rpartition("; ")
        yield Finding(str(folder), "data", "problem", f"{one(everyone[rank])}: {sentence}", remedy)
    if alike and not faults:
        hosts = len({facts.host for facts in everyone})
        same = f"{everyone[0].data[str(folder)][:12]} on every process"
        sentence = f"{same}; checksums hold on {hosts} machine{'s' * (hosts > 1)}"
        yield Finding(str(folder), "data", "ok", sentence)


class Reader(threading.Thread):
    """Reads a folder's files beside the meetings of its process."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.fault: str | None = None
        self._folder, self._moved = folder, time.monotonic()

    def run(self) -> None:
        """Compare every file with the manifest."""
        try:
            manifest = Manifest.load(self._folder)
            check_files(self._folder, manifest, checksums=False)
            for shard in (shard for split in manifest.splits.values() for shard in split.shards):
                self._check(self._folder / shard.file, shard.sha256)
        except (GroundupError, OSError) as error:
            self.fault = str(error)

    def _check(self, path: Path, expected: str) -> None:
        checksum = sha256()
        with path.open("rb") as file:
            while block := file.read(CHUNK):
                checksum.update(block)
                self._moved = time.monotonic()
        if checksum.hexdigest() != expected:
            raise DataError(f"{path}: damaged (its checksum is not the manifest's); copy it again, or prepare again")

    def busy(self, patience: float) -> bool:
        """Whether it still reads; not for more than `patience` seconds without a byte."""
        if not self.is_alive() or self.fault:
            return False
        if time.monotonic() - self._moved > patience:
            self.fault = f"{self._folder}: not a byte could be read for {patience:g} s; see what is wrong with its disk"
        return self.fault is None


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"
