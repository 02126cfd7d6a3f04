"""`groundup import`: another program's model as a checkpoint."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.cli.parsing import Parser, call_arguments
from groundup.config.presets import DEFAULT, PRESETS
from groundup.interop.import_checks import check
from groundup.ui.format import json_line
from groundup.utils.plural import human_plural

if TYPE_CHECKING:
    from groundup.interop.import_model import Imported


def add_arguments(parser: Parser) -> None:
    parser.epilog = (
        "Sources: hf:OWNER/NAME of the hub, or a folder of transformers, of the architectures gpt2, openai-gpt,\n"
        "nanochat and qwen3; a ckpt.pt of nanoGPT or build-nanogpt; a .bin of llm.c. No code from a file is run.\n\n"
        "  groundup import hf:openai-community/gpt2 --out models/gpt2\n"
        "  groundup import nanoGPT/out/ckpt.pt --out models/mine --tokenizer data/mine\n"
        "  groundup generate models/gpt2 --prompt Once\n"
        "  groundup train --init-from models/gpt2 --data data/mine --out runs/mine"
    )
    parser.option("source SOURCE", "a model of the hub, a folder or a file")
    parser.option("--out DIR", "folder to write, a checkpoint", required=True)
    parser.option(
        "--tokenizer NAME",
        "a tokenizer.json, a folder that holds one or was prepared with it, or a name [the model's own]",
    )
    parser.option("--revision REV", "branch, tag or commit of the hub [main]")
    parser.option("--overwrite", "replace the checkpoint at --out")
    parser.option("--json", "print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Import, and print a summary. Mistakes that can be found without torch are reported before it is loaded."""
    check(args.source, Path(args.out), revision=args.revision, overwrite=args.overwrite)

    from groundup.interop.import_model import import_model

    found = import_model(**call_arguments(args))
    if args.json:
        print(json_line(_as_json(found)))
        return 0
    model = found.model
    commit = f", commit {found.commit}" if found.commit else ""
    print(f"found      {found.kind} in {found.source}{commit}")
    parts = f"{human_plural(model.n_layer, 'layer')}, {human_plural(model.n_head, 'head')}"
    shape = f"{parts}, {model.n_embd} wide, context {model.block_size:,}"
    print(f"model      {shape}: {found.parameters:,} parameters")
    print(f"tokenizer  {found.tokenizer.name}, {found.tokenizer.n_vocab:,} ids")
    for note in found.notes:
        print(f"note       {note}")
    print(f"written to {found.out}")
    out, data = str(found.out), f"data/{found.out.name}"
    for command in (
        ["generate", out, "--prompt", "Once"],
        ["prepare", "TEXTS", "--out", data, "--tokenizer", str(Path(out) / "tokenizer")],
        ["train", "--init-from", out, "--data", data, "--out", f"runs/{found.out.name}", *_batch(model.block_size)],
    ):
        print(f"next: {shlex.join(['groundup', *command])}")
    return 0


def _batch(block_size: int) -> list[str]:
    """Options for a step of complete sequences, where the default preset's tokens per step do not divide into them."""
    tokens = PRESETS[DEFAULT]["train"]["batch_tokens"]
    return ["--train.batch_tokens", str(max(1, tokens // block_size) * block_size)] if tokens % block_size else []


def _as_json(found: Imported) -> dict[str, object]:
    return {
        "out": str(found.out),
        **{key: getattr(found, key) for key in ("source", "commit", "kind", "parameters")},
        "model": found.model.model_dump(),
        "tokenizer": {name: getattr(found.tokenizer, name) for name in ("name", "n_vocab", "fingerprint")},
        "notes": list(found.notes),
    }
