"""Check that a machine has the dependencies of `bench.gpu`; a package is imported only after its check."""

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
OPTIONAL = ("zstandard",)  # only compressed texts need it


def can_run(job: Job) -> None:
    """Report missing packages and the machine. ImportError if a required one is missing."""
    missing = [name for name in dependencies() if find_spec(IMPORTED_AS.get(name, name)) is None]
    if required := [name for name in missing if name not in OPTIONAL]:
        job.note(f"missing: {', '.join(required)}")
        raise ImportError(f"missing: {', '.join(required)}")
    if missing:
        job.note(f"missing, but not needed here: {', '.join(missing)}")
    for module in ("groundup.cli.train", "groundup.run.start", "groundup.preprocess.pipeline", "bench.contenders"):
        import_module(module)
    from groundup.utils.system import is_supported, requirements

    here_ = [(each, metadata.version(each.name)) for each in requirements() if each.name not in missing]
    other = [f"{r.name} {have} ({r.specifier})" for r, have in here_ if not is_supported(have, r.specifier)]
    if other:
        job.note(f"versions that groundup does not support: {', '.join(other)}")
    import torch

    from bench.gpu_device import about, here

    job.fact("gpu", torch.cuda.is_available())
    job.fact("machine", about(here(toy=job.toy or not torch.cuda.is_available())))
    if absent := compilers():
        job.note(f"not found: {', '.join(absent)}; torch.compile on a GPU needs all of Triton, a C compiler, Python.h")


def dependencies() -> list[str]:
    """Names of the packages that groundup depends on."""
    lines = metadata.requires("groundup") or ()
    return [re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line]


def compilers() -> list[str]:
    """Missing parts of torch.compile on a GPU; it compiles a C launcher for each kernel."""
    found = {
        "Triton": find_spec("triton"),
        "a C compiler": next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None),
        "Python.h": Path(sysconfig.get_paths()["include"], "Python.h").exists(),
    }
    return [name for name, available in found.items() if not available]
