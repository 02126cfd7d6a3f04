"""Functions that the processes of a test job run."""

import os
import sys
from pathlib import Path

import torch

from groundup.api import configure, resume
from groundup.distributed.launch import init_distributed
from groundup.errors import DataError
from groundup.kernels import thresholds
from groundup.model.gpt import NextTokenLoss
from groundup.planning.plan import Speed
from groundup.run import compose, init_model
from groundup.run.dataset import PreparedData
from groundup.run.evaluator import Evaluator
from groundup.run.start import start_run
from groundup.run.trainer import Trainer
from groundup.training.micro_batches import BatchLoader
from groundup.ui.display import NullDisplay


def train_all(data, folder, cases, damage=None):
    """Train each case, one after the other, in one job."""
    torch.set_num_threads(1)
    if damage:
        globals()[damage]()
    for name, overrides in cases.items():
        start_run(configure(data, overrides=overrides), Path(folder) / name, NullDisplay(), speed=Speed(1.0, "given"))


def resume_all(runs, overrides=None):
    """Resume each run."""
    torch.set_num_threads(1)
    return [resume(run, overrides=overrides or {}).step for run in runs]


def resume_in(folder, run, overrides):
    """Resume one run, whose paths are relative to the folder."""
    os.chdir(folder)
    return resume_all([run], overrides)


def digest(data, run, overrides):
    """Train, and return a checksum of the weights."""
    found, ending = [], Trainer.run

    def run_and_look(self):
        result = ending(self)
        found.extend(parameter.double().sum().item() for parameter in self.model.parameters())
        return result

    Trainer.run = run_and_look
    train_all(data, Path(run).parent, {Path(run).name: overrides})
    return found


def draws(data, run, overrides):
    """Train, and return the first number that dropout would draw in each step."""
    found, original = [], BatchLoader.micro_batches

    def micro_batches(self, *position):
        found.append(torch.rand(1, generator=torch.default_generator.clone_state()).item())
        return original(self, *position)

    BatchLoader.micro_batches = micro_batches
    train_all(data, Path(run).parent, {Path(run).name: overrides})
    return found


def command(argv, place, damage=None):
    """Run the command line in this process, output in `place`; `damage` names a fault to inject first."""
    from groundup.cli import main

    sys.stdout = sys.stderr = (Path(place) / f"printed-{os.environ['RANK']}.txt").open("w", buffering=1)
    torch.set_num_threads(1)
    main([str(word) for word in [*argv, *(globals()[damage]() or () if damage else ())]])


def hide_the_data():
    """Hide the data from the second process."""
    if os.environ["RANK"] == "1":
        PreparedData.open = classmethod(lambda cls, folder: (_ for _ in ()).throw(DataError(f"{folder}: not here")))


def change_the_seed():
    """In the second process."""
    return ("--train.seed", "5") if os.environ["RANK"] == "1" else ()


def hide_init_from():
    """Hide the initial checkpoint from the second process."""
    if os.environ["RANK"] == "1":
        compose._is_on_rank_0_only = lambda path: True
        init_model.read_tensors = None


def cut_logits():
    """Compute the logits in chunks, few as they are."""
    thresholds.MAX_UNCHUNKED_BYTES, thresholds.CPU_CHUNK_BYTES, thresholds.MIN_CHUNK_ROWS = 0, 0, 20


def fail_in_step_5():
    """The second process."""
    original = BatchLoader.micro_batches

    def micro_batches(self, cursor, *position):
        if os.environ["RANK"] == "1" and cursor == 4 * self.batch_size:
            raise ValueError("a fault of ours")
        return original(self, cursor, *position)

    BatchLoader.micro_batches = micro_batches


def break_the_compiler():
    """Make every compiler backend fail."""

    def compile_nothing(*args, **kwargs):
        def call(*inputs):
            raise RuntimeError("no compiler here")

        module = torch.nn.Module()
        module.forward = call
        return module if args and isinstance(args[0], torch.nn.Module) else call

    torch.compile = compile_nothing


def run_out_of_memory_in_samples():
    """In the second process."""
    original = Evaluator._generate

    def generate(self, n):
        if os.environ["RANK"] == "1":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, n)

    Evaluator._generate = generate


def poison():
    """Make the loss of the last process NaN for the data of steps 6 and 7."""
    original, loss, step = BatchLoader.micro_batches, NextTokenLoss.forward, [0]

    def micro_batches(self, cursor, *position):
        step[0] = cursor // self.batch_size
        return original(self, cursor, *position)

    def forward(self, ids, targets):
        here = self.training and 5 <= step[0] < 7 and init_distributed().rank == init_distributed().size - 1
        return loss(self, ids, targets) * (float("nan") if here else 1.0)

    BatchLoader.micro_batches, NextTokenLoss.forward = micro_batches, forward


def evaluated(run, data, tasks):
    """Evaluate loss and tasks of a run as one process of several."""
    from dataclasses import asdict

    from groundup.run.evaluate_checkpoint import evaluate, evaluate_tasks

    torch.set_num_threads(1)
    process_group = init_distributed()
    loss = evaluate(run, data=data, process_group=process_group)
    return [asdict(loss), [grade.flat() for grade in evaluate_tasks(run, tasks, process_group=process_group)]]


def exchange(values):
    """What this process gets of rank 0's value, and of the values of all."""
    group = init_distributed()
    mine = values[group.rank]
    return group.broadcast_object(mine), group.all_gather_object(mine)
