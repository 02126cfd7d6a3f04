"""Subjects of `bench.gpu` that need no training: ceilings, the loss, attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.gpu_child import Job
from bench.gpu_device import copy_tbytes, forget, gemm_tflops, held, here, milliseconds, peak
from bench.gpu_table import Row
from bench.loss import full_logits
from groundup.kernels import cross_entropy
from groundup.kernels.cross_entropy import linear_cross_entropy

TOKENS = 32 * 1024
LAYERS = {"c_attn": (768, 2304), "c_proj": (768, 768), "c_fc": (768, 3072), "mlp.c_proj": (3072, 768)}
KINDS = {
    "bf16": (torch.bfloat16, "highest"),
    "fp16": (torch.float16, "highest"),
    "tf32": (torch.float32, "high"),
    "fp32": (torch.float32, "highest"),
}
MAX_ERROR = 0.01  # of two implementations' gradients in bf16, relative to the largest
BACKENDS = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")


def ceilings(job: Job) -> None:
    """Ceilings of the machine: large matrix products, those of GPT-2's layers, copies."""
    device, tokens, square = here(toy=job.toy), 64 if job.toy else TOKENS, 64 if job.toy else 8192
    vocab = 128 if job.toy else 50_304
    shapes = {"square": (square, square, square)}
    shapes |= {name: (tokens, *size) for name, size in {**LAYERS, "lm_head": (768, vocab)}.items()}
    for kind, (dtype, rounding) in KINDS.items():
        torch.set_float32_matmul_precision("highest" if job.toy else rounding)
        found = {name: gemm_tflops(device, dtype, shape) for name, shape in shapes.items()}
        job.fact(kind, found)
        top = found.pop("square")
        # A step multiplies by each layer's matrix twelve times and by the head's once.
        work = {name: (1 if name == "lm_head" else 12) * shapes[name][1] * shapes[name][2] for name in found}
        mean = sum(work.values()) / sum(work[name] / found[name] for name in found)
        job.add(
            Row(f"{kind}, {square} x {square} x {square}", top, "TFLOP/s"),
            Row(f"{kind}, GPT-2's layers and head, {tokens:,} tokens", mean, "TFLOP/s", share=mean / top),
        )
    torch.set_float32_matmul_precision("highest")
    job.add(Row("copy, read and written", copy_tbytes(device, 1 if job.toy else 4096), "TB/s"))


Way = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def losses(job: Job) -> None:
    """Time and memory of the head and the loss, forward and backward; difference between Triton and torch."""
    device = here(toy=job.toy)
    N, C, P, V = (64, 32, 128, 100) if job.toy else (TOKENS, 768, 50_304, 50_257)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(N, C, generator=draw).to(device, torch.bfloat16).requires_grad_()
    weight = (0.02 * torch.randn(P, C, generator=draw)).to(device).requires_grad_()
    targets = torch.randint(V, (N,), generator=draw).to(device)

    def step(way: Way) -> Tensor:
        x.grad = weight.grad = None
        with torch.autocast(device.type, torch.bfloat16):
            loss = way(x, weight, targets, V)
        loss.backward()
        return loss.detach()

    gradients: dict[str, list[Tensor]] = {}

    def measured(name: str, way: Way) -> tuple[float, float]:
        forget(device)
        with triton_disabled() if name.startswith("torch") else no_change():
            gradients[name] = [step(way).double().cpu(), *(g.float().clone() for g in (x.grad, weight.grad))]
            x.grad = weight.grad = None
            forget(device)
            before = held(device)
            time = milliseconds(device, lambda: step(way), repeats=2 if job.toy else 5, warm=1)
        return time, (peak(device) - before) / 2**20

    job.fact("triton", cross_entropy._triton_kernel(device) is not None)
    compiled = full_logits if job.toy else torch.compile(full_logits, dynamic=False)
    ways = {"Triton": chunked(None), "torch chunks": chunked(None), "full": full_logits, "full, compiled": compiled}
    found: dict[str, tuple[float, float]] = {}
    for name, way in ways.items():
        if one := job.attempt(name, partial(measured, name, way)):
            found[name] = one
            job.show(rows_of(found, f"{N:,} x {C} x {P:,}"))
    differences(job, gradients)
    gradients.clear()
    pieces = (0.01, 0.02) if job.toy else (64, 128, 256, 512, 1024)
    for mebibytes in pieces:  # of fp32 logits, as in kernels/thresholds.py
        rows = max(1, int(mebibytes * 2**20 / (4 * P)))
        name = f"Triton, {rows:,} rows at a time ({mebibytes:g} MiB)"
        if one := job.attempt(name, partial(measured, name, chunked(rows))):
            job.add(Row(name, one[0], f"ms, {one[1]:,.0f} MiB"))
        gradients.clear()


