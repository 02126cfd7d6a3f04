"""Launchers: torchrun and SLURM start jobs, and their processes stop or are lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import jobs
import pytest
import work
from test_same_results import BOUND, assert_bitwise, assert_same_up_to_rounding, config, steps

import groundup.api
from groundup.cli.train import _known_lines
from groundup.config.schema import to_yaml
from groundup.distributed.launch import first_host, from_slurm

pytestmark = pytest.mark.slow


@pytest.fixture
def options(prepared, tmp_path):
    """Arguments of `groundup train` for a toy run in `tmp_path/run`."""

    def make(name="gpt2", **sections):
        path = tmp_path / "config.yaml"
        path.write_text(to_yaml(groundup.api.configure(prepared, overrides=config(name, **sections))))
        return ["train", "--config", path, "--out", tmp_path / "run"]

    return make


def torchrun(*words, log: Path) -> subprocess.Popen:
    """torchrun, with its output and that of its processes in `log`."""
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, words[:-1]), "-m", "groundup", *words[-1]]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as out:
        return subprocess.Popen([str(word) for word in command], stdout=out, stderr=subprocess.STDOUT, env=environ)


def wait_for(what, process=None):
    deadline = time.monotonic() + jobs.PATIENCE
    while not what():
        assert process is None or process.poll() is None, "ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def logged(run: Path) -> int:
    """Last step in a run's log."""
    return max(steps(run), default=0) if (run / "log.jsonl").exists() else 0


def printed(place: Path, rank: int) -> str:
    return (place / f"printed-{rank}.txt").read_text()


def test_a_killed_worker_loses_no_step(options, prepared, tmp_path):
    longer = {"train": {"max_steps": 30, "parallel": "ddp"}, "checkpoint": {"every_steps": 7, "keep_last": 20}}
    jobs.run(2, work.train_all, prepared, tmp_path, {"untouched": config("gpt2", **longer)}, place=tmp_path)
    log, run, at = tmp_path / "log.txt", tmp_path / "run", random.randrange(8, 24)
    job = torchrun("--standalone", "--nproc-per-node", 2, "--max-restarts", 1, options(**longer), log=log)
    wait_for(lambda: logged(run) >= at, job)
    workers = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(random.choice(workers)), signal.SIGKILL)
    assert job.wait(jobs.PATIENCE) == 0, log.read_text()
    assert "resuming from step-000000" in log.read_text(), f"killed after step {at}"
    for folder in ("checkpoints/step-00000028", "checkpoints/step-00000030"):
        for name in ("model.safetensors", "optimizer/state.safetensors", "average.safetensors"):
            assert (run / folder / name).read_bytes() == (tmp_path / "untouched" / folder / name).read_bytes()
    ours, theirs = steps(run), steps(tmp_path / "untouched")
    assert [r["loss"] for r in ours.values()] == [r["loss"] for r in theirs.values()]


@pytest.mark.long  # tests/test_recipes_cluster.py has two nodes as well
def test_two_launchers_are_two_nodes(options, prepared, tmp_path):
    longer = {"train": {"max_steps": 40, "parallel": "fsdp"}, "checkpoint": {"every_steps": 5}}
    work.train_all(prepared, tmp_path, {"alone": config("modern", **longer)})
    place = f"127.0.0.1:{jobs.free_port()}"
    meeting = ["--nnodes", "1:2", "--max-restarts", 2, "--rdzv-backend", "c10d", "--rdzv-id", "test"]
    meeting += ["--rdzv-endpoint", place, "--nproc-per-node", 1]
    words = [*options("modern", **longer), "--auto_resume"]
    first = torchrun(*meeting, words, log=tmp_path / "first.txt")
    second = torchrun(*meeting, "--local-addr", "127.0.0.1", words, log=tmp_path / "second.txt")
    assert first.wait(jobs.PATIENCE) == 0, (tmp_path / "first.txt").read_text()
    assert second.wait(jobs.PATIENCE) == 0, (tmp_path / "second.txt").read_text()
    both = (tmp_path / "first.txt").read_text() + (tmp_path / "second.txt").read_text()
    assert both.count("step 40 saved in") == 1  # rank 0 prints for all
    assert "2 processes" in both
    ours, theirs = steps(tmp_path / "run"), steps(tmp_path / "alone")
    assert max(abs(ours[step]["loss"] - theirs[step]["loss"]) for step in range(1, 41)) < BOUND


