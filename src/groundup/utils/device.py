"""Device, precision and determinism of torch's computations."""

import os
import platform
import re
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from groundup.errors import ConfigError
from groundup.utils.system import DEVICE_PATTERN

Name = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

BF16_FROM = (8, 0)  # compute capability: Ampere. `is_bf16_supported` says yes to emulation on a T4
X86 = ("x86_64", "amd64")
FP16_FROM = (5, 3)  # the first with fp16 arithmetic

MAX_TIMING_SECONDS = 0.1  # of matrix products: an emulated type takes 200 ms for one that takes fp32 3 ms

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_DETERMINISTIC = (":4096:8", ":16:8")  # NVIDIA, cuBLAS, "Results reproducibility"

# Plain RuntimeErrors of the CPU's allocator, Metal, CUDA's driver and cuBLAS.
OUT_OF_MEMORY_MESSAGES = (
    "DefaultCPUAllocator:", "MPS backend out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
)  # fmt: skip


class Precision(NamedTuple):
    """A chosen precision and the reason, for the log."""

    name: Name
    reason: str


def choose_device(wanted: str) -> torch.device:
    """The requested device, or for `auto` the best one; ConfigError when this machine does not have it."""
    if not re.fullmatch(DEVICE_PATTERN, wanted):
        raise ConfigError(f"device: {wanted!r} is not one of auto, cpu, cuda, cuda:N, mps")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    device = torch.device(wanted)
    available = {"cpu": True, "cuda": cuda and (device.index or 0) < torch.cuda.device_count(), "mps": mps}
    if not available[device.type]:
        raise ConfigError(f"device: {wanted} is not on this machine; use auto or cpu")
    return device


def device_memory(device: torch.device) -> int | None:
    """Bytes of a GPU's own memory; None for devices that use main memory."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`; a GPU copies it in turn with its other work, and this thread does not wait for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def reseed(seed: int, device: torch.device) -> None:
    """Seed the generator that dropout uses on `device`."""
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """The requested precision, or for `auto` the fastest safe one; ConfigError when the device does not support it."""
    if device.type == "cuda":
        return _on_cuda(wanted, torch.cuda.get_device_capability(device))
    if wanted == "auto" and device.type == "mps":
        return Precision("fp32", "the safe choice on Apple GPUs")
    if wanted == "auto" and platform.machine().lower() in X86:
        if has_bf16_units():
            return Precision("bf16", "CPU with bf16 units (AVX512-BF16 or AMX)")
        return Precision("fp32", "this CPU emulates bf16")
    if wanted == "auto":
        speedup = bf16_speedup()
        reason = f"bf16 matrix products run {speedup:.2g}x as fast as fp32 on this CPU"
        return Precision("bf16" if speedup > 1.2 else "fp32", reason)
    slow = wanted == "fp16" and device.type == "cpu"
    return _as_configured(wanted, "; slow: most CPUs emulate fp16, hundreds of times slower than fp32" if slow else "")


def _on_cuda(wanted: str, capability: tuple[int, int]) -> Precision:
    shown = ".".join(map(str, capability))
    if wanted == "auto":
        if capability >= BF16_FROM:
            return Precision("bf16", "GPU with bf16 units")
        if capability >= FP16_FROM:
            return Precision("fp16", f"GPU with fp16 but no bf16 units (compute capability {shown})")
        return Precision("fp32", f"GPU without bf16 and fp16 units (compute capability {shown})")
    first = {"bf16": BF16_FROM, "fp16": FP16_FROM}.get(wanted, capability)
    if capability < first:
        raise ConfigError(
            f"train.precision: {wanted} needs a GPU of compute capability {first[0]}.{first[1]} or more, "
            f"this has {shown}; use {'fp16' if capability >= FP16_FROM else 'fp32'}"
        )
    return _as_configured(wanted)


def _as_configured(wanted: str, warning: str = "") -> Precision:
    if wanted not in DTYPES:
        raise ConfigError(f"train.precision: {wanted!r} is not one of auto, {', '.join(DTYPES)}")
    return Precision(cast(Name, wanted), f"as configured{warning}")


def autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Context manager for the forward pass: matrix products in bf16 or fp16, the rest in fp32; a no-op for fp32."""
    dtype = DTYPES[precision]
    return nullcontext if dtype == torch.float32 else partial(torch.autocast, device.type, dtype=dtype)


