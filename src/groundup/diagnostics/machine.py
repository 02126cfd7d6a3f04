"""Checks of the machine: cores, memory, libraries, torch, GPUs, disk. Loads torch late, as it may be what is broken."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from groundup.diagnostics.finding import Finding, Status
from groundup.ui.format import human_bytes
from groundup.utils import system
from groundup.utils.plural import human_plural
from groundup.utils.subprocesses import run_bounded

if TYPE_CHECKING:
    import torch

ABOUT = "machine"
EXTRAS = ("data", "hf", "gguf", "track", "eval", "plot", "space")  # those for users
LOW_MEMORY_BYTES = (300e6, 1.5e9)  # problem, warning; Python and torch take 0.35 GB before the first weight
LOW_DISK_BYTES = (200e6, 2e9)  # problem, warning
SLOW_DISK_BYTES_PER_S = 20e6  # a checkpoint of GPT-2 takes more than a minute
SPEED_TEST_BYTES = 64 << 20
TIMING_SECONDS = 0.25  # per precision
COMPILED_CODE = "import torch; f = torch.compile(lambda x: (x * 2 + 1).sum()); assert f(torch.ones(8)) == 24"


def cores() -> Finding:
    """How many cores this process may use, by affinity and by the container's quota."""
    usable = system.usable_cores()
    quota, load = system.cpu_quota(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    values = {"cores": usable, "quota": quota, "load": load}
    count = human_plural(usable, "core")
    if quota is not None and quota < 0.9 * usable:
        sentence = f"{count} visible, but this container may use the time of {quota:g}"
        return Finding(ABOUT, "cores", "warning", sentence, f"give --train.threads {max(1, int(quota))}", values)
    if load > usable + 0.5:
        remedy = "wait for other programs to end: until then, speeds and timings are too low"
        return Finding(ABOUT, "cores", "warning", f"{count}, but a load of {load:.1f}", remedy, values)
    return Finding(ABOUT, "cores", "ok", f"{count} usable", values=values)


def memory() -> Finding:
    """Free and total main memory."""
    total, free = system.main_memory(), system.free_memory()
    if total is None or free is None:
        return Finding(ABOUT, "memory", "ok", "not known on this system")
    values = {"bytes": total, "free_bytes": free}
    status = _status(free, LOW_MEMORY_BYTES)
    remedy = "end other programs, or use a small model: `groundup plan` computes its memory" if status != "ok" else ""
    return Finding(ABOUT, "memory", status, f"{human_bytes(free)} free of {human_bytes(total)}", remedy, values)


def libraries() -> Iterator[Finding]:
    """Versions of Python and the libraries, against those this version of groundup needs."""
    if system.installed_version("groundup"):  # otherwise a checkout on PYTHONPATH
        required = metadata.metadata("groundup")["Requires-Python"] or ""
        yield version("Python", platform.python_version(), SpecifierSet(required))
    for extra in ("", *EXTRAS):  # "": the libraries that groundup always needs
        good, missing = {}, []
        for requirement in system.requirements(extra):
            name, specifier = requirement.name, requirement.specifier
            if name == "groundup":  # with another extra
                continue
            installed = system.installed_version(name)
            if installed is None and not extra:
                yield Finding(ABOUT, name, "problem", "not installed", f"pip install '{name}{specifier}'")
            elif installed is None:
                missing.append(name)
            elif installed is not None and system.is_supported(installed, specifier):
                good[name] = installed
            elif installed is not None:
                yield version(name, installed, specifier)
        if good or not extra:
            listed = ", ".join(f"{name} {installed}" for name, installed in good.items())
            listed += f"; not installed: {', '.join(missing)}" if missing else ""
            yield Finding(ABOUT, f"extra {extra}" if extra else "libraries", "ok", listed, values=good)


def version(name: str, installed: str, specifier: SpecifierSet) -> Finding:
    """Whether an installed version meets `specifier`."""
    if system.is_supported(installed, specifier):
        return Finding(ABOUT, name.lower(), "ok", f"{name} {installed}", values={"version": installed})
    remedy = f"install {name} {specifier}" if name == "Python" else f"pip install '{name}{specifier}'"
    sentence = f"{installed}, but groundup needs {specifier}"
    return Finding(ABOUT, name.lower(), "problem", sentence, remedy, {"version": installed})


def torch_build() -> Iterator[Finding]:
    """Whether torch can be loaded, its vector instructions, and its GPUs."""
    try:
        import torch
    except Exception as error:  # a broken installation may raise anything
        remedy = "install torch again: https://pytorch.org/get-started"
        yield Finding(ABOUT, "torch", "problem", f"cannot be loaded ({error.__class__.__name__}: {error})", remedy)
        return
    capability, cuda = torch.backends.cpu.get_cpu_capability(), torch.version.cuda
    values = {"version": torch.__version__, "cpu": capability, "cuda": cuda, "threads": torch.get_num_threads()}
    build = f"built for CUDA {cuda}" if cuda else "built for CPUs"
    plain = capability in ("DEFAULT", "NO AVX")
    sentence = f"{torch.__version__}, {build}; vector instructions: {'none' if plain else capability}"
    remedy = "this CPU, or the emulator around it, lacks AVX2: training will be slow" if plain else ""
    yield Finding(ABOUT, "torch", "warning" if plain else "ok", sentence, remedy, values)
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(i)
            free, total = torch.cuda.mem_get_info(i)
            figures = {"name": gpu.name, "capability": [gpu.major, gpu.minor], "bytes": total, "free_bytes": free}
            sentence = f"{gpu.name}, capability {gpu.major}.{gpu.minor}, "
            sentence += f"{human_bytes(free)} free of {human_bytes(total)}"
            busy = free < total / 2
            remedy = "another program holds the rest; `nvidia-smi` names it" if busy else ""
            yield Finding(ABOUT, f"gpu {i}", "warning" if busy else "ok", sentence, remedy, figures)
    elif torch.backends.mps.is_available():
        yield Finding(ABOUT, "gpu", "ok", "Apple's, which shares the main memory")
    elif cuda and os.path.exists("/dev/nvidia0"):  # noqa: PTH110
        remedy = "run `nvidia-smi`: its driver may be older than this torch needs"
        yield Finding(ABOUT, "gpu", "warning", "present, but torch cannot use it", remedy)
    else:
        yield Finding(ABOUT, "gpu", "ok", "none, which is fine for small models")


def precision() -> Finding:
    """The precision that multiplies matrices fastest here, by timing: support in hardware does not mean speed."""
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    device = torch.device("cuda" if cuda else "mps" if mps else "cpu")
    speeds = {"fp32": _flops(device, torch.float32)}
    if cuda:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        speeds["TF32"] = _flops(device, torch.float32)
        torch.set_float32_matmul_precision(before)
    if cuda or mps:
        speeds["fp16"] = _flops(device, torch.float16)  # on CPUs hundreds of times slower than fp32
    speeds["bf16"] = _flops(device, torch.bfloat16)
    best = max(speeds, key=lambda name: speeds[name])
    listed = ", ".join(f"{name} {speed / 1e9:,.0f}" for name, speed in speeds.items())
    values = {name: round(speed / 1e9, 1) for name, speed in speeds.items()}
    return Finding(ABOUT, "precision", "ok", f"{best} is fastest: {listed} GFLOP/s on {device.type}", values=values)


def _flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest of some products of square matrices, on all threads."""
    import torch

    size = 1024 if device.type == "cpu" else 4096
    a, b = torch.ones(2, size, size, dtype=dtype, device=device)
    best, deadline = float("inf"), 0.0
    while not deadline or time.perf_counter() < deadline:
        began = time.perf_counter()
        a @ b
        if device.type != "cpu":
            torch.accelerator.synchronize()
        now = time.perf_counter()
        if deadline or now - began > TIMING_SECONDS:  # the first product also loads the library
            best = min(best, now - began)
        deadline = deadline or now + TIMING_SECONDS
    return 2.0 * size**3 / min(best, TIMING_SECONDS * 1e6)  # none was timed: nearly 0


def compiler(limit: float = 120.0, code: str = COMPILED_CODE) -> Finding:
    """Whether torch.compile works: compiles a small function, in a process that is killed after `limit` seconds."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="groundup-doctor-") as cache:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        command = [sys.executable, "-P", "-c", code]  # -P: nothing is imported from the current folder
        try:
            done = run_bounded(command, limit, environment)
            output, works = done.stderr, done.returncode == 0
        except subprocess.TimeoutExpired:
            output, works = f"gave up after {limit:g} s", False
    seconds = time.perf_counter() - began
    if works:
        return Finding(ABOUT, "compiler", "ok", f"torch.compile works ({seconds:.0f} s)", values={"seconds": seconds})
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if "Error" in line or "ompiler" in line), (lines or ["?"])[-1])
    remedy = (
        "install a C++ compiler (Debian: apt install g++; macOS: xcode-select --install), or keep train.compile off"
    )
    return Finding(ABOUT, "compiler", "warning", f"torch.compile does not work: {reason[:200]}", remedy)


