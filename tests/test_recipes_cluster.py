"""The launch files start what they say."""

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
    """An environment with torchrun, and something in the place of SLURM's programs."""
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
def test_bash_can_read_it(path):
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
def test_two_nodes_says_how_it_is_used(words):
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


@pytest.mark.slow
def test_a_job_whose_time_is_up_goes_back_into_the_queue(prepared, tmp_path, surroundings):
    job = {
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "a[1-2]",
        "SLURM_JOB_END_TIME": str(int(time.time()) + 60),  # training stops two minutes ahead of it
    }
    words = shlex.split(f"train gpt2-nano --data {prepared} --out run {TINY}")
    with (tmp_path / "log").open("w") as log:
        command = ["bash", RECIPES / "slurm.sbatch", *words]
        batch = subprocess.Popen(command, cwd=tmp_path, env=surroundings | job, stdout=log, stderr=log)
        try:
            time.sleep(2)
            batch.send_signal(signal.SIGUSR1)
            status = batch.wait(100)
        finally:
            batch.kill()
    said = (tmp_path / "log").read_text()
    assert status == 0, said
    assert "time is up: job 7" in said
    assert "requeued 7" in said
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 1
