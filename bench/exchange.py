"""Seconds to import and to export a model of GPT-2's smallest shape: complete commands, and the writing alone.

python -m bench.exchange [--rounds 3] [--json FILE]

The checkpoint has random weights and AdamW's state, 1.5 GB, made in a temporary folder. A command is
timed from the start of Python to its end; an export opens the written model with the program that reads it and
compares logits, which is most of that time. `bare` is a Python that imports torch, and for the exports to `hf` also
transformers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import groundup
from bench.measure import Row, machine, seconds
from groundup.checkpoint import state
from groundup.config.model import ModelConfig
from groundup.config.schema import Config
from groundup.distributed.gather import state_tensors
from groundup.model.gpt import GPT
from groundup.optim.optimizer import build_optimizer
from groundup.tokenizers.registry import choose_tokenizer

SHAPE = ModelConfig(n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50_257)
TARGETS = {"hf": "hf", "gguf": "model.gguf"}  # target -> name of the written file or folder
GROUNDUP = (sys.executable, "-m", "groundup")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.exchange", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args.rounds)
    for row in rows:
        print(f"{row.name:<44}{row.median:>8.2f} s")
    if args.json:
        found = [{"name": row.name, "median": row.median, "values": row.values} for row in rows]
        args.json.write_text(json.dumps({"machine": machine(), "rows": found}, indent=2) + "\n")


def measure(folder: Path, rounds: int) -> list[Row]:
    """Time all commands, interleaved."""
    checkpoint = make(folder / "checkpoint")
    ckpt = make_nanogpt(folder / "ckpt.pt", checkpoint)
    found: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(rounds):
        add("bare: import torch", seconds(partial(python, "import torch")))
        add("bare: import torch and transformers", seconds(partial(python, "import torch, transformers.models.gpt2")))
        for target, name in TARGETS.items():
            out = folder / name
            output: dict[str, Any] = {}
            action = partial(run_export, checkpoint, target, out, output)
            add(f"export --to {target}", seconds(action))
            add(f"export --to {target}, writing alone", output["seconds"])
            if target == "hf":
                add("import of a folder of transformers", seconds(partial(run_import, out, folder / "in")))
            remove(out)
        add("import of nanoGPT's ckpt.pt", seconds(partial(run_import, ckpt, folder / "in")))
    return [Row(name, values) for name, values in found.items()]


def python(code: str) -> None:
    """Run code in a new Python process."""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def run_export(checkpoint: Path, target: str, out: Path, output: dict[str, Any]) -> None:
    """Run `groundup export`; its JSON output is added to `output`."""
    words = [*GROUNDUP, "export", str(checkpoint), "--to", target, "--out", str(out), "--json"]
    output.update(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))


def run_import(source: Path, out: Path) -> None:
    """Run `groundup import` and delete the result."""
    subprocess.run([*GROUNDUP, "import", str(source), "--out", str(out)], check=True, capture_output=True)
    remove(out)


def remove(path: Path) -> None:
    """Delete a file or a folder."""
    (shutil.rmtree if path.is_dir() else Path.unlink)(path)  # type: ignore[operator]


def make(folder: Path) -> Path:
    """Write a checkpoint as a run does."""
    tokenizer = choose_tokenizer("gpt2")
    config = Config(model=SHAPE)
    gpt = GPT(SHAPE).init_weights(torch.Generator().manual_seed(0))
    optimizer = build_optimizer(gpt.named_parameters(), config.optimizer, "fp32")
    for parameter in gpt.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    progress = {"step": 1, "tokens": 8192, "best": {"loss": None}}
    write: Callable[..., None] = state.save
    write(folder, state.Snapshot(config, tokenizer, progress, state_tensors(gpt, optimizer)))  # type: ignore[arg-type]
    return folder


def make_nanogpt(path: Path, checkpoint: Path) -> Path:
    """Write the weights of `checkpoint` as nanoGPT's train.py saves a compiled model."""
    model = groundup.load(checkpoint).model
    weights = {f"_orig_mod.transformer.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    weights["_orig_mod.lm_head.weight"] = weights["_orig_mod.transformer.wte.weight"]
    sizes = {key: getattr(SHAPE, key) for key in ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")}
    torch.save({"model": weights, "model_args": sizes | {"vocab_size": SHAPE.vocab}}, path)
    return path


if __name__ == "__main__":
    main()
