"""The launch scripts start the jobs that they describe."""

import importlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from groundup.cli import COMMANDS
from groundup.cli.parsing import Parser, normalise

RECIPES = Path(__file__).parents[1] / "recipes" / "cluster"
SCRIPTS = sorted(path for path in RECIPES.iterdir() if path.suffix in (".sh", ".sbatch"))
SMALL = "--train.max_steps 3 --train.device cpu --train.batch_tokens 512 --evaluate.tokens 300"
TINY = f"{SMALL} --evaluate.sample_tokens 0 --model.n_layer 1 --model.block_size 32"

SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
for ((i = 0; i < SLURM_NNODES; i++)); do SLURM_NODEID=$i "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "${status:-0}"
"""
SCONTROL = '#!/usr/bin/env bash\n[[ $1 == requeue ]] && echo "requeued $2" || printf "127.0.0.1\\nelsewhere\\n"\n'


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def surroundings(tmp_path):
    """Environment with torchrun and fake SLURM programs."""
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "srun", SRUN)
    script(tmp_path / "bin" / "scontrol", SCONTROL)
    script(tmp_path / "bin" / "torchrun", f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n')
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PORT": port, "PROCESSES": "1", "OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_parse_it(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert "set -euo pipefail" in path.read_text()
    assert "/home" not in path.read_text()


def test_there_are_two():
    assert [path.name for path in SCRIPTS] == ["slurm.sbatch", "two-nodes.sh"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_it_passes_options_that_exist(path):
    from torch.distributed.run import get_args_parser

    text = path.read_text()
    launch = text[text.index("exec ") : text.index("-m groundup ", text.index("exec "))]
    known = get_args_parser()._option_string_actions
    options = re.findall(r"--[a-z-]+", launch)
    assert len(options) >= 5
    assert set(options) <= set(known)
    assert "--auto-resume" in text
    examples = re.findall(r"^# {3}(?:ba|sbat).* (train|doctor) (.+)$", text, flags=re.MULTILINE)
    assert {name for name, _ in examples} == {"train", "doctor"}
    for name, words in examples:
        command = importlib.import_module(f"groundup.cli.{COMMANDS[name][0]}")
        parser = Parser(prog=f"groundup {name}")
        command.add_arguments(parser)
        parser.parse_args(normalise([*shlex.split(words), *(["--auto-resume"] if name == "train" else [])]))


@pytest.mark.parametrize("words", [[], ["0", "127.0.0.1"], ["first", "127.0.0.1", "train"]])
def test_two_nodes_prints_its_usage(words):
    done = subprocess.run(["bash", RECIPES / "two-nodes.sh", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: bash" in done.stderr


@pytest.mark.slow
def test_two_nodes_train_one_model(prepared, tmp_path, surroundings):
    command = f"127.0.0.1 train gpt2-nano --data {prepared} --out run {TINY}"
    nodes = []
    for node in (1, 0):
        (tmp_path / str(node)).mkdir()  # each has its own disk
        words = ["bash", str(RECIPES / "two-nodes.sh"), str(node), *shlex.split(command)]
        with (tmp_path / f"{node}.log").open("w") as log:
            nodes.append(subprocess.Popen(words, cwd=tmp_path / str(node), env=surroundings, stdout=log, stderr=log))
    try:
        statuses = [node.wait(100) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert statuses == [0, 0], (tmp_path / "0.log").read_text() + (tmp_path / "1.log").read_text()
    assert "2 processes of" in (tmp_path / "0.log").read_text()
    records = [json.loads(line) for line in (tmp_path / "0" / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["event"] == "step"] == [1, 2, 3]
    assert not (tmp_path / "1" / "run").exists()


def batch(tmp_path, surroundings, torchrun, command, *, signalled=False, **environ):
    """Run the SLURM script with a fake torchrun; returns its exit status and output."""
    script(tmp_path / "bin" / "torchrun", f"#!/usr/bin/env bash\n{torchrun}\n")
    job = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a[1-2]", "SLURM_JOB_END_TIME": "4e9"}
    words = ["bash", RECIPES / "slurm.sbatch", *command.split()]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(words, cwd=tmp_path, env=surroundings | job | environ, stdout=log, stderr=log)
        try:
            if signalled:
                while not (tmp_path / "began-1").exists():
                    time.sleep(0.05)
                process.send_signal(signal.SIGUSR1)
            status = process.wait(60)
        finally:
            process.kill()
    return status, (tmp_path / "log").read_text()


def test_a_job_at_its_time_limit_is_requeued(tmp_path, surroundings):
    stopped = "touch began-$SLURM_NODEID; sleep 1; exit 1"  # as torchrun does if training stopped with a checkpoint
    status, output = batch(tmp_path, surroundings, stopped, "train gpt2", signalled=True)
    assert (status, output) == (0, "time is up: job 7 goes back into the queue\nrequeued 7\n")


def test_a_failed_job_is_retried_a_limited_number_of_times(tmp_path, surroundings):
    status, output = batch(tmp_path, surroundings, 'echo "$@"; exit 1', "train gpt2", EARLY="0", RESTARTS="2")
    assert status == 1
    started = "--nproc-per-node 1 --master-addr 127.0.0.1 --master-port .* -m groundup train gpt2 --auto-resume"
    assert len(re.findall(f"--nnodes 2 --node-rank 0 {started}", output)) == 3
    assert len(re.findall(f"--nnodes 2 --node-rank 1 {started}", output)) == 3
    assert output.count("began again after status 1") == 2


@pytest.mark.parametrize("command", ["train gpt2", "doctor --distributed"])
def test_a_usage_error_is_not_retried(command, tmp_path, surroundings):
    status, output = batch(tmp_path, surroundings, "echo here; exit 2", command)
    assert (status, output) == (2, "here\nhere\n")


def test_a_successful_job_ends(tmp_path, surroundings):
    assert batch(tmp_path, surroundings, "true", "train gpt2") == (0, "")
