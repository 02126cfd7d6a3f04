"""Rewrite the golden losses: `python tests/golden/make.py`. Only after an intended change of training.

Each file has the losses of 100 steps of a preset's parts at toy size, and the torch version that computed them.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import groundup
from groundup.checkpoint.log import read_log
from groundup.checkpoint.run_folder import RunFolder

HERE = Path(__file__).parent
STEPS = 100
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 32, "vocab_multiple": 8}
WORDS = "the a small model reads words and learns what comes next after some time it writes lines of its own"

# Faster settings, to show something in 100 steps. Dropout is off, since its noise differs between CPUs.
ADAMW = {
    "model": {"dropout": 0.0},
    "optimizer": {"learning_rate": 3e-3},
    "schedule": {"warmup_steps": 10},
}
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "gpt1": {**ADAMW, "train": {"epochs": None}},
    "gpt2": ADAMW,
    "gpt3-small": {**ADAMW, "train": {"max_tokens": None}},
    "modern": {},
    "nanochat": {},
}


def prepare(folder: Path) -> Path:
    """Prepare a small deterministic text as byte tokens."""
    rng = random.Random(0)
    lines = [" ".join(rng.choices(WORDS.split(), k=6)).capitalize() + "." for _ in range(400)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    groundup.prepare([folder / "text.txt"], folder / "data", tokenizer="byte")
    return folder / "data"


def losses(preset: str, data: Path, run: Path, **sections: dict[str, Any]) -> list[float]:
    """Losses of each step in nats per token; `sections` change the config further."""
    settings: dict[str, dict[str, Any]] = {
        "model": SHAPE,
        "train": {"max_steps": STEPS, "batch_tokens": 256, "device": "cpu", "precision": "fp32", "threads": 1},
        "evaluate": {"every_steps": 0, "tokens": 64, "sample_every_steps": 0, "sample_tokens": 0},
        "checkpoint": {"every_steps": 0, "save_best": False},
    }
    for changes in (CHANGES[preset], sections):
        for section, values in changes.items():
            settings[section] = {**settings.get(section, {}), **values}
    groundup.train(data, run, preset=preset, overrides=settings)
    return [record["loss"] for record in read_log(RunFolder(run).log) if record["event"] == "step"]


def main() -> None:
    """Compute and write all golden losses."""
    with TemporaryDirectory() as name:
        data = prepare(Path(name))
        for preset in CHANGES:
            found = losses(preset, data, Path(name) / preset)
            golden = {"torch": torch.__version__, "losses": [round(loss, 6) for loss in found]}
            (HERE / f"{preset}.json").write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
            sys.stdout.write(f"{preset}: {found[0]:.4f} to {found[-1]:.4f}\n")


if __name__ == "__main__":
    main()
