"""Sizes at which a computation changes its form, and the chunks that follow from them; needs no torch."""

CPU_CHUNK_BYTES = 32 * 2**20  # of fp32 logits: about what a CPU's last cache holds
GPU_CHUNK_BYTES = 512 * 2**20  # of fp32 logits: enough to fill a GPU
MIN_CHUNK_ROWS = 256  # with fewer, matrix products read the weights so often that they take half as long again
MAX_UNCHUNKED_BYTES = 8 * 2**20  # of fp32 logits; up to here torch's own cross-entropy is as fast
UNFUSED_ATTENTION_MAX_TOKENS = 512  # up to here the scores fit a core's cache, and matrix products win on CPUs


def fits_unchunked(rows: int, columns: int) -> bool:
    """Whether all logits are few enough to be computed at once."""
    return 4 * rows * columns <= MAX_UNCHUNKED_BYTES


def chunk_rows(rows: int, columns: int, device: str) -> int:
    """Rows of logits to compute at a time, of `rows` with `columns` each: as few chunks as fit, of equal size.

    `device` is cpu, cuda or mps.
    """
    most = max(MIN_CHUNK_ROWS, (CPU_CHUNK_BYTES if device == "cpu" else GPU_CHUNK_BYTES) // (4 * columns))
    chunks = max(1, -(-rows // most))
    return max(1, -(-rows // chunks))
