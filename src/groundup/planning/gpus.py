"""GPUs of rented nodes: peak rate, memory, and the part of the peak that training reaches. Needs no torch.

Peak and memory are those of NVIDIA's data sheets of the SXM modules, read, with links to each sheet, in
github.com/stas00/ml-engineering at 744d01e (compute/accelerator/README.md).
"""

from dataclasses import dataclass

from groundup.config.merge import did_you_mean
from groundup.errors import UsageError

# One published table for both generations: MPT-1B at 2048 tokens on one node of eight with FSDP, without activation
# checkpointing: mosaicml/llm-foundry at 8c8dd48, scripts/train/benchmarking/README.md, times `flops_per_token` here.
MFU_SOURCE = "published for MPT-1B on 8 GPUs, llm-foundry's table"


@dataclass(frozen=True)
class GPU:
    """Peak rate, memory and published MFU (model FLOPs utilisation) of one type of GPU."""

    name: str
    peak: float  # FLOP/s of bf16 matrix products, dense (not the sheet's doubled figure "with sparsity")
    memory: float  # bytes
    mfu: float  # fraction of `peak` that training reaches
    mfu_source: str = MFU_SOURCE


GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("a100", 312e12, 80e9, 0.557),  # 20,513 tokens/s per GPU
        GPU("h100", 989e12, 80e9, 0.389),  # 45,455 tokens/s per GPU
        # The same chip with more memory; no table of bf16 training on it was found.
        GPU("h200", 989e12, 141e9, 0.389, f"taken from the H100: {MFU_SOURCE}"),
    )
}


def find_gpu(name: str) -> GPU:
    """The row called `name`; UsageError with the nearest name, or all of them, when there is none."""
    if name.lower() not in GPUS:
        raise UsageError(f"--gpu {name}: not in the table; {did_you_mean(name.lower(), GPUS)}")
    return GPUS[name.lower()]
