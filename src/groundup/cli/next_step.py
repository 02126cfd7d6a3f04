"""The `next:` lines that lead from prepared data to a run."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from groundup.first_model.existing import free_folder
from groundup.planning.choice import Fit
from groundup.planning.warnings import warnings
from groundup.utils.files import resolved
from groundup.utils.plural import human_plural

TOO_LITTLE_TEXT = "give more text; this is less than one sequence of the smallest preset"


def train_command(fit: Fit, data: str, options: Sequence[str] = ()) -> str:
    """The command that trains the preset on `data`, in a folder under runs/ that does not exist yet."""
    folder = resolved(Path(data))
    name = folder.name if folder.name != "data" else folder.parent.name  # a quickstart's is runs/NAME/data
    out = str(free_folder(Path("runs") / name))
    return shlex.join(["groundup", "train", fit.preset, "--data", data, "--out", out, *fit.options, *options])


def after_preparing(fit: Fit | None, data: str) -> list[str]:
    """The command that trains a suitable model, its time, and the command that lists all presets."""
    if fit is None:
        return [f"next: {TOO_LITTLE_TEXT}"]
    cores = human_plural(fit.plan.machine.threads, "core")
    presets = shlex.join(["groundup", "plan", "--data", data])
    lines = [
        f"next: {train_command(fit, data)}",
        f"      about {fit.time} on {cores}; all presets, timed here:",
        f"      {presets}",
    ]
    return lines if fit.is_suitable else [*(f"warning  {line}" for line in warnings(fit.plan)), *lines]
