"""GPUs of rented nodes and the links between them, as their makers and their users state them. Needs no torch.

Peaks, memory, watts and links are NVIDIA's data sheets of the SXM modules; they were read, with links to each sheet, in
github.com/stas00/ml-engineering at 744d01e (compute/accelerator/README.md, network/README.md: "ml-engineering" below).
"""

from __future__ import annotations

from dataclasses import dataclass

from groundup.config.merge import did_you_mean
from groundup.errors import UsageError

# Of a link's data-sheet speed, what large collectives reach: rings of eight A100 78 %, of eight H200 82 %, all-gather
# and reduce-scatter 80 %, between nodes 73 %, all measured (ml-engineering, network/README.md, NCCL 2.27).
ATTAINED = 0.8

# Of a GPU's peak, what training reaches: one source for all generations, MPT-1B at T = 2048 on one node of eight with
# FSDP, as it ran: mosaicml/llm-foundry at 8c8dd48, scripts/train/benchmarking/README.md. Times `flops_per_token` here.
MFU_SOURCE = "MPT-1B on 8 GPUs, llm-foundry's table"

SERVERS = 8  # GPUs of the node whose power is stated


@dataclass(frozen=True)
class GPU:
    """One GPU in its usual node."""

    name: str
    peak: float  # FLOP/s, bf16 matrix products, dense (not the sheet's doubled figure "with sparsity")
    memory: float  # bytes
    watts: float  # of the module at full load (TDP)
    node_watts: float  # the most that a node of eight takes, fans, CPUs and network cards with it
    intra_node: float  # bytes/s to the other GPUs of a node, one direction, by data sheet
    inter_node: float  # bytes/s to other nodes, one direction, its share of the node's network cards, by data sheet
    mfu: float  # of `peak`, in training, see MFU_SOURCE
    mfu_source: str


NVLINK3, NVLINK4 = 300e9, 450e9  # bytes/s each way; sheets say 600 and 900 GB/s, both ways together
HDR, NDR = 200e9 / 8, 400e9 / 8  # bytes/s of one InfiniBand card; DGX A100 and DGX H100 have one for each GPU
A100_NODE, H100_NODE = 6_500, 10_200  # watts at most; NVIDIA's DGX A100 and DGX H100/H200 user guides

GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("a100", 312e12, 80e9, 400, A100_NODE, NVLINK3, HDR, 0.557, MFU_SOURCE),  # 20,513 tokens/s a GPU
        GPU("h100", 989e12, 80e9, 700, H100_NODE, NVLINK4, NDR, 0.389, MFU_SOURCE),  # 45,455 tokens/s a GPU
        # The same chip with more memory; no table of bf16 training on it was found.
        GPU("h200", 989e12, 141e9, 700, H100_NODE, NVLINK4, NDR, 0.389, f"taken from the H100: {MFU_SOURCE}"),
    )
}


def find_gpu(name: str) -> GPU:
    """The row called `name`; UsageError with the nearest name when there is none."""
    if name.lower() not in GPUS:
        raise UsageError(
            f"--gpu {name}: not in the table; {did_you_mean(name.lower(), GPUS)}; known are {', '.join(GPUS)}"
        )
    return GPUS[name.lower()]


def ring_bytes(message: float, n: int) -> float:
    """Bytes that each of `n` sends in a ring all-reduce: 2·(n − 1)/n·P (Patarasuk and Yuan, 2009); none alone."""
    return 2 * (n - 1) / n * message


def communication_seconds(message: float, nodes: int, per_node: int, intra_node: float, inter_node: float) -> float:
    """Seconds of a hierarchical all-reduce of `message` bytes, as NCCL does it; bandwidths in bytes/s each way a GPU.

    Within a node a reduce-scatter and an all-gather, together a ring's 2·(g − 1)/g·P; between nodes a ring over the
    g-th part that each GPU then holds. Pieces follow one another through both, so the slower of the two sets the time.
    One node of n, or n nodes of one, are a plain ring. ml-engineering measured 22 ms for 4 GiB on 4 nodes of 8 B200,
    between this (20 ms) and the sum of both (31 ms).
    """
    within = ring_bytes(message, per_node) / intra_node
    between = ring_bytes(message / per_node, nodes) / inter_node
    return max(within, between)
