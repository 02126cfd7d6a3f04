"""What the processes of a test's job do."""

from pathlib import Path

import torch

from groundup.api import configure, resume
from groundup.planning.plan import Speed
from groundup.report.view import Silent
from groundup.runs import begin


def train_all(data, folder, cases):
    """Train each case, one after the other, in one job."""
    torch.set_num_threads(1)
    for name, overrides in cases.items():
        begin(configure(data, overrides=overrides), Path(folder) / name, Silent(), speed=Speed(1.0, "given"))


def resume_all(runs, overrides=None):
    """Go on with each run."""
    torch.set_num_threads(1)
    return [resume(run, overrides=overrides or {}).step for run in runs]
