"""Checks of a job of several processes: differences are reported before training, with the process at fault."""

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

import pytest

from groundup.cli import main
from groundup.diagnostics.distributed import ProcessInfo, check_gpus, check_same_data, check_versions, difference

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


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
def test_a_healthy_job_is_reported_once(prepared, tmp_path):
    command = [*TORCHRUN, "--nproc-per-node", "2", "--master-port", free_port(), "-m", "groundup", "doctor"]
    command += ["--distributed", "runs/mine", "--data", str(prepared), "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # of one process alone
    assert found["ok"]
    findings = of(found["findings"])
    assert list(findings) == ["processes", "versions", "GPUs", "data"]
    assert {finding["status"] for finding in found["findings"]} == {"ok"}
    assert findings["processes"]["values"]["processes"] == 2
    assert not (tmp_path / "runs").exists()


def _odd_one(rank, port, folder):
    """One of two processes, of which the second has other data and another torch."""
    from groundup.diagnostics import distributed
    from groundup.distributed.launch import exit_process

    os.environ.update(environ(rank, 2, port))
    os.chdir(folder / str(rank))
    sys.stdout = (folder / f"{rank}.out").open("w")
    if rank:
        distributed.torch.__version__ = "1.0"
    try:
        main(["doctor", "--distributed", "--data", "data", "--json"])
    finally:
        exit_process(3)  # never reached: `main` ends the process


@pytest.mark.slow
def test_all_differences_are_reported_at_once_with_the_process(prepared, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["groundup.api", "groundup.diagnostics.distributed"])
    for rank in range(2):
        shutil.copytree(prepared, tmp_path / str(rank) / "data")
    manifest = tmp_path / "1" / "data" / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["splits"]["train"]["shards"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(changed))

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
    assert findings["versions"]["sentence"].startswith(f"torch: 1.0 in process 1 on {host}, but ")
    assert findings["data"]["status"] == "problem"
    assert f"in process 1 on {host}, but tokens " in findings["data"]["sentence"]


def test_without_a_launcher_the_message_names_torchrun(monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--distributed"])
    assert ended.value.code == 2
    assert "torchrun --nproc-per-node 2 -m groundup doctor --distributed" in capsys.readouterr().err


@pytest.mark.parametrize("rank", [0, 1])
def test_missing_processes_are_reported_in_time(rank, monkeypatch, capsys):
    for name, value in environ(rank, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--distributed", "--timeout", "1"])
    assert ended.value.code == 1
    assert time.monotonic() - began < 50  # without the option it would wait for 60 s
    output = capsys.readouterr()
    assert "the processes of this job did not connect" in output.out + output.err
    assert "GLOO_SOCKET_IFNAME" in output.out + output.err


def test_a_timeout_without_other_processes_is_refused(capsys):
    for words in (["--timeout", "3"], ["--distributed", "--timeout", "0"]):
        with pytest.raises(SystemExit) as ended:
            main(["doctor", *words])
        assert ended.value.code == 2
        assert "--timeout" in capsys.readouterr().err


def process(rank, local=None, host="a", gpus=("H100", "H100"), **changes):
    local = rank if local is None else local
    versions = {"groundup": "1", "torch": "2", "Python": "3", "CUDA": "12"}
    own = f"{host}-{local}" if local < len(gpus) else None
    return replace(ProcessInfo(rank, host, local, versions, gpus, own, {"data": "same"}, {}), **changes)


FOUR = [process(0), process(1), process(2, 0, "b"), process(3, 1, "b")]


def test_four_equal_processes_on_two_machines_are_ok():
    found = [*check_versions(FOUR), *check_gpus(FOUR), *check_same_data(FOUR, "data")]
    assert [finding.status for finding in found] == ["ok", "ok", "ok"]


def test_gpus_that_cannot_work_together_are_found():
    def problems(infos):
        return " ".join(finding.sentence for finding in check_gpus(infos) if finding.status != "ok")

    same = problems([*FOUR[:2], process(2, 0, "b", gpu="a-0")])
    assert "process 2 on b has the same GPU as process 0 on a" in same
    assert "process 2 on a has local rank 2, but sees 2 GPUs" in problems([*FOUR[:2], process(2)])
    mixed = problems([process(0, gpus=("H100",)), process(1, 0, "b", ("T4",))])
    assert mixed == "T4 in process 1 on b, but H100 in process 0 on a"
    assert "sees 0 GPUs" in problems([process(0), process(1), process(2, 0, "b", ())])
    assert problems([process(0, gpus=()), process(1, gpus=())]) == ""


def test_the_minority_is_at_fault():
    assert difference(FOUR, ["x", "y", "x", "x"]) == "y in process 1 on a, but x in process 0 on a"
    assert difference(FOUR, ["x"] * 4) == ""


def test_data_missing_on_one_machine_is_found():
    lost = [replace(info, data={}, errors={"data": "data: not here"}) for info in FOUR[2:]]
    (found,) = check_same_data([*FOUR[:2], *lost], "data")
    assert (found.status, found.sentence) == ("problem", "on b: data: not here")
