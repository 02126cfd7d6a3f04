"""Time that training waits for a checkpoint of GPT-2's smallest size: weights and AdamW's state, 1.5 GB.

python -m bench.checkpoint [FOLDER]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from groundup.checkpoint import state
from groundup.config import presets
from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.distributed.gather import gather, state_tensors
from groundup.model.gpt import GPT
from groundup.optim.optimizer import build_optimizer
from groundup.tokenizers.byte_char import ByteTokenizer

ROUNDS = 5


def main(folder: Path) -> None:
    """Print medians: the time that training waits, and the time of the background write."""
    config = merge_and_validate([presets.preset("gpt2"), ConfigSource("bench", {"model": {"vocab_size": 50_257}})])
    gpt = GPT(config.model).init_weights()
    optimizer = build_optimizer(gpt.named_parameters(), config.optimizer)
    for parameter in gpt.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    waits, writes, tensors = [], [], None
    writer = ThreadPoolExecutor(1)
    for step in range(ROUNDS):
        started = time.perf_counter()
        tensors = gather(state_tensors(gpt, optimizer), keep=True, copy=True, reuse=tensors)
        snapshot = state.Snapshot(config, ByteTokenizer(), {"step": step}, tensors)
        target = folder / f"step-{step}"
        writing = writer.submit(state.save, target, snapshot)
        waits.append(time.perf_counter() - started)
        writing.result()
        writes.append(time.perf_counter() - started)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"checkpoint of {size / 1e9:.2f} GB, medians of {ROUNDS}:")
    print(f"  training waits {statistics.median(waits):.2f} s (asynchronous), {statistics.median(writes):.2f} s (not)")
    writer.shutdown()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        main(Path(folder))
