"""Checks of torch on this machine: its build, its GPUs, the fastest precision, its compiler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from groundup.diagnostics.finding import Finding
from groundup.diagnostics.machine import ABOUT

if TYPE_CHECKING:
    import torch

TIMING_SECONDS = 0.25  # per precision
COMPILE_SECONDS = 120.0
COMPILED_CODE = "import torch; f = torch.compile(lambda x: (x * 2 + 1).sum()); assert f(torch.ones(8)) == 24"


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
    yield Finding(
        ABOUT,
        "torch",
        "warning" if plain else "ok",
        f"{torch.__version__}, {build}; vector instructions: {'none' if plain else capability}",
        "this CPU, or the emulator around it, lacks AVX2: training will be slow" if plain else "",
        values,
    )
    if torch.cuda.is_available():
        yield from _gpus()
    elif torch.backends.mps.is_available():
        yield Finding(ABOUT, "gpu", "ok", "Apple's, which shares the main memory")
    elif cuda and os.path.exists("/dev/nvidia0"):  # noqa: PTH110
        remedy = "run `nvidia-smi`: its driver may be older than this torch needs"
        yield Finding(ABOUT, "gpu", "warning", "present, but torch cannot use it", remedy)
    else:
        yield Finding(ABOUT, "gpu", "ok", "none, which is fine for small models")


def _gpus() -> Iterator[Finding]:
    import torch

    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        free, total = torch.cuda.mem_get_info(i)
        values = {"name": gpu.name, "capability": [gpu.major, gpu.minor], "bytes": total, "free_bytes": free}
        sentence = f"{gpu.name}, capability {gpu.major}.{gpu.minor}, {free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
        busy = free < total / 2
        remedy = "another program holds the rest; `nvidia-smi` names it" if busy else ""
        yield Finding(ABOUT, f"gpu {i}", "warning" if busy else "ok", sentence, remedy, values)


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


def compiler(limit: float = COMPILE_SECONDS, code: str = COMPILED_CODE) -> Finding:
    """Whether torch.compile works: compiles a small function, in a process that is killed after `limit` seconds."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="groundup-doctor-") as cache:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            _, output = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            output = f"gave up after {limit:g} s"
        finally:
            _kill(process)
    seconds = time.perf_counter() - began
    if process.returncode == 0:
        return Finding(ABOUT, "compiler", "ok", f"torch.compile works ({seconds:.0f} s)", values={"seconds": seconds})
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if "Error" in line or "ompiler" in line), (lines or ["?"])[-1])
    remedy = (
        "install a C++ compiler (Debian: apt install g++; macOS: xcode-select --install), or keep train.compile off"
    )
    return Finding(ABOUT, "compiler", "warning", f"torch.compile does not work: {reason[:200]}", remedy)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and those that it started."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.communicate()
