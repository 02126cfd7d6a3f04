"""Sequence-length warm-up (arXiv:2108.06084): short sequences first, which double in length as the run proceeds.

Nearby tokens teach most at first, and short sequences cost less attention. The data order and the tokens per step stay
the same: sequences are cut into shorter ones.
"""

from __future__ import annotations

from collections.abc import Callable


def sequence_lengths(first: int | None, block_size: int) -> list[int]:
    """Every length that sequences have in a run: `first` doubled up to `block_size`; None: no warm-up."""
    first = first or block_size
    return [first << n for n in range((block_size // first).bit_length())]


def build_seq_len(first: int | None, until: float, block_size: int) -> Callable[[float], int]:
    """Length of sequences as a function of the fraction of the run done after the coming step.

    It starts at `first` and doubles at equal distances, up to `block_size` at the fraction `until`.
    """
    lengths = sequence_lengths(first, block_size)

    def seq_len(fraction: float) -> int:
        return lengths[int((len(lengths) - 1) * fraction / until)] if fraction < until else lengths[-1]

    return seq_len
