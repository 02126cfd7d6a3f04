"""Seconds to import and to export a model of GPT-2's smallest shape: whole commands, and the writing alone.

python -m bench.exchange [--rounds 3] [--json FILE]

The checkpoint has random weights and AdamW's state, 1.5 GB, made in a temporary folder. A command is
counted from the start of Python to its end; an export opens what it has written with the program that reads it and
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
TARGETS = {"hf": "hf", "gguf": "model.gguf"}  # and what is written
GROUNDUP = (sys.executable, "-m", "groundup")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.exchange", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = measure(Path(place), asked.rounds)
    for row in rows:
        print(f"{row.name:<44}{row.median:>8.2f} s")
    if asked.json:
        found = [{"name": row.name, "median": row.median, "values": row.values} for row in rows]
        asked.json.write_text(json.dumps({"machine": machine(), "rows": found}, indent=2) + "\n")


def measure(place: Path, rounds: int) -> list[Row]:
    """All commands in turn, round by round."""
    checkpoint = make(place / "checkpoint")
    ckpt = make_nanogpt(place / "ckpt.pt", checkpoint)
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(rounds):
        note("bare: import torch", seconds(partial(python, "import torch")))
        note("bare: import torch and transformers", seconds(partial(python, "import torch, transformers.models.gpt2")))
        for target, name in TARGETS.items():
            out = place / name
            output: dict[str, Any] = {}
            action = partial(exported, checkpoint, target, out, output)
            note(f"export --to {target}", seconds(action))
            note(f"export --to {target}, writing alone", output["seconds"])
            if target == "hf":
                note("import of a folder of transformers", seconds(partial(imported, out, place / "in")))
            remove(out)
        note("import of nanoGPT's ckpt.pt", seconds(partial(imported, ckpt, place / "in")))
    return [Row(name, values) for name, values in found.items()]


def python(code: str) -> None:
    """A process of its own."""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def exported(checkpoint: Path, target: str, out: Path, output: dict[str, Any]) -> None:
    """The command; what it prints goes to `output`."""
    words = [*GROUNDUP, "export", str(checkpoint), "--to", target, "--out", str(out), "--json"]
    output.update(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))


def imported(source: Path, out: Path) -> None:
    """Run the command, and delete what it wrote."""
    subprocess.run([*GROUNDUP, "import", str(source), "--out", str(out)], check=True, capture_output=True)
    remove(out)


def remove(path: Path) -> None:
    """A file or a folder."""
    (shutil.rmtree if path.is_dir() else Path.unlink)(path)  # type: ignore[operator]


def make(folder: Path) -> Path:
    """A checkpoint as a run leaves one."""
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