def loss_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Loss scaling (arXiv:1710.03740, section 3.2), so that small fp16 gradients do not vanish; else a no-op.

    The loss is multiplied by 65,536; where a gradient then overflows, the step is skipped and the scale halved, and
    after 2,000 steps without overflow it doubles. Scale and count belong in every checkpoint: `state_dict`.
    """
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def set_matmul_precision(wanted: str, device: torch.device) -> None:
    """Set what fp32 matrix products on a GPU may round to, for the process: `high` TF32, `medium` bf16, `highest` none.

    On a CPU always `highest`: with the others, oneDNN would compute in bf16.
    """
    torch.set_float32_matmul_precision("highest" if device.type == "cpu" else wanted)


def has_bf16_units() -> bool:
    """Whether this x86 CPU multiplies bf16 matrices faster than fp32. Not timed: every run must decide the same."""
    units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return units and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def is_bf16_gpu(device: torch.device) -> bool:
    """Whether the device is a GPU with bf16 units."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= BF16_FROM


def bf16_speedup() -> float:
    """Speed of bf16 matrix products relative to fp32 on this CPU; takes about 30 ms."""
    best = _matmul_seconds(torch.device("cpu"), (torch.float32, torch.bfloat16), 512)
    return best[torch.float32] / best[torch.bfloat16]


def matmul_flops(device: torch.device, precision: Name, threads: int) -> float:
    """FLOP/s of bare matrix products, at 2·n³ each; on a CPU, those of one thread times `threads`."""
    cpu = device.type == "cpu"
    size, dtype = 512 if cpu else 4096, DTYPES[precision]
    return 2.0 * size**3 / _matmul_seconds(device, (dtype,), size)[dtype] * (threads if cpu else 1)


def _matmul_seconds(device: torch.device, dtypes: tuple[torch.dtype, ...], size: int) -> dict[torch.dtype, float]:
    """Shortest time of a product in each dtype, alternating; on one thread, as more would measure other programs."""
    on_gpu = device.type != "cpu"
    # This thread's own time leaves out that of other programs; macOS computes products on threads of its own.
    clock = time.thread_time if sys.platform == "linux" and not on_gpu else time.perf_counter
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = dict.fromkeys(dtypes, float("inf"))
    pairs = {dtype: torch.ones(2, size, size, dtype=dtype, device=device) for dtype in dtypes}
    deadline = clock() + MAX_TIMING_SECONDS
    for _ in range(7):  # or until the deadline
        for dtype, (a, b) in pairs.items():
            if clock() > deadline and best[dtype] < float("inf"):
                continue
            began = clock()
            a @ b
            if on_gpu:
                torch.accelerator.synchronize()
            best[dtype] = min(best[dtype], clock() - began)
    torch.set_num_threads(threads)
    return best


def make_deterministic(on: bool, device: torch.device, log: Callable[[str], None]) -> None:
    """Compute with deterministic kernels only (`on`), or as torch does by default; for the complete process.

    Scope: the same machine or one with the same GPU model, the same versions of torch, CUDA and driver, the same
    config, device, precision and number of processes. Then a repeated or resumed run ends with the same weights, bit
    for bit. An operation without a deterministic kernel raises instead. Not covered: `train.compile max-autotune`,
    which picks kernels by timing them, and run lengths in wall-clock time. On a CPU, training is always repeatable.

    cuBLAS reads its setting when CUDA starts: call this before anything is put on the GPU; if it is too late, `log`
    gets a message.
    """
    if on and device.type == "cuda" and os.environ.get(CUBLAS_VARIABLE) not in CUBLAS_DETERMINISTIC:
        os.environ[CUBLAS_VARIABLE] = CUBLAS_DETERMINISTIC[0]
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            log(
                f"train.deterministic: CUDA was in use before {CUBLAS_VARIABLE} was set, so matrix products may not "
                f"repeat; start in a new process, or set {CUBLAS_VARIABLE}={CUBLAS_DETERMINISTIC[0]} before it starts"
            )
    if on or torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler, for a second
        torch.use_deterministic_algorithms(on)
    torch.utils.deterministic.fill_uninitialized_memory = not on  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = on
    torch.backends.cudnn.benchmark = False


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch's means that memory ran out, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY_MESSAGES)
