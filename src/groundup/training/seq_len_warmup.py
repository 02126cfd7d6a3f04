"""Short contexts first: windows cut into pieces, which grow as a run goes on.

What is near teaches most at first, and short pieces cost less attention (arXiv:2108.06084, "sequence length warmup").
The windows themselves, their order and the tokens of a step stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable

from groundup.config.schema import Config


def lengths(config: Config) -> list[int]:
    """Every length that pieces have in a run."""
    first = config.train.seq_len_warmup_from or config.model.block_size
    return [first << n for n in range((config.model.block_size // first).bit_length())]


def build_ramp(config: Config) -> Callable[[float], int]:
    """From the fraction of the horizon done after the coming step to the tokens a piece.

    From `train.seq_len_warmup_from` tokens on the length doubles at equal distances, up to the full length at
    `train.seq_len_warmup_until`.
    """
    pieces, whole = lengths(config), config.train.seq_len_warmup_until

    def length(fraction: float) -> int:
        return pieces[int((len(pieces) - 1) * fraction / whole)] if fraction < whole else pieces[-1]

    return length
