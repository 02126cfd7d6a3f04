"""How many rows of logits are worth having at a time; needs no torch."""

from __future__ import annotations

# Bytes of fp32 logits: on a CPU about what its last cache holds, on a GPU enough to fill it.
CPU, GPU = 32 * 2**20, 512 * 2**20
LEAST = 256  # rows; with fewer, matrix products read the weights so often that they take half as long again
WHOLE = 8 * 2**20  # bytes of fp32 logits up to which torch's own way, which has them all, is as quick


def whole(rows: int, columns: int) -> bool:
    """Whether so few logits are not worth cutting."""
    return 4 * rows * columns <= WHOLE


def chunk_rows(rows: int, columns: int, device: str) -> int:
    """Rows of logits at a time, of `rows` in all with so many `columns`: equal pieces, as few as there may be.

    `device` is cpu, cuda or mps.
    """
    most = max(LEAST, (CPU if device == "cpu" else GPU) // (4 * columns))
    pieces = max(1, -(-rows // most))
    return max(1, -(-rows // pieces))
