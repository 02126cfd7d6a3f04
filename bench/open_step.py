"""Time to find and read the sequences of one step of a long run over a large corpus.

    python -m bench.open_step

The corpus is a sparse file: ten billion tokens that take no disk space, in the system's temporary folder or
`$TMPDIR`. Exit status 1 if the promise is broken.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

from bench.measure import seconds
from groundup.data.shard_writer import SHARD_TOKENS
from groundup.data.shards import DOCUMENT, MANIFEST, Manifest, Shard, Split, SplitRule, TokenizerInfo, Tokens
from groundup.data.windows import ShuffledWindows

TOKENS, STEP = 10_000_000_000, 1_000_000
BLOCK, ROWS = 1024, 512  # GPT-2's context, and its batch of half a million tokens
MAX_SECONDS = 0.1  # seconds
ROUNDS = 5


def main() -> int:
    """Print one line; exit status 1 if it takes too long."""
    with tempfile.TemporaryDirectory(prefix="groundup-bench-") as name:
        folder = Path(name)
        make_sparse(folder, TOKENS)
        times = [seconds(partial(open_step, folder, STEP - i)) for i in range(ROUNDS)]  # each from the disk
    median = statistics.median(times)
    print(
        f"step {STEP:,} of {TOKENS / 1e9:g} billion tokens, {ROWS} x {BLOCK} tokens: opened in {median * 1e3:.0f} ms "
        f"from the disk (median of {ROUNDS} steps); promised: {MAX_SECONDS * 1e3:.0f} ms"
    )
    return int(median > MAX_SECONDS)


def open_step(folder: Path, step: int) -> None:
    """Open the data and read the global batch of a step."""
    batches = ShuffledWindows(Tokens.open(folder, "train"), BLOCK, seed=1337)
    assert batches.read((step - 1) * ROWS, ROWS).shape == (ROWS, BLOCK + 1)


def make_sparse(folder: Path, n_tokens: int) -> None:
    """Write prepared data of one document of `n_tokens` zeros."""
    shards = []
    for i, start in enumerate(range(0, n_tokens, SHARD_TOKENS)):
        shard = Shard(file=f"train-{i:05d}.bin", tokens=min(SHARD_TOKENS, n_tokens - start), sha256="0" * 64)
        _hole(folder / shard.file, 2 * shard.tokens)
        shards.append(shard)
    _hole(folder / "documents-train.bin", DOCUMENT.itemsize)
    _hole(folder / "documents-val.bin", 0)
    manifest = Manifest(
        dtype="uint16",
        tokenizer=TokenizerInfo(name="gpt2", n_vocab=50_257, fingerprint="0" * 64),
        splits={
            "train": Split(tokens=n_tokens, bytes=n_tokens, documents=1, shards=tuple(shards)),
            "val": Split(tokens=0, bytes=0, documents=0, shards=()),
        },
        split=SplitRule(rule="documents by hash", val_fraction=0.0),
        sources=("nothing",),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")


def _hole(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)


if __name__ == "__main__":
    sys.exit(main())
