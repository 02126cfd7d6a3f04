"""What is right and wrong with the processes of a job by what each says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from groundup.diagnostics.finding import Finding
from groundup.diagnostics.rollcall import REMEDY, Facts

ABOUT = "job"


def absent(came: list[Facts], size: int, patience: float, place: str) -> Finding:
    """Some did not come."""
    here = {facts.rank for facts in came}
    missing = [rank for rank in range(size) if rank not in here]
    sentence = (
        f"{who(missing)} of {size} did not come to {place} within {patience:g} s; those that came: {_by_host(came)}"
    )
    return Finding(ABOUT, "rendezvous", "problem", sentence, REMEDY, {"missing": missing})


def met(everyone: list[Facts], seconds: float) -> Finding:
    """All came."""
    hosts = {facts.host for facts in everyone}
    launchers = {(facts.host, facts.launcher) for facts in everyone}
    many = f"{len(everyone)} process{'es' * (len(everyone) > 1)} on {len(hosts)} machine{'s' * (len(hosts) > 1)}"
    if len(launchers) > len(hosts):
        many += f" ({len(launchers)} launchers)"
    values = {"processes": len(everyone), "hosts": sorted(hosts), "seconds": round(seconds, 3)}
    return Finding(ABOUT, "rendezvous", "ok", f"{many} met in {seconds:.1f} s: {_by_host(everyone)}", values=values)


def alike(everyone: list[Facts]) -> Iterator[Finding]:
    """Versions that must be equal."""
    whole = True
    for name in everyone[0].versions:
        if sentence := unlike(everyone, [facts.versions.get(name, "none") for facts in everyone]):
            whole = False
            yield Finding(ABOUT, "versions", "problem", f"{name}: {sentence}", f"install the same {name} everywhere")
    if whole:
        versions = everyone[0].versions
        listed = ", ".join(f"{name} {version}" for name, version in versions.items())
        yield Finding(ABOUT, "versions", "ok", f"{listed}, on every process", values=versions)


def cards(everyone: list[Facts]) -> Iterator[Finding]:
    """GPUs: as many as processes, one for each, all of one model."""
    if not any(facts.gpus for facts in everyone):
        yield Finding(ABOUT, "GPUs", "ok", "none: all would train on CPUs")
        return
    found = [*_short(everyone), *_shared(everyone), *_idle(everyone)]
    owners = [facts for facts in everyone if facts.gpu]
    if sentence := unlike(owners, [facts.gpus[facts.local_rank] for facts in owners]):
        remedy = "take machines of one kind: every step waits for the slowest"
        found.append(Finding(ABOUT, "GPUs", "warning", sentence, remedy))
    yield from found
    if not found:
        model = everyone[0].gpus[everyone[0].local_rank]
        yield Finding(ABOUT, "GPUs", "ok", f"one for each process, {model}", values={"model": model})


def _short(everyone: list[Facts]) -> Iterator[Finding]:
    for facts in everyone:
        if facts.local_rank >= len(facts.gpus):
            sentence = f"{one(facts)} is number {facts.local_rank + 1} there, with {len(facts.gpus)} GPUs"
            remedy = "start no more processes there than it has GPUs; `nvidia-smi` says whether it sees them all"
            yield Finding(ABOUT, "GPUs", "problem", sentence, remedy)


def _shared(everyone: list[Facts]) -> Iterator[Finding]:
    owner: dict[str, Facts] = {}
    for facts in (facts for facts in everyone if facts.gpu):
        other = owner.setdefault(str(facts.gpu), facts)
        if other is not facts:
            sentence = f"{one(facts)} has the same GPU as {one(other)}: both are of local rank {facts.local_rank}"
            yield Finding(ABOUT, "GPUs", "problem", sentence, "start one launcher a machine, or give each its own GPUs")


def _idle(everyone: list[Facts]) -> Iterator[Finding]:
    for host in dict.fromkeys(facts.host for facts in everyone):
        there = [facts for facts in everyone if facts.host == host]
        most = max(len(facts.gpus) for facts in there)
        if most > max(len({facts.gpu for facts in there if facts.gpu}), 1) and len({f.gpus for f in there}) == 1:
            sentence = f"{host}: {most} GPUs, {len(there)} process{'es' * (len(there) > 1)}"
            yield Finding(ABOUT, "GPUs", "warning", sentence, f"give --nproc-per-node {most} to use them all")


def kinds(everyone: list[Facts], paths: Sequence[Path], data: Path | None) -> tuple[list[Path], Path]:
    """The folders of data, wherever one of them is, and the run's."""
    known = [path for path in paths if any(str(path) in facts.data for facts in everyone)]
    folders = list(dict.fromkeys([*known, *([data] if data else [])]))
    return folders, next((path for path in paths if path not in folders), Path())


def faults(everyone: list[Facts], folders: list[Path]) -> dict[str, list[str]]:
    """For each folder, what is wrong with it by what the processes said; nothing where all have the same tokens."""
    found: dict[str, list[str]] = {}
    for folder in map(str, folders):
        wrong = found.setdefault(folder, [])
        for host, fault in dict.fromkeys((facts.host, facts.faults.get(folder, "")) for facts in everyone):
            ranks = [f.rank for f in everyone if f.host == host and f.faults.get(folder) == fault]
            wrong += [f"{who(ranks)} on {host}: {fault}"] if fault else []
        have = [facts for facts in everyone if folder in facts.data]
        sentence = unlike(have, [f"tokens {facts.data[folder][:12]}" for facts in have])
        wrong += [sentence] if sentence else []
    return found


def unlike(everyone: Sequence[Facts], values: Sequence[str]) -> str:
    """Who has another value than most, in words; empty where all have the same."""
    if len(set(values)) < 2:
        return ""
    usual = Counter(values).most_common(1)[0][0]
    groups: dict[tuple[str, str], list[int]] = {}
    for facts, value in zip(everyone, values, strict=True):
        groups.setdefault((facts.host, value), []).append(facts.rank)
    like = next(f"{usual} on {host} ({who(ranks)})" for (host, value), ranks in groups.items() if value == usual)
    odd = [f"{value} on {host} ({who(ranks)})" for (host, value), ranks in groups.items() if value != usual]
    return f"{', '.join(odd)}, but {like}"


def one(facts: Facts) -> str:
    """A process and its machine."""
    return f"process {facts.rank} on {facts.host}"


def who(ranks: Sequence[int]) -> str:
    """Processes by number: `process 3`, `processes 0-3, 7`."""
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    listed = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"process{'es' * (len(ranks) > 1)} {listed}"


def _by_host(everyone: Sequence[Facts]) -> str:
    hosts: dict[str, list[int]] = {}
    for facts in everyone:
        hosts.setdefault(facts.host, []).append(facts.rank)
    return ", ".join(f"{host} ({who(ranks)})" for host, ranks in hosts.items())