def rows_of(found: Mapping[str, tuple[float, float]], shape: str) -> list[Row]:
    """Milliseconds and MiB of each variant, compared with the faster one that computes all logits at once."""
    peers = {name: time for name, (time, _) in found.items() if name.startswith("full")}
    best, rows = min(peers, key=peers.__getitem__, default=""), []
    for name, (time, memory) in found.items():
        one = {"peer": peers[best], "peer_name": best, "ratio": peers[best] / time} if best and name != best else {}
        rows.append(Row(f"{name}: {shape}", time, f"ms, {memory:,.0f} MiB", **one))
    return rows


def differences(job: Job, gradients: Mapping[str, list[Tensor]]) -> None:
    """Largest relative difference between Triton's kernel and torch: of the loss and both gradients."""
    if "Triton" not in gradients or "torch chunks" not in gradients:
        return
    pairs = zip(gradients["Triton"], gradients["torch chunks"], strict=True)
    worst = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs)
    goal, met = f"<= {MAX_ERROR:g}", worst <= MAX_ERROR
    job.add(Row("Triton - torch, worst of loss and gradients", worst, "", goal=goal, met=met))


def chunked(rows: int | None) -> Way:
    """Loss as in training, `rows` rows at a time."""
    return lambda x, weight, targets, vocab: linear_cross_entropy(x, weight, targets, vocab=vocab, chunk=rows)


@contextmanager
def triton_disabled() -> Iterator[None]:
    """Disable the Triton kernel."""
    before = cross_entropy._triton_kernel
    cross_entropy._triton_kernel = lambda device: None  # type: ignore[assignment]
    try:
        yield
    finally:
        cross_entropy._triton_kernel = before


@contextmanager
def no_change() -> Iterator[None]:
    """No-op."""
    yield


def attention(job: Job) -> None:
    """Causal attention of GPT-2's shape, forward and backward: torch's choice against each of its kernels."""
    device = here(toy=job.toy)
    B, H, T, D = (2, 2, 32, 16) if job.toy else (32, 12, 1024, 64)
    # In the layout of the model: heads are views of (B, T, C).
    q, k, v = (torch.randn(B, T, H, D, device=device, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
               for _ in range(3))  # fmt: skip
    gradient = torch.randn(B, T, H, D, device=device, dtype=torch.bfloat16).transpose(1, 2)
    work = 3.5 * 2 * B * H * T * (T + 1) * D  # two products forward, five backward, half of each masked

    def once() -> None:
        F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(gradient)
        q.grad = k.grad = v.grad = None

    def by(name: str) -> float:
        with sdpa_kernel(getattr(SDPBackend, name)):
            return milliseconds(device, once)

    chosen = milliseconds(device, once)
    found = {name: ms for name in BACKENDS if (ms := job.attempt(name, partial(by, name)))}
    best = min(found, key=found.__getitem__, default=None)
    peer = {"peer": found[best], "peer_name": best, "ratio": found[best] / chosen} if best else {}
    shape = f"({B}, {H}, {T}, {D}) bf16"
    job.add(Row(f"as torch chooses, {shape}, {work / chosen / 1e9:.0f} TFLOP/s", chosen, "ms", **peer))
    job.add(*(Row(f"{name}, {work / ms / 1e9:.0f} TFLOP/s", ms, "ms") for name, ms in found.items()))
