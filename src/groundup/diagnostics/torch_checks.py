"""What torch can do here: its build, its GPU, its fastest type of number, its compiler."""

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

SECONDS = 0.25  # for each type of number
COMPILE_SECONDS = 120.0
COMPILED = "import torch; f = torch.compile(lambda x: (x * 2 + 1).sum()); assert f(torch.ones(8)) == 24"


def torch_build() -> Iterator[Finding]:
    """Whether torch can be loaded, what CPU it sees, and which GPU."""
    try:
        import torch
    except Exception as error:  # whatever a broken installation raises
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
        yield Finding(ABOUT, "gpu", "ok", "Apple's, shares the main memory")
    elif cuda and os.path.exists("/dev/nvidia0"):  # noqa: PTH110
        remedy = "look at `nvidia-smi`: its driver may be older than this torch wants"
        yield Finding(ABOUT, "gpu", "warning", "there is one, but torch cannot use it", remedy)
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
    """Which type of number multiplies matrices fastest here: timed, as nothing else tells the truth."""
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
    """Operations a second of the best of some products of square matrices, on all threads."""
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
        if deadline or now - began > SECONDS:  # the first also loads what the product needs
            best = min(best, now - began)
        deadline = deadline or now + SECONDS
    return 2.0 * size**3 / min(best, SECONDS * 1e6)


def compiler(limit: float = COMPILE_SECONDS, code: str = COMPILED) -> Finding:
    """Whether torch.compile works: something tiny is really compiled, in a process that may be given up."""
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
            _, words = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            words = f"gave up after {limit:g} s"
        finally:
            _end(process)
    seconds = time.perf_counter() - began
    if process.returncode == 0:
        return Finding(ABOUT, "compiler", "ok", f"torch.compile works ({seconds:.0f} s)", values={"seconds": seconds})
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if "Error" in line or "ompiler" in line), (lines or ["?"])[-1])
    remedy = (
        "install a C++ compiler (Debian: apt install g++; macOS: xcode-select --install), or keep train.compile off"
    )
    return Finding(ABOUT, "compiler", "warning", f"torch.compile does not work: {reason[:200]}", remedy)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and those that it started."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.communicate()
