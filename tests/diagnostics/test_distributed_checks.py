"""What is wrong with a job of several processes is told before hours are spent on it, with the process at fault."""

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from groundup.cli import main
from groundup.diagnostics.distributed import together
from groundup.diagnostics.rollcall import Facts
from groundup.diagnostics.roster import absent, alike, cards, faults, met, unlike, who
from groundup.diagnostics.wire import Clock, bus_bandwidth

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
AHEAD = 100.0  # seconds


def free_port():
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def environ(rank, size, port):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return dict(zip(names, (str(rank), str(rank), str(size), str(size), "127.0.0.1", port), strict=True))


def of(findings):
    return {finding["name"]: finding for finding in findings}


@pytest.mark.slow
def test_a_healthy_job_is_said_to_be_so_once(prepared, tmp_path):
    command = [*TORCHRUN, "--nproc-per-node", "2", "--master-port", free_port(), "-m", "groundup", "doctor"]
    command += ["--distributed", "runs/mine", "--data", str(prepared), "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # of one process alone
    assert found["ok"]
    findings = of(found["findings"])
    assert list(findings) == ["rendezvous", "versions", "GPUs", "disk", "gloo", "clocks", "data"]
    assert {finding["status"] for finding in found["findings"]} == {"ok"}
    assert findings["rendezvous"]["values"]["processes"] == 2
    assert findings["gloo"]["values"]["bus_bytes_per_s"] > 0
    assert findings["clocks"]["values"]["offset_s"][0] == 0
    assert not (tmp_path / "runs").exists()


def _odd_one(rank, port, place):
    """One of two processes, of which the second has other data, another torch, and a clock that is ahead."""
    from types import SimpleNamespace

    from groundup.diagnostics import rollcall, wire
    from groundup.distributed.launch import exit_process

    os.environ.update(environ(rank, 2, port))
    os.chdir(place / str(rank))
    sys.stdout = (place / f"{rank}.out").open("w")
    if rank:
        versions = rollcall.versions()
        rollcall.versions = lambda: {**versions, "torch": "1.0"}
        wire.time = SimpleNamespace(time=lambda: time.time() + AHEAD, perf_counter=time.perf_counter)
    try:
        main(["doctor", "--distributed", "--data", "data", "--json"])
    finally:
        exit_process(3)  # never reached: `main` ends the process


@pytest.mark.slow
def test_all_that_is_odd_is_told_at_once_with_the_process(prepared, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["groundup.api", "groundup.diagnostics.distributed"])
    for rank in range(2):
        shutil.copytree(prepared, tmp_path / str(rank) / "data")
    manifest = tmp_path / "1" / "data" / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["splits"]["train"]["shards"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(changed))
    shard = tmp_path / "0" / "data" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2] + b"\0\0")

    port = free_port()
    processes = [context.Process(target=_odd_one, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [1, 1]
    assert (tmp_path / "1.out").read_text() == ""
    found = json.loads((tmp_path / "0.out").read_text())
    assert not found["ok"]
    findings = of(found["findings"])
    host = socket.gethostname()
    assert findings["versions"]["status"] == "problem"
    assert findings["versions"]["sentence"].startswith(f"torch: 1.0 on {host} (process 1), but ")
    assert findings["clocks"]["status"] == "warning"
    assert f"process 1 on {host} by +100.0 s" in findings["clocks"]["sentence"]
    data = [finding["sentence"] for finding in found["findings"] if finding["name"] == "data"]
    assert f"on {host} (process 1), but tokens " in data[0]
    assert data[1].startswith(f"process 0 on {host}: data/train-00000.bin: damaged")
    assert findings["gloo"]["status"] == "ok"


def test_without_a_launcher_it_says_which(monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--distributed"])
    assert ended.value.code == 2
    assert "torchrun --nproc-per-node 2 -m groundup doctor --distributed" in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "told"), [(0, "process 1 of 2 did not come"), (1, "cannot be reached within 1 s")])
def test_whoever_does_not_come_is_named_in_time(rank, told, monkeypatch, capsys):
    for name, value in environ(rank, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--distributed", "--timeout", "1"])
    assert ended.value.code == 1
    assert time.monotonic() - began < 10
    output = capsys.readouterr()
    assert told in output.out + output.err


def test_patience_without_others_is_refused(capsys):
    for words in (["--timeout", "3"], ["--distributed", "--timeout", "0"]):
        with pytest.raises(SystemExit) as ended:
            main(["doctor", *words])
        assert ended.value.code == 2
        assert "--timeout" in capsys.readouterr().err


def process(rank, local=None, host="a", gpus=("H100", "H100"), **changes):
    local = rank if local is None else local
    versions = {"groundup": "1", "torch": "2", "Python": "3", "CUDA": "12"}
    own = f"{host}-{local}" if local < len(gpus) else None
    return replace(Facts(rank, local, host, "0", versions, gpus, own, {"data": "same"}, {}), **changes)


FOUR = [process(0), process(1), process(2, 0, "b"), process(3, 1, "b")]


def test_four_equal_processes_on_two_machines():
    assert "4 processes on 2 machines met in 2.0 s: a (processes 0-1), b (processes 2-3)" in met(FOUR, 2.0).sentence
    assert [finding.status for finding in (*alike(FOUR), *cards(FOUR))] == ["ok", "ok"]
    assert faults(FOUR, [Path("data")]) == {"data": []}


def test_launchers_on_one_machine_are_counted():
    assert "(2 launchers)" in met([process(0), process(1, launcher="1")], 0.1).sentence


def test_gpus_that_cannot_work_together_are_found():
    def said(everyone):
        return " ".join(finding.sentence for finding in cards(everyone) if finding.status != "ok")

    assert "process 2 on b has the same GPU as process 0 on a" in said([*FOUR[:2], process(2, 0, "b", gpu="a-0")])
    assert "process 2 on a is number 3 there, with 2 GPUs" in said([*FOUR[:2], process(2)])
    assert "T4 on b (process 1), but H100 on a" in said([process(0, gpus=("H100",)), process(1, 0, "b", ("T4",))])
    assert said([process(0)]) == "a: 2 GPUs, 1 process"
    assert "with 0 GPUs" in said([process(0), process(1), process(2, 0, "b", ())])
    assert said([process(0, gpus=()), process(1, gpus=())]) == ""


def test_who_is_in_the_minority_is_at_fault():
    assert unlike(FOUR, ["x", "y", "x", "x"]) == "y on a (process 1), but x on a (process 0)"
    assert unlike(FOUR, ["x"] * 4) == ""
    assert who([0, 1, 2, 5]) == "processes 0-2, 5"
    assert "processes 2-3 of 4 did not come" in absent(FOUR[:2], 4, 60, "a:1").sentence


def test_data_that_is_missing_on_one_machine():
    lost = [replace(facts, data={}, faults={"data": "data: not here"}) for facts in FOUR[2:]]
    assert faults([*FOUR[:2], *lost], [Path("data")]) == {"data": ["processes 2-3 on b: data: not here"]}


def test_numbers_mean_what_their_sources_say():
    assert bus_bandwidth(2, 100, 2.0) == 50  # each sends half of it, twice
    assert bus_bandwidth(4, 100, 1.0) == 150
    assert together(FOUR[:2], [Clock(0, 0), Clock(1.4, 0.5)]).status == "ok"  # may be less than a second
    assert together(FOUR[:2], [Clock(0, 0), Clock(-1.6, 0.5)]).status == "warning"
