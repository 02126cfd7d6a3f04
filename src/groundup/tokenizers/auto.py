"""What `--tokenizer auto` means: a tokenizer by the size and the script of a text."""

import math
from typing import NamedTuple

AUTO = "auto"

MIN_BPE_BYTES = 400_000  # of text from which training a vocabulary pays
MIN_BPE_BYTES_WIDE = 30_000  # the same for scripts whose characters take several bytes
WIDE_BYTES_PER_CHARACTER = 1.5
BPE_SIZES = (512, 4096)  # least and most: more ids would be most of the work of a small model
BYTES_PER_ID = 1_000  # of text: enough to see most ids often
BYTE_CHARACTERS = 8  # with at most so many different characters, as in a genome, bytes are vocabulary enough


class AutoTokenizer(NamedTuple):
    """A tokenizer, as `--tokenizer` takes it, and the reason for it."""

    spec: str
    reason: str


def auto_tokenizer(
    n_bytes: int, bytes_per_character: float = 1.0, distinct: int = BYTE_CHARACTERS + 1
) -> AutoTokenizer:
    """The tokenizer for a text of `n_bytes` with so many `distinct` characters. It depends on nothing else."""
    wide = bytes_per_character > WIDE_BYTES_PER_CHARACTER
    if distinct <= BYTE_CHARACTERS:
        return AutoTokenizer("byte", "so few different characters need no other vocabulary")
    if n_bytes < (MIN_BPE_BYTES_WIDE if wide else MIN_BPE_BYTES):
        return AutoTokenizer("byte", "too little text to train a vocabulary on; every byte is a token")
    why = "its characters take several bytes, which a vocabulary joins" if wide else "fewer tokens for the same text"
    size = min(max(2 ** round(math.log2(n_bytes / BYTES_PER_ID)), BPE_SIZES[0]), BPE_SIZES[1])
    return AutoTokenizer(f"bpe:{size}", f"{size:,} pieces of words, trained on the text; {why}")
