"""Subject `time-to-loss`: from a file to a model of known quality, beside nanoGPT's documented CPU command."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.measure import Options, Result, interleaved, seconds
from bench.nanogpt import CLONE, load_module
from groundup.errors import UsageError

ROUNDS = 3
WINDOW = 64  # characters; nanoGPT's context in this command
MINUTES = 0.2  # of training that suffice for its loss

# README.md of nanoGPT, "I only have a macbook", with its data preparation left out of the time.
DOCUMENTED = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 "
    "--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
).split()


def run(options: Options) -> Result:
    """Whole processes, from the command to the last line they print, and the loss of what they leave behind.

    Losses are over the whole validation split (the last tenth of the text) in windows of 64 characters. UsageError
    without the text.
    """
    if options.text is None:
        raise UsageError("time-to-loss: give tinyshakespeare's input.txt with --text")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        contenders = {"groundup quickstart": partial(_ours, options.text, place / "ours")}
        if options.nanogpt:
            contenders["nanoGPT"] = partial(_theirs, _checkout(options, place / "nanogpt"), options.threads)
        rows = interleaved(contenders, options.rounds_or(ROUNDS))
        losses = {"groundup quickstart": _our_loss(place / "ours")}
        if options.nanogpt:
            losses["nanoGPT"] = _their_loss(place / "nanogpt")
    result = Result("time-to-loss: tinyshakespeare by characters", "s", rows, baseline="nanoGPT")
    for name, loss in losses.items():
        result.notes.append(f"{name}: {loss:.4f} nats a character over the whole validation split, windows of {WINDOW}")
    if losses["groundup quickstart"] > losses.get("nanoGPT", float("inf")):
        result.failures.append("groundup's loss is above nanoGPT's")
    return result


def _ours(text: Path, run: Path) -> float:
    shutil.rmtree(run, ignore_errors=True)
    words = ["quickstart", str(text), "--tokenizer", "char", "--minutes", str(MINUTES), "--out", str(run)]
    return seconds(partial(_output, [sys.executable, "-m", "groundup", *words]))


def _our_loss(run: Path) -> float:
    words = ["evaluate", str(run), "--checkpoint", "best", "--window", str(WINDOW), "--json"]
    return json.loads(_output([sys.executable, "-m", "groundup", *words]))["loss"]


def _checkout(options: Options, place: Path) -> Path:
    """A copy of nanoGPT with its data prepared from the same file."""
    assert options.nanogpt is not None
    if not (options.nanogpt / "train.py").is_file():
        raise UsageError(f"--nanogpt: there is no {options.nanogpt / 'train.py'}; `{CLONE}` makes a checkout")
    shutil.copytree(options.nanogpt, place, ignore=shutil.ignore_patterns(".git"))
    data = place / "data" / "shakespeare_char"
    assert options.text is not None
    text = options.text.read_text(encoding="utf-8")
    ids = {char: i for i, char in enumerate(sorted(set(text)))}
    tokens = np.array([ids[char] for char in text], dtype=np.uint16)
    cut = int(len(text) * 0.9)
    tokens[:cut].tofile(data / "train.bin")
    tokens[cut:].tofile(data / "val.bin")
    meta = {"vocab_size": len(ids), "stoi": ids, "itos": {i: char for char, i in ids.items()}}
    (data / "meta.pkl").write_bytes(pickle.dumps(meta))  # its train.py takes the size of the vocabulary from here
    return place


def _theirs(checkout: Path, threads: int) -> float:
    # It sets no number of threads, and torch takes all cores: where fewer are asked for, the environment says so.
    command = ["env", f"OMP_NUM_THREADS={threads}", sys.executable, "train.py", *DOCUMENTED]
    return seconds(partial(_output, command, cwd=checkout))


def _their_loss(checkout: Path) -> float:
    module = load_module(checkout / "model.py")
    saved = torch.load(checkout / "out-shakespeare-char" / "ckpt.pt", weights_only=True)
    model = module.GPT(module.GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()
    tokens = torch.from_numpy(
        np.fromfile(checkout / "data" / "shakespeare_char" / "val.bin", np.uint16).astype(np.int64)
    )
    total, n = 0.0, len(tokens) - 1
    with torch.no_grad():
        for start in range(0, n, WINDOW):
            x, y = tokens[start : start + WINDOW][: n - start], tokens[start + 1 : start + WINDOW + 1]
            total += model(x[None, : len(y)], y[None])[1].item() * len(y)
    return total / n


def _output(command: list[str], cwd: Path | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout
