"""Subject `time-to-loss`: from a file to a model of known quality, against nanoGPT's documented CPU command."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.measure import Options, Result, interleaved, seconds
from bench.nanogpt import HINT, load_module

OURS, FAST, THEIRS = "groundup quickstart", "groundup train fast", "nanoGPT"
GOALS = {OURS: 0.25, FAST: 0.125}  # of nanoGPT's time
ROUNDS = 3
WINDOW = 64  # characters; nanoGPT's context in this command
MINUTES = 0.4  # of training that suffice for its loss
FAST_SECONDS = 4  # the same for `fast`, which is given prepared data like nanoGPT

# README.md of nanoGPT, "I only have a macbook", with its data preparation left out of the time.
DOCUMENTED = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 "
    "--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
).split()

QUIET = "--evaluate.every_steps 0 --evaluate.sample_tokens 0 --evaluate.tokens 256 --checkpoint.every_steps 0".split()

Losses = dict[str, list[float]]
"""contender -> nats per character, one per round"""


def run(options: Options) -> Result:
    """Complete processes, from the command to the last line printed, and the losses of their checkpoints.

    Losses are over the complete validation split (the last tenth of the text) in windows of 64 characters, measured
    after every round and not timed. All processes are pinned to the same cores. Needs the text.
    """
    assert options.text is not None, "checked before anything is measured"
    losses: Losses = {OURS: [], FAST: []}
    with tempfile.TemporaryDirectory() as temporary, pinned(options.threads):
        folder = Path(temporary)
        groundup("prepare", options.text, "--out", folder / "data", "--tokenizer", "char")
        contenders = {
            OURS: partial(_ours, options.text, folder / "ours", losses[OURS]),
            FAST: partial(_fast, folder / "data", folder / "fast", losses[FAST]),
        }
        if options.nanogpt:
            losses[THEIRS] = []
            checkout = nanogpt_with_data(options.nanogpt, options.text, folder / "nanogpt")
            contenders[THEIRS] = partial(_theirs, checkout, losses[THEIRS])
        rows = interleaved(contenders, options.rounds_or(ROUNDS))
    result = Result("time-to-loss: tinyshakespeare by characters", "s", rows, baseline=THEIRS)
    judge(result, losses)
    if not options.nanogpt:
        result.notes.append(HINT)
    return result


def judge(result: Result, losses: Losses) -> None:
    """Note the worst loss of each, and fail on a broken promise: the loss must be reached in every round."""
    for name, found in losses.items():
        worst = f"{max(found):.4f} nats per character at worst in {len(found)} rounds"
        result.notes.append(f"{name}: {worst}, over the complete validation split in windows of {WINDOW}")
    if THEIRS not in losses:
        return
    for row in result.rows:
        goal, ratio = GOALS.get(row.name), result.ratio(row)
        if goal is None:
            continue
        if not max(losses[row.name]) <= min(losses[THEIRS]):  # a NaN fails
            worst = max(losses[row.name])
            result.failures.append(f"{row.name}: its worst loss, {worst:.4f}, is above {min(losses[THEIRS]):.4f}")
        if ratio is not None and ratio > goal:
            result.failures.append(f"{row.name} took {ratio:.3f} of nanoGPT's time; the goal is {goal}")


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Pin this process and its children to `threads` cores, if the system supports it.

    Each program then chooses its number of threads, and none gets more cores than another.
    """
    if not hasattr(os, "sched_setaffinity"):  # Linux only
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _ours(text: Path, run: Path, losses: list[float]) -> float:
    shutil.rmtree(run, ignore_errors=True)
    words = ["quickstart", str(text), "--tokenizer", "char", "--minutes", str(MINUTES), "--out", str(run)]
    took = seconds(partial(groundup, *words))
    losses.append(_our_loss(run))
    return took


def _fast(data: Path, run: Path, losses: list[float]) -> float:
    shutil.rmtree(run, ignore_errors=True)
    words = ["train", "fast", "--data", data, "--out", run, "--train.max_time", f"{FAST_SECONDS}s", *QUIET]
    took = seconds(partial(groundup, *words))
    losses.append(_our_loss(run))
    return took


def _our_loss(run: Path) -> float:
    return json.loads(groundup("evaluate", run, "--checkpoint", "best", "--window", WINDOW, "--json"))["loss"]


def groundup(*words: object) -> str:
    """Run a groundup command in a new process; returns its output."""
    return _output([sys.executable, "-m", "groundup", *map(str, words)])


def nanogpt_with_data(checkout: Path, source: Path, folder: Path) -> Path:
    """Copy nanoGPT to `folder` and prepare its data from the same file."""
    shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns(".git"))
    data = folder / "data" / "shakespeare_char"
    data.mkdir(parents=True, exist_ok=True)
    text = source.read_text(encoding="utf-8")
    ids = {char: i for i, char in enumerate(sorted(set(text)))}
    tokens = np.array([ids[char] for char in text], dtype=np.uint16)
    cut = int(len(text) * 0.9)
    tokens[:cut].tofile(data / "train.bin")
    tokens[cut:].tofile(data / "val.bin")
    meta = {"vocab_size": len(ids), "stoi": ids, "itos": {i: char for char, i in ids.items()}}
    (data / "meta.pkl").write_bytes(pickle.dumps(meta))  # its train.py reads the vocabulary size from here
    return folder


def _theirs(checkout: Path, losses: list[float]) -> float:
    took = seconds(partial(_output, [sys.executable, "train.py", *DOCUMENTED], cwd=checkout))
    losses.append(their_loss(checkout))
    return took


def their_loss(checkout: Path) -> float:
    """Loss of nanoGPT's checkpoint in nats per character over its complete validation split."""
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