@pytest.mark.long
def test_nodes_join_and_leave(options, prepared, tmp_path, monkeypatch):
    """One node starts, another joins and is lost: two restarts, which each launcher counts for itself."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # see docs/cluster.md
    longer = {
        "train": {"max_steps": 3000, "parallel": "ddp"},
        "checkpoint": {"every_steps": 20},
        "evaluate": {"every_steps": 1000},
    }
    work.train_all(prepared, tmp_path, {"alone": config("gpt2", **longer)})
    meeting = ["--nnodes", "1:2", "--max-restarts", 3, "--rdzv-backend", "c10d", "--rdzv-id", "test"]
    port = jobs.free_port()
    meeting += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--nproc-per-node", 1]
    meeting += ["--rdzv-conf", "last_call_timeout=6", "--local-addr", "127.0.0.1"]
    words = [*options("gpt2", **longer), "--auto_resume"]
    first = torchrun(*meeting, words, log=tmp_path / "first.txt")
    wait_for(lambda: logged(tmp_path / "run") >= 12, first)
    second = torchrun(*meeting, words, log=tmp_path / "second.txt")
    wait_for(lambda: "processes 1 -> 2" in (tmp_path / "first.txt").read_text(), first)
    last = logged(tmp_path / "run")
    wait_for(lambda: logged(tmp_path / "run") >= last + 12, first)
    lost = subprocess.run(["pgrep", "-P", str(second.pid)], capture_output=True, text=True, check=True).stdout.split()
    for pid in (second.pid, *map(int, lost)):
        os.kill(pid, signal.SIGKILL)
    second.wait()
    assert first.wait(jobs.PATIENCE) == 0, (tmp_path / "first.txt").read_text()
    assert "processes 2 -> 1" in (tmp_path / "first.txt").read_text()
    ours, theirs = steps(tmp_path / "run"), steps(tmp_path / "alone")
    assert max(abs(ours[step]["loss"] - theirs[step]["loss"]) for step in range(1, 31)) < BOUND
    assert len(ours) == 3000


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)]
)
def test_a_signal_to_one_process_stops_all_in_one_checkpoint(number, status, options, tmp_path):
    words = options(train={"max_steps": 100_000}, evaluate={"every_steps": 50}, checkpoint={"every_steps": 0})
    processes = jobs.start(2, work.command, words, tmp_path, place=tmp_path)
    wait_for(lambda: logged(tmp_path / "run") > 20)
    os.kill(processes[1].pid, number)
    assert jobs.ended(processes) == [status, status]
    saved = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert saved[-1] == f"step-{logged(tmp_path / 'run'):08d}"
    assert "stopping after this step" in printed(tmp_path, 0)
    assert printed(tmp_path, 1) == ""


@pytest.mark.parametrize(
    ("damage", "rank", "message", "status"),
    [
        ("hide_the_data", 1, "groundup: ", 2),
        ("change_the_seed", 1, "process 1 on", 2),
        ("fail_in_step_5", 1, "ValueError: a fault of ours", 1),
        pytest.param("run_out_of_memory_in_samples", 1, "out of memory with", 1, marks=pytest.mark.long),
    ],
)
def test_a_process_that_fails_prints_its_error_first_and_ends_all(damage, rank, message, status, options, tmp_path):
    processes = jobs.start(3, work.command, options(), tmp_path, damage, place=tmp_path)
    processes[rank].join(jobs.PATIENCE)
    found = jobs.ended(processes)
    assert found[rank] == status
    assert all(found)
    assert message in printed(tmp_path, rank)
    spoke = (tmp_path / f"printed-{rank}.txt").stat().st_mtime
    for other in {0, 1, 2} - {rank}:
        if damage != "change_the_seed":  # which all ranks detect
            assert "another process of this job has ended" in printed(tmp_path, other)
            assert (tmp_path / f"printed-{other}.txt").stat().st_mtime >= spoke


def test_a_failing_compiler_is_skipped_under_ddp_and_an_error_under_fsdp(options, prepared, tmp_path):
    """FSDP2 cannot undo half a pass: if it continued, it would train with a part of the gradients."""
    cases = {"plain": config("gpt2", train={"parallel": "ddp"})}
    cases["compiled"] = config("gpt2", train={"parallel": "ddp", "compile": "on"})
    jobs.run(2, work.train_all, prepared, tmp_path, cases, "break_the_compiler", place=tmp_path)
    assert_bitwise(tmp_path / "plain", tmp_path / "compiled")
    words = [*options(train={"parallel": "fsdp"}), "--train.compile", "on"]
    assert jobs.ended(jobs.start(2, work.command, words, tmp_path, "break_the_compiler", place=tmp_path)) == [1, 1]
    assert "give --train.compile off" in printed(tmp_path, 0)


def test_a_mistake_of_all_processes_is_printed_by_rank_0(options, tmp_path):
    processes = jobs.start(2, work.command, [*options(), "--model.n_layerz", 3], tmp_path, place=tmp_path)
    wait_for(lambda: (tmp_path / "printed-0.txt").exists() and printed(tmp_path, 0))
    processes[1].terminate()  # as torchrun does
    assert jobs.ended(processes)[0] == 2
    assert "did you mean --model.n_layer?" in printed(tmp_path, 0)
    assert printed(tmp_path, 1) == ""


def test_processes_exchange_values_of_different_lengths_as_json(tmp_path):
    values = [{"a": [0.1 + 0.2, None, True, "é\n"]}, list(range(1000))]
    found = jobs.run(2, work.exchange, values, place=tmp_path)
    assert found == [[values[0], values]] * 2


def test_ranks_and_address_from_slurm():
    given = {
        "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x4)",
        "SLURM_STEP_NODELIST": "gpu[03-06]", "SLURM_JOB_ID": "41234",
    }  # fmt: skip
    assert from_slurm(given) == {
        "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu03", "MASTER_PORT": "29734",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "lines"),
    [({}, 2), ({"RANK": "0"}, 2), ({"RANK": "1"}, 0), ({"SLURM_PROCID": "0"}, 2), ({"SLURM_PROCID": "3"}, 0)],
    ids=str,
)
def test_only_rank_0_prints_what_is_known_before_torch_is_loaded(environment, lines, prepared, tmp_path, monkeypatch):
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    args = Namespace(json=False, quiet=False, out=str(tmp_path / "run"))
    assert len(_known_lines(args, groundup.api.configure(prepared, preset="gpt2-nano"))) == lines


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu03", "gpu03"), ("gpu[03-06,9]", "gpu03"), ("a1,b[2-3]", "a1"), ("rack1-n[007]", "rack1-n007")],
)
def test_the_first_host_of_a_list(nodes, first):
    assert first_host(nodes) == first


def test_a_run_length_in_time_follows_rank_0(prepared, tmp_path):
    timed = config(
        "gpt2", train={"max_steps": None, "max_time": "4s", "parallel": "ddp"}, checkpoint={"every_minutes": 0.02}
    )
    first, second, third = jobs.run(3, work.digest, prepared, tmp_path / "run", timed, place=tmp_path)
    assert first == second == third
    assert logged(tmp_path / "run") > 5


@pytest.mark.parametrize("kind", [pytest.param("ddp", marks=pytest.mark.long), "fsdp"])
def test_bad_steps_roll_back_all_processes(kind, prepared, tmp_path):
    """Weights, optimizer state and EMA are those of the checkpoint; training continues as with one process."""
    bad = config("gpt2", guard={"max_bad_steps": 2}, train={"parallel": kind}, checkpoint={"every_steps": 3})
    jobs.run(1, work.train_all, prepared, tmp_path, {"alone": bad}, "poison", place=tmp_path)
    jobs.run(2, work.train_all, prepared, tmp_path, {"both": bad}, "poison", place=tmp_path)
    for name in ("alone", "both"):
        records = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        (back,) = [record for record in records if record["event"] == "rollback"]
        assert (back["step"], back["bad_step"], back["skipped"]) == (5, 7, [50, 70])
    assert_same_up_to_rounding(tmp_path / "both", tmp_path / "alone")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_fp16_and_the_compiler_work_together_too(kind, prepared, tmp_path):
    cases = {
        "fp16": config("gpt2", train={"parallel": kind, "precision": "fp16"}),
        "compiled": config("gpt2", train={"parallel": kind, "compile": "aot_eager"}),
        "plain": config("gpt2", train={"parallel": kind}),
    }
    jobs.run(2, work.train_all, prepared, tmp_path, cases, place=tmp_path)
    assert_same_up_to_rounding(tmp_path / "compiled", tmp_path / "plain")
    halves, plain = steps(tmp_path / "fp16"), steps(tmp_path / "plain")
    assert max(abs(halves[step]["loss"] - plain[step]["loss"]) for step in plain if step in halves) < 0.02