def kernels() -> Finding:
    """Whether training on CPUs uses the C++ kernels, which are compiled now if they never were."""
    from groundup.kernels import cpu_build

    found = cpu_build.kernels()
    if found.library:
        return Finding(ABOUT, "kernels", "ok", "C++ kernels for CPUs work", values={"identity": found.identity})
    sentence = f"no C++ kernels, so torch computes the same slower on CPUs: {found.reason}"
    return Finding(ABOUT, "kernels", "warning" if found.remedy else "ok", sentence, found.remedy)


def disk(folder: Path) -> Finding:
    """Free space where `folder` is or would be, and the speed of writing and reading a file there."""
    free = system.free_disk(folder)
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    status: Status = _status(free, LOW_DISK_BYTES)
    remedy = "make room, or choose another disk with --out" if status != "ok" else ""
    sentence, values = f"{human_bytes(free)} free at {existing}", {"place": str(existing), "free_bytes": free}
    if free < 4 * SPEED_TEST_BYTES:
        return Finding(ABOUT, "disk", status, sentence, remedy, values)
    try:
        write, read = disk_speed(existing)
    except OSError as error:
        remedy = "fine for data to read; write runs to another folder"
        return Finding(ABOUT, "disk", "warning", f"{existing}: cannot be written ({error.strerror})", remedy, values)
    if write < SLOW_DISK_BYTES_PER_S and status == "ok":
        status, remedy = "warning", "keep runs on a local disk; give --checkpoint.every_steps a larger number"
    sentence += f"; writes {write / 1e6:,.0f} MB/s, reads {read / 1e6:,.0f} MB/s"
    values |= {"write_bytes_per_s": round(write), "read_bytes_per_s": round(read)}
    return Finding(ABOUT, "disk", status, sentence, remedy, values)


def disk_speed(folder: Path) -> tuple[float, float]:
    """Bytes per second of writing a temporary file to disk, and of reading it."""
    block = os.urandom(1 << 20)
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(SPEED_TEST_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter()
        if hasattr(os, "posix_fadvise"):  # otherwise it is read from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        reading = time.perf_counter()
        while file.read(len(block)):
            pass
        return SPEED_TEST_BYTES / (written - began), SPEED_TEST_BYTES / (time.perf_counter() - reading)


def _status(free: float, limits: tuple[float, float]) -> Status:
    return "problem" if free < limits[0] else "warning" if free < limits[1] else "ok"
