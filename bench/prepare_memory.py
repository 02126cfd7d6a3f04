"""Peak memory and speed of `groundup prepare` on a long text, made by repeating a short one.

    python -m bench.prepare_memory book.txt other.txt.gz --gigabytes 2 --tokenizers gpt2 byte bpe:8000

Needs about four times that much disk space, in the system's temporary folder or `$TMPDIR`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from groundup.sources.compression import open_decompressed


def main() -> None:
    """Print a table: tokenizer, threads, seconds, MB of text per second, peak resident memory in MB."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("texts", nargs="+", type=Path, metavar="FILE", help="texts to repeat; also .gz and .zst")
    parser.add_argument("--gigabytes", type=float, default=2.0, metavar="X")
    parser.add_argument("--tokenizers", nargs="+", default=["gpt2", "byte", "bpe:8000"], metavar="NAME")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="groundup-bench-") as folder:
        text = Path(folder) / "long.txt"
        n_bytes = repeat(args.texts, text, int(args.gigabytes * 1e9))
        print(f"{n_bytes / 1e9:.2f} GB of text in one file, {args.threads} threads")
        print("| tokenizer | seconds | MB/s | peak MB |\n|---|---|---|---|")
        for tokenizer in args.tokenizers:
            seconds, peak = measure(text, Path(folder) / "out", tokenizer, args.threads)
            print(f"| {tokenizer} | {seconds:.0f} | {n_bytes / seconds / 1e6:.1f} | {peak / 1e6:.0f} |", flush=True)


def repeat(texts: list[Path], target: Path, at_least: int) -> int:
    """Write the texts repeatedly until `at_least` bytes are reached; returns the size."""
    size = 0
    with target.open("wb") as long:
        while size < at_least:
            for path in texts:
                with open_decompressed(path) as short:
                    while block := short.read(1 << 20):
                        size += long.write(block)
    return size


def measure(text: Path, out: Path, tokenizer: str, threads: int) -> tuple[float, int]:
    """Run `groundup prepare` once; returns seconds and peak resident memory in bytes."""
    words = [str(text), "--out", str(out), "--tokenizer", tokenizer, "--threads", str(threads), "--overwrite", "--json"]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "groundup", "prepare", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"prepare ended with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
