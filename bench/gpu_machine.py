"""Whether a machine has what `bench.gpu` needs; nothing is imported before it is known to be there."""

from __future__ import annotations

import re
import shutil
import sysconfig
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.gpu_child import Job

IMPORTED_AS = {"pyyaml": "yaml"}
SPARED = ("zstandard",)  # only compressed texts need it


def can_run(job: Job) -> None:
    """Say what is missing, and what the machine is. SystemExit where it cannot do."""
    missing = [name for name in needed() if find_spec(IMPORTED_AS.get(name, name)) is None]
    if hard := [name for name in missing if name not in SPARED]:
        job.note(f"missing: {', '.join(hard)}")
        raise ImportError(f"missing: {', '.join(hard)}")
    if missing:
        job.note(f"missing, but not needed here: {', '.join(missing)}")
    for module in ("groundup.cli.train", "groundup.run.start", "groundup.preprocess.pipeline", "bench.contenders"):
        import_module(module)
    from groundup.utils.system import is_supported, requirements

    here_ = [(each, metadata.version(each.name)) for each in requirements() if each.name not in missing]
    other = [f"{r.name} {have} ({r.specifier})" for r, have in here_ if not is_supported(have, r.specifier)]
    if other:
        job.note(f"other versions than groundup asks for: {', '.join(other)}")
    import torch

    from bench.gpu_device import about, here

    job.fact("gpu", torch.cuda.is_available())
    job.fact("machine", about(here(toy=job.toy or not torch.cuda.is_available())))
    if lacking := compilers():
        job.note(f"not here: {', '.join(lacking)}; torch.compile on a GPU needs all of Triton, a C compiler, Python.h")


def needed() -> list[str]:
    """What groundup depends on, by the names of packages."""
    lines = metadata.requires("groundup") or ()
    return [re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line]


def compilers() -> list[str]:
    """What torch.compile on a GPU lacks here: a kernel's launcher is compiled C."""
    found = {
        "Triton": find_spec("triton"),
        "a C compiler": next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None),
        "Python.h": Path(sysconfig.get_paths()["include"], "Python.h").exists(),
    }
    return [name for name, there in found.items() if not there]
