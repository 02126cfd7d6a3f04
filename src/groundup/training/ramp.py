"""Short contexts first: windows cut into pieces, which grow as a run goes on.

What is near teaches most at first, and short pieces cost less attention (arXiv:2108.06084, "sequence length warmup").
The windows themselves, their order and the tokens of a step stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable

from groundup.config import Config


def build_ramp(config: Config) -> Callable[[float], int]:
    """From the fraction of the horizon done after the coming step to the tokens a piece.

    From `batches.first_context` on, pieces double at equal distances, until at `batches.whole_from` windows are whole.
    """
    first, block = config.batches.first_context or config.model.block_size, config.model.block_size
    doublings = (block // first).bit_length() - 1
    whole = config.batches.whole_from

    def length(fraction: float) -> int:
        if fraction >= whole:
            return block
        return first << int(doublings * fraction / whole)

    return length
